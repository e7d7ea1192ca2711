"""Link and nodes of tests, and a study of three tiny hospitals that they train."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hilum.study.directory import RunDirectory
from hilum.study.flower.commands import LOOPBACK, Address
from hilum.study.flower.folders import Layout, write_keys, write_server
from hilum.study.flower.folders import write_hospital as write_folder
from hilum.study.flower.local import LocalFederation
from hilum.study.flower.processes import Started, environment, free_port, start, wait_for_port
from hospitals import write_hospital

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
SITES = ("north", "south", "west")
TRAINING = """\
seeds: [0]
images: {size: 32, cache: cache, workers: 1}
model: {backbone: {name: residual, widths: [4, 6, 8]}}
training: {rounds: 2, updates: 2, batch: 4, threads: 1, precision: float32, validate_every: 2}
"""
TWO_SITES = """\
findings: [Nodule, Effusion]
sites:
  north: {database: folder, root: north}
  south: {database: folder, root: south}
"""
TWO = f"name: two\n{TWO_SITES}{TRAINING}"
STUDY = f"""\
name: tiny
{TWO_SITES}  west: {{database: folder, root: west}}
{TRAINING}evaluation: {{resamples: 100, gallery: 2}}
arms: [federated, scaffold, masked]
federations:
  scaffold: {{strategy: scaffold}}
  masked: {{secure_sum: true, quorum: 1, participation: 1}}
"""


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Write three hospitals and a study of them."""
    write_hospital(folder / "north", 32)
    write_hospital(folder / "south", 32, ("Nodule",))
    write_hospital(folder / "west", 24)
    study = folder / "study.yaml"
    study.write_text(text, encoding="utf-8")
    return study


@contextmanager
def empty_federation(
    folder: Path, public: Address | None = None, sites: tuple[str, ...] = SITES
) -> Iterator[LocalFederation]:
    """A federation of keys and scripts without a study; all of its processes end with it."""
    link = Address(LOOPBACK, free_port())
    layout = Layout(folder, sites, public or link, link)
    write_keys(layout)
    write_server(layout)
    for site in sites:
        write_folder(layout, None, site)
    federation = LocalFederation(layout, RunDirectory(folder / "run"), {site: free_port() for site in sites})
    try:
        yield federation
    finally:
        federation.stop()


def start_proxy(server: Path, port: int) -> Started:
    """Start nginx with the configuration that 'init' has written into the server's folder."""
    places = [f"{kind}_temp_path {server}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi")]
    lines = ["daemon off;", "user root;" if Path("/root").is_dir() else "", f"pid {server}/nginx.pid;", "events {}"]
    lines += ["http {", f"access_log {server}/access.log;", f"client_body_temp_path {server}/body;", *places]
    lines += [f"include {server}/nginx.conf;", "}"]
    (server / "proxy.conf").write_text("\n".join(lines))
    command = [str(NGINX), "-e", f"{server}/error.log", "-p", str(server), "-c", f"{server}/proxy.conf"]
    started = start("proxy", command, server, environment(server))
    wait_for_port(started, port)
    return started


def wait_for(what: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait until something holds; tell whether it does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.2)
    return what()
