"""What 'init' writes, done as its READMEs say: link, keys, nodes and run by their scripts, behind nginx."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr")

from flower_processes import NGINX, TWO, start_proxy, wait_for
from hilum.study.directory import RunDirectory
from hilum.study.flower.handout import FEDERATION
from hilum.study.flower.processes import Started, call, free_port, start, wait_for_port
from hilum.study.watch import read_progress
from hilum.training.state import fingerprint, load_state
from hospitals import hilum, write_hospital

pytestmark = [
    pytest.mark.slow,
    pytest.mark.flower,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

PATIENCE = 1200  # s; on a busy machine an exchange takes minutes
STARTS = 4  # of the run: on a machine so busy that heartbeats are late, Flower ends the server app
ENVIRONMENT = os.environ | {"HILUM_VENV": sys.prefix}
MODEL = "models/seed_0/federated/federated/model.safetensors"
STUDY = f"""\
{TWO}evaluation: {{resamples: 100, gallery: 2, erased: 0}}
arms: [federated]
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what was started, the last first."""
    with ExitStack() as opened:
        yield opened


def begin(stack: ExitStack, folder: Path, name: str, *arguments: str) -> Started:
    started = start(name, [f"./start-{name}.sh", *arguments], folder, ENVIRONMENT)
    stack.callback(started.stop)
    return started


def approve(hospital: Path, images: Path) -> None:
    """Do what the README asks of a hospital's administrator."""
    told = hilum("federation", "hash", hospital / "study.yaml")
    assert told.status == 0, told.err
    file = hospital / "hospital.yaml"
    facts = yaml.safe_load(file.read_text()) | {"root": str(images), "approved": [told.out.strip()]}
    file.write_text(yaml.safe_dump(facts))


def predicted(run: Path, out: Path, *options: str) -> bytes:
    outcome = hilum("predict", run, out / "north" / "images", "--out", out / "predictions", *options)
    assert outcome.status == 0, outcome.err
    return (out / "predictions" / "predictions.csv").read_bytes()


def test_the_scripts_train_the_weights_of_hilum_study_and_a_hospital_predicts(tmp_path: Path, stack: ExitStack) -> None:
    write_hospital(tmp_path / "north", 32)
    write_hospital(tmp_path / "south", 32, ("Nodule",))
    study, plain, out = tmp_path / "study.yaml", tmp_path / "plain", tmp_path / "federation"
    study.write_text(STUDY)
    assert hilum("study", study, "--out", plain).status == 0

    public, own = free_port(), free_port()
    where = ["--sites", "north,south", "--host", "localhost", "--port", str(public), "--link-port", str(own)]
    assert hilum("federation", "init", out, "--study", study, *where).status == 0
    server, run = out / "server", RunDirectory(out / "server" / "run")
    stack.callback(start_proxy(server, public).stop)
    started = [begin(stack, server, "link")]
    wait_for_port(started[0], own)
    call(["./register-hospitals.sh"], server, ENVIRONMENT)
    for site in ("north", "south"):
        approve(out / "hospitals" / site, tmp_path / site)
        started.append(begin(stack, out / "hospitals" / site, "node", "--port", str(free_port())))

    def finished() -> bool:
        return (run.root / FEDERATION).is_file() and bool(run.read_json(FEDERATION)["finished"])

    def stopped() -> bool:
        return bool((read_progress(run.root) or {}).get("error")) or not all(one.running for one in started)

    for _ in range(STARTS):
        call(["./start-run.sh"], server, ENVIRONMENT)
        if wait_for(lambda: finished() or stopped(), PATIENCE):
            break
    assert finished(), (read_progress(run.root), [one.log.read_text()[-2000:] for one in started])
    assert fingerprint(load_state(run.root / MODEL)) == fingerprint(load_state(plain / MODEL))
    north = out / "hospitals" / "north" / "memory" / run.read_json(FEDERATION)["run"]
    assert predicted(north, tmp_path, "--site", "north") == predicted(plain, tmp_path, "--site", "north")
    assert predicted(run.root, tmp_path) == predicted(plain, tmp_path)
