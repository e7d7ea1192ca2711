"""The app in Flower's own simulation: the weights of 'hilum study'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")
pytest.importorskip("ray")

from flower_processes import SITES, wait_for, write_study
from hilum.errors import RunError
from hilum.study.directory import RunDirectory
from hilum.study.flower.app import app_study
from hilum.study.flower.commands import LINK_NAME, LOOPBACK
from hilum.study.flower.local import LocalFederation
from hilum.study.flower.processes import Started, call, environment, free_port, start, wait_for_port
from hilum.study.spec import load_study
from hilum.training.state import fingerprint, load_state
from hospitals import hilum

pytestmark = [pytest.mark.slow, pytest.mark.flower]

SECONDS = 900
NODES = f"num-supernodes={len(SITES)} client-resources-num-cpus=1 init-args-num-cpus=2"


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[LocalFederation]:
    """Folders of a federation, nothing of which is started."""
    study = load_study(write_study(tmp_path))
    shared = app_study(study, SITES, "float32", 1)
    with LocalFederation.open(study, shared, SITES, RunDirectory(tmp_path / "run"), {}) as opened:
        yield opened


def simulator(folder: Path) -> Started:
    """Start a link that simulates, as 'flwr run APP local' does."""
    port = free_port()
    (folder / "flower").mkdir(exist_ok=True)
    connection = f'[superlink]\ndefault = "{LINK_NAME}"\n[superlink.{LINK_NAME}]\n'
    (folder / "flower" / "config.toml").write_text(f'{connection}address = "{LOOPBACK}:{port}"\ninsecure = true\n')
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    link = start("simulator", [*command, "--host", LOOPBACK, "--port", str(port)], folder, environment(folder))
    wait_for_port(link, port)
    return link


def test_simulated_nodes_train_the_weights_of_hilum_study(federation: LocalFederation, tmp_path: Path) -> None:
    assert hilum("study", tmp_path / "study.yaml", "--out", tmp_path / "plain").status == 0
    server = federation.layout.server
    link = simulator(server)
    try:
        call(["flwr", "run", "app", LINK_NAME, "--federation-config", NODES], server, environment(server))
        assert wait_for(lambda: federation.finished() or not link.running, SECONDS), link.log.read_text()
    except RunError as error:
        pytest.fail(f"{error} {link.log.read_text()}")
    finally:
        link.stop()
    for arm in ("federated", "scaffold", "masked"):
        own, plain = (
            load_state(tmp_path / run / "models" / "seed_0" / arm / arm / "model.safetensors")
            for run in ("run", "plain")
        )
        assert fingerprint(own) == fingerprint(plain)
