"""A study between hospitals on one machine: link and nodes on the loopback, over TLS, with keys."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hilum.errors import RunError
from hilum.federation.messages import ServerState
from hilum.sites.site import Site
from hilum.study.approval import approval
from hilum.study.arms import WEIGHTS, own_file, write_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.flower.app import CONFIG, app_study, federated, write_app, write_donor
from hilum.study.flower.commands import (
    LINK_NAME,
    LOOPBACK,
    Address,
    connection,
    link_command,
    node_command,
    register_command,
    run_command,
)
from hilum.study.flower.folders import (
    Layout,
    own_options,
    write_hospital,
    write_hospital_file,
    write_keys,
    write_server,
)
from hilum.study.flower.handout import FEDERATION
from hilum.study.flower.processes import Started, call, environment, free_port, start, wait_for_port
from hilum.study.hospitals import cache_of
from hilum.study.run import run_study
from hilum.study.spec import Study
from hilum.study.watch import lines, read_progress
from hilum.training.state import load_state, write_atomically

LOOK = 1.0  # s between two looks at the progress
SILENCE = 30.0  # s without news after which Flower is asked whether the run is alive
Echo = Callable[[str], None]


def run_local(
    study: Study, out: Path, resume: bool = False, echo: Echo = print, config: dict[str, float] | None = None
) -> RunDirectory:
    """Run the federated arms of a study into ``out``, trained over link and nodes on this machine.

    Everything in ``out`` is as 'hilum study' writes it, the weights to the bit. Ctrl-C ends all processes; ``resume``
    goes on from the last round. Raises ``StudyError``, ``DataError``, ``RunError`` and ``MissingExtra``.
    """

    def train(
        study: Study, keys: Sequence[ModelKey], sites: Sequence[Site], run: RunDirectory, precision: str, _: object
    ) -> None:
        names = [site.name for site in sites]
        shared = app_study(study, names, precision, torch.get_num_threads())
        with LocalFederation.open(study, shared, names, run, config or {}) as federation:
            if not federation.finished():
                federation.start()
                follow(federation, federation.submit(), echo)
            federation.gather(keys)

    return run_study(federated(study), out.resolve(), resume, train=train)


@dataclass
class LocalFederation:
    """Link and nodes of one machine: what was started.

    ``database``: file in which the link keeps the keys that it lets in; None keeps them as long as it runs.
    """

    layout: Layout
    run: RunDirectory
    node_ports: dict[str, int]
    database: str | None = None
    link: Started | None = None
    nodes: dict[str, Started] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def open(
        cls, study: Study, shared: Study, sites: Sequence[str], run: RunDirectory, config: dict[str, float]
    ) -> Iterator[LocalFederation]:
        """Write keys and folders of ``shared``, the part of ``study`` for hospitals, and end all processes after."""
        address = Address(LOOPBACK, free_port())
        layout = Layout(run.root / "federation", tuple(sorted(sites)), address, address)
        if not (layout.server / "server.key").is_file():
            write_keys(layout)
        names = {"out": str(run.root.resolve()), "sites": ",".join(layout.sites)}
        hospitals = str((layout.root / "hospitals").resolve())
        write_server(layout)
        write_donor(run.root, study)
        write_app(layout.server / "app", shared, {**CONFIG, **config, **names, "hospitals": hospitals})
        for site in layout.sites:
            write_hospital(layout, shared, site)
            write_hospital_file(layout, site, _own(study, site) | {"approved": [approval(shared)]})
        federation = cls(layout, run, {site: free_port() for site in layout.sites})
        with ExitStack() as stack:
            stack.callback(federation.stop)
            yield federation

    def start(self) -> None:
        """Start the link, let the keys in, and start the nodes."""
        self.start_link()
        for site in self.layout.sites:
            self.register(site)
        for site in self.layout.sites:
            self.start_node(site)

    def start_link(self) -> None:
        """Start the link and wait until it listens."""
        server, address = self.layout.server, self.layout.link
        certificate = str((server / "ca.crt").resolve())
        write_atomically(server / "flower" / "config.toml", connection(address, certificate).encode())
        self.link = start("link", link_command(address, self.database), server, environment(server))
        wait_for_port(self.link, address.port)

    def register(self, site: str) -> None:
        """Let the key of a site in."""
        self._flwr(register_command(f"keys/{site}.pub", site))

    def start_node(self, site: str) -> None:
        """Start the node of a site."""
        folder = self.layout.hospital(site)
        command = node_command(self.layout.public, str((folder / "hospital.yaml").resolve()), self.node_ports[site])
        self.nodes[site] = start("node", command, folder, environment(folder, (folder / "bin").resolve()))

    def submit(self) -> str:
        """Start the run, or go on with it; return Flower's id of it."""
        said = self._flwr([*run_command("app"), "--format", "json"])
        return str(_json(said)["run-id"])

    def status(self, run_id: str) -> str:
        """Return what Flower says of a run, as 'running' or 'finished:failed'."""
        said = self._flwr(["flwr", "list", LINK_NAME, "--run-id", run_id, "--format", "json"])
        return str(_json(said)["runs"][0]["status"])

    def ended(self) -> str:
        """Return which of link and nodes has ended by itself, or nothing."""
        processes = [("the link", self.link), *((f"the node of '{site}'", node) for site, node in self.nodes.items())]
        return next((name for name, process in processes if process is not None and not process.running), "")

    def finished(self) -> bool:
        """Tell whether the server has written every model."""
        facts = self.run.root / FEDERATION
        return facts.is_file() and bool(self.run.read_json(FEDERATION)["finished"])

    def memory(self, site: str) -> RunDirectory:
        """Return the run directory that a hospital holds."""
        return RunDirectory(self.layout.hospital(site) / "memory" / self.run.read_json(FEDERATION)["run"])

    def gather(self, keys: Sequence[ModelKey]) -> None:
        """Lay what the hospitals keep of the models beside the weights, which one machine alone can do."""
        for key in keys:
            folder = self.run.model(key)
            for site in self.layout.sites:
                own = self.memory(site).model(key) / own_file(site)
                if own.is_file():
                    write_atomically(folder / own.name, own.read_bytes())
            write_model(folder, key, ServerState(0, load_state(folder / WEIGHTS)))

    def stop(self) -> None:
        """End nodes and link."""
        for node in self.nodes.values():
            node.signal(signal.SIGTERM)
        for process in (*self.nodes.values(), self.link):
            if process is not None:
                process.stop()

    def _flwr(self, command: Sequence[str]) -> str:
        return call(command, self.layout.server, environment(self.layout.server))


