"""The server's end of the Flower app: the round loop over the sites behind a SuperLink, into a run directory."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context  # type: ignore[import-not-found, unused-ignore]
from flwr.serverapp import Grid, ServerApp  # type: ignore[import-not-found, unused-ignore]
from flwr.superlink.grid import InMemoryGrid  # type: ignore[import-not-found, unused-ignore]

from hilum.errors import RunError
from hilum.federation.messages import ServerState
from hilum.federation.runtimes.flower import FlowerRuntime, Limits, Nodes
from hilum.federation.runtimes.flower_records import Identity
from hilum.study.approval import approval, study_digest
from hilum.study.arms import initial_model, is_trained, model_keys, require_confounders, run_rounds, write_model
from hilum.study.directory import ModelKey, RunDirectory, now
from hilum.study.federations import federation_spec, presence_of
from hilum.study.flower.app import DONOR, server_study
from hilum.study.flower.handout import FEDERATION, classes, describe_server, hand_out
from hilum.study.hospitals import require_both_classes
from hilum.study.spec import Study, parse_study, read_mapping
from hilum.study.watch import Watch
from hilum.training.state import fingerprint, load_state


def server_app(study_file: Path) -> ServerApp:
    """Return the app that runs the study of ``study_file`` beside a SuperLink."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        study = parse_study(read_mapping(study_file), str(study_file))
        serve(study, grid, context.run_config)

    return app


def serve(study: Study, grid: Grid, config: Mapping[str, Any]) -> None:
    """Run or resume a study over the nodes of a grid, into the directory ``out`` of the app's configuration.

    ``sites``: the names of the hospitals, with commas. Raises ``TrainingError`` where fewer answer than the quorum
    asks for, and ``RunError`` where ``out`` holds another study. Where another process is at work in ``out``, this
    waits until it has ended.
    """
    run = RunDirectory(Path(str(config["out"])))
    with alone(run):
        _serve(study, grid, config, run)


def _serve(study: Study, grid: Grid, config: Mapping[str, Any], run: RunDirectory) -> None:
    sites = sorted(str(config["sites"]).split(","))
    run_id = begin(study, run, sites)
    nodes = Nodes(grid, limits_of(config), named=not isinstance(grid, InMemoryGrid))  # that of a simulation
    keys = list(model_keys(study, []))
    with Watch(run.root, len(keys), study.training.rounds) as watch:
        for key in keys:
            if not is_trained(run, key):
                identity = Identity(study_digest(study), key.path.as_posix(), run_id)
                train(study, key, run, nodes, sites, identity, watch)
            watch.model_done()
    note(run, finished=now())


@contextmanager
def alone(run: RunDirectory) -> Iterator[None]:
    """Keep other processes out of a run's directory until this one has ended, however it ends."""
    run.root.mkdir(parents=True, exist_ok=True)
    folder = os.open(run.root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def begin(study: Study, run: RunDirectory, sites: Sequence[str]) -> str:
    """Write what the run is, or find it there; return its id, under which the sites keep what they keep."""
    donor = run.root / DONOR
    same = {
        "study": study_digest(study),
        "sites": list(sites),
        "donor": fingerprint(load_state(donor)) if donor.is_file() else None,
    }
    if (run.root / FEDERATION).is_file():
        facts = run.read_json(FEDERATION)
        if {name: facts.get(name) for name in same} != same:
            raise RunError(
                f"Expected the study, sites and donor that {run.root} was begun with; found others. Move it away to "
                "begin anew."
            )
        run.remove_unfinished()
        return str(facts["run"])
    run_id = secrets.token_hex(8)
    facts = {"schema": 1, "run": run_id, "approval": approval(study), "started": now(), "finished": None}
    run.write_json(FEDERATION, facts | same)
    return run_id


def note(run: RunDirectory, **facts: Any) -> None:
    """Write facts of the run into ``FEDERATION``."""
    run.write_json(FEDERATION, run.read_json(FEDERATION) | facts)


def train(
    study: Study,
    key: ModelKey,
    run: RunDirectory,
    nodes: Nodes,
    sites: Sequence[str],
    identity: Identity,
    watch: Watch,
) -> None:
    """Train one model, from its last checkpoint if there is one, and write its final weights."""
    spec = federation_spec(study, key.arm)
    runtime = FlowerRuntime(nodes, presence_of(spec, sites), identity, watch.waits)
    model = initial_model(server_study(study, run.root), key.seed)
    server = run_rounds(
        study, key, sites, model, runtime, run, watch, partial(require_learnable, study, sites), identity.run
    )
    lost = hand_out(server, runtime, spec.quorum)
    note(run, without={**run.read_json(FEDERATION).get("without", {}), identity.model: lost})
    describe_server(run, study, server)
    write_model(run.model(key), key, server)


def require_learnable(study: Study, sites: Sequence[str], server: ServerState) -> None:
    """Refuse labels that cannot teach, as 'hilum study' does (``StudyError``).

    That is a finding that all sites together hold one class of, or a neck for which too few images show any. Where a
    site joins late, the others have trained before its labels are known: then ``handout`` counts it out.
    """
    if server.round == 0 and server.counts.keys() >= set(sites):
        require_both_classes(study.findings, *classes(server))
        most = max(int(counts.positive.max()) for counts in server.counts.values())
        require_confounders(study, {"federated": most})


def limits_of(config: Mapping[str, Any]) -> Limits:
    """Return the time limits of the app's configuration; ``enough`` 0 waits for all."""
    given = {name: config[name] for name in ("round", "absent", "who", "attempts") if name in config}
    return Limits(**given, enough=float(config.get("enough", 0)) or None)