def follow(federation: LocalFederation, run_id: str, echo: Echo) -> None:
    """Tell how far the run is until it ends; raises ``RunError`` where it fails."""
    began, said, asked = time.time(), ("", ""), time.monotonic()
    while True:
        facts = read_progress(federation.run.root)
        if facts and facts["time"] >= began:
            told, said = said, _tell(facts, said, echo)
            asked = time.monotonic() if told != said else asked
            if facts["error"]:
                raise RunError(
                    f"The run has stopped. {facts['error']} What was computed is kept; add --resume to go on."
                )
        if federation.finished():
            return
        if ended := federation.ended():
            raise RunError(f"Expected {ended} to go on; it has ended. See the logs in {federation.layout.root}.")
        if time.monotonic() - asked > SILENCE:
            asked = time.monotonic()
            status = federation.status(run_id)
            if status.startswith("finished") and status != "finished:completed":
                log = federation.layout.server / "link.log"
                raise RunError(f"Flower says of the run: {status}. See {log}; add --resume to go on.")
        time.sleep(LOOK)


def _tell(facts: dict[str, Any], said: tuple[str, str], echo: Echo) -> tuple[str, str]:
    now = lines(facts)
    for line, before in zip(now, said, strict=True):
        if line and line.partition(" s left")[0] != before.partition(" s left")[0]:
            echo(line)
    return now


def _own(study: Study, site: str) -> dict[str, Any]:
    root = str(study.sites[study.source_of(site)].root.resolve())
    return {
        "root": root,
        "memory": "memory",
        "cache": str(cache_of(study).resolve()),
        "options": own_options(study, site),
    }


def _json(said: str) -> dict[str, Any]:
    """Return the JSON object in what 'flwr' says."""
    try:
        return dict(json.loads(said[said.index("{") : said.rindex("}") + 1]))
    except ValueError:
        raise RunError(f"Expected JSON from 'flwr'; it says: {said.strip()[-300:]}") from None
