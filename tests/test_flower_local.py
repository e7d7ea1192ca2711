"""A study over real links and nodes of Flower: the weights of 'hilum study', whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from flower_processes import TWO, wait_for, write_study
from hilum.errors import RunError
from hilum.study.directory import RunDirectory
from hilum.study.flower.app import app_study
from hilum.study.flower.handout import FEDERATION, HAND_OUT
from hilum.study.flower.local import LocalFederation, follow, run_local
from hilum.study.flower.processes import Started
from hilum.study.spec import load_study
from hilum.study.watch import read_progress
from hilum.training.state import fingerprint, load_state
from hospitals import hilum

pytestmark = [pytest.mark.slow, pytest.mark.flower]

PATIENCE = 600  # s; on a busy machine an exchange takes minutes
LIMIT = 180.0  # s for a task; on two cores with other work, an exchange with two sites took more than 90
SCAFFOLD = f"""\
{TWO}arms: [scaffold]
federations:
  scaffold: {{strategy: scaffold, head: shared}}
"""
LENIENT = SCAFFOLD.replace("shared}", "shared, quorum: 0.5}")
MODEL = "seed_0/scaffold/scaffold"
ROGUE = """\
from dataclasses import replace
import torch
from hilum.federation.worker import Worker
from hilum.study.flower import client, executor

honest, honestly = Worker.do, client.do

def do(self, task):
    reply = honest(self, task)
    if task.kind != "train":
        return reply
    state = dict(reply.state)
    name = next(n for n, t in state.items() if t.dim() > 1)
    if task.round == 1:
        state[name] = torch.full_like(state[name], float("nan"))
    if task.round == 2:
        state[name] = state[name][:1]
    return replace(reply, state=state, round=1 if task.round == 3 else task.round)

def of_another(study, file, asked, entry):
    envelope = honestly(study, file, asked, entry)
    return replace(envelope, identity=replace(envelope.identity, study="other")) if asked.round == 4 else envelope

Worker.do, client.do = do, of_another
executor.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals, and what 'hilum study' makes of all and of two of them; not to be changed."""
    folder = tmp_path_factory.mktemp("hospitals")
    write_study(folder)
    (folder / "two.yaml").write_text(SCAFFOLD)
    for name, run in (("study", "plain"), ("two", "plain_two")):
        outcome = hilum("study", folder / f"{name}.yaml", "--out", folder / run)
        assert outcome.status == 0, outcome.err
    return folder


def weights(run: Path) -> str:
    return fingerprint(load_state(run / "models" / MODEL / "model.safetensors"))


@contextmanager
def begun(
    folder: Path, run: Path, text: str = SCAFFOLD, database: str | None = None, **config: float
) -> Iterator[tuple[LocalFederation, str]]:
    """A federation that trains, and the id of its run; all of its processes end with it."""
    file = folder / f"{run.name}.yaml"
    file.write_text(text)
    study = load_study(file)
    shared = app_study(study, list(study.sites), "float32", 1)
    with LocalFederation.open(study, shared, list(study.sites), RunDirectory(run), config) as federation:
        federation.database = database
        federation.start()
        yield federation, federation.submit()


def in_round(run: Path, round_: int, kind: str = "train") -> Callable[[], bool]:
    def there() -> bool:
        facts = read_progress(run) or {}
        return facts.get("task") == kind and facts["task_round"] == round_

    return there


def children(started: Started, word: str) -> list[int]:
    """Return the processes that a process has started and whose command holds a word."""
    found = []
    for number in started.family():
        with suppress(OSError):
            if word in Path(f"/proc/{number}/cmdline").read_text():
                found.append(number)
    return found


def kill_child(started: Started, word: str) -> None:
    assert wait_for(lambda: bool(children(started, word)), PATIENCE)
    for number in children(started, word):
        os.kill(number, signal.SIGKILL)


def log_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_fedavg_scaffold_and_a_secure_sum_are_those_of_one_process_to_the_bit(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    run_local(load_study(folder / "study.yaml"), tmp_path / "run", echo=said.append)
    own, plain = ([{**r, "seconds": 0} for r in log_of(run)] for run in (tmp_path / "run", folder / "plain"))
    assert own == plain
    for kind in ("models", "predictions", "maps"):
        assert contents(tmp_path / "run" / kind) == contents(folder / "plain" / kind)
    assert any("waiting" in line and "north" in line for line in said)
    logs = sorted((tmp_path / "run" / "federation" / "hospitals").glob("*/memory/audit.jsonl"))
    outcome = hilum("federation", "audit", tmp_path / "run", *logs)
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("replies that the server took are those that were sent") == 3
    assert any("s left" in line and "MiB" in line and "validation" in line for line in said)


def test_a_client_process_that_is_killed_is_started_again(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "client"
    with begun(folder, run) as (federation, run_id):
        assert wait_for(in_round(run, 1), PATIENCE)
        kill_child(federation.nodes["north"], "hilum.study.flower.executor")
        follow(federation, run_id, lambda line: None)
    assert weights(run) == weights(folder / "plain_two")


def test_a_node_that_is_killed_comes_back_and_is_used_again(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "node"
    with begun(folder, run) as (federation, _):
        assert wait_for(in_round(run, 2), PATIENCE)
        federation.nodes["south"].signal(signal.SIGKILL)

        def finished() -> bool:
            if not federation.nodes["south"].running:  # as a supervisor does
                federation.start_node("south")
                time.sleep(5)
            return federation.finished()

        assert wait_for(finished, 2 * PATIENCE), read_progress(run)
    assert weights(run) == weights(folder / "plain_two")


@pytest.mark.parametrize("what", ["server app", "link"])
def test_a_run_that_is_killed_goes_on_when_it_is_submitted_again(what: str, folder: Path, tmp_path: Path) -> None:
    run = tmp_path / what.replace(" ", "_")
    with begun(folder, run, database="state.db") as (federation, run_id):
        assert wait_for(in_round(run, 2), PATIENCE)
        assert federation.link is not None
        if what == "link":
            federation.link.signal(signal.SIGKILL)
            federation.link.process.wait()
            federation.start_link()
        else:
            kill_child(federation.link, "flwr-serverapp")
            assert wait_for(lambda: federation.status(run_id).startswith("finished"), PATIENCE)
        follow(federation, federation.submit(), lambda line: None)
    assert [r["round"] for r in log_of(run)] == [1, 2]
    assert weights(run) == weights(folder / "plain_two")


def test_a_straggler_is_not_waited_for_where_a_quorum_is_enough(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "straggler"
    with begun(folder, run, LENIENT, enough=0.5) as (federation, run_id):
        assert wait_for(in_round(run, 1), PATIENCE)
        federation.nodes["south"].signal(signal.SIGSTOP)
        try:
            assert wait_for(in_round(run, 2, HAND_OUT), PATIENCE)
        finally:
            federation.nodes["south"].signal(signal.SIGCONT)
        follow(federation, run_id, lambda line: None)
        assert federation.run.read_json(FEDERATION)["without"] == {MODEL: {}}  # the last weights are for everybody
    assert "not waited for" in log_of(run)[1]["lost"]["south"]
    assert set(log_of(run)[1]["train_loss"]) == {"north"}


def test_a_straggler_beyond_its_time_limit_is_lost_and_the_quorum_goes_on(folder: Path, tmp_path: Path) -> None:
    run, text = tmp_path / "late", LENIENT.replace("rounds: 2", "rounds: 1")
    with begun(folder, run, text, round=LIMIT) as (federation, run_id):
        assert wait_for(in_round(run, 1), PATIENCE)
        federation.nodes["south"].signal(signal.SIGSTOP)  # before its process has even started
        try:
            follow(federation, run_id, lambda line: None)
        finally:
            federation.nodes["south"].signal(signal.SIGCONT)
        without = federation.run.read_json(FEDERATION)["without"][MODEL]
    (record,) = log_of(run)
    assert record["lost"] == without == {"south": f"no reply within {LIMIT:g} s."}
    assert set(record["train_loss"]) == {"north"}


def test_ctrl_c_ends_every_process_and_the_run_goes_on_with_resume(folder: Path, tmp_path: Path) -> None:
    run, file = tmp_path / "stopped", folder / "two.yaml"
    command = [sys.executable, "-m", "hilum", "federation", "local", str(file), "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert wait_for(in_round(run, 2), PATIENCE)
    process.send_signal(signal.SIGINT)
    assert "Stopped" in process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if str(run) in linked(path)]
    assert hilum("federation", "local", file, "--out", run).status == 1
    outcome = hilum("federation", "local", file, "--out", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert weights(run) == weights(folder / "plain_two")


def linked(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def shim(federation: LocalFederation, site: str, lines: str) -> None:
    (federation.layout.hospital(site) / "bin" / "flwr-clientapp").write_text(f"#!/bin/sh\n{lines}\n")


def test_a_site_that_sends_nonsense_is_lost_and_said(folder: Path, tmp_path: Path) -> None:
    run, rogue = tmp_path / "rogue", tmp_path / "rogue.py"
    rogue.write_text(ROGUE)
    text = LENIENT.replace("rounds: 2", "rounds: 4").replace("validate_every: 2", "validate_every: 4")
    with begun(folder, run, text) as (federation, run_id):
        shim(federation, "south", f'exec "{sys.executable}" "{rogue}" "$@"')
        follow(federation, run_id, lambda line: None)
    reasons = [r["lost"]["south"] for r in log_of(run)]
    assert "NaN" in reasons[0]
    assert "of shape" in reasons[1]
    assert "found round 1" in reasons[2]
    assert "another study" in reasons[3]
    assert all(set(r["train_loss"]) == {"north"} for r in log_of(run))


def test_a_site_whose_disk_is_full_is_lost_and_said(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "full"
    with begun(folder, run, LENIENT) as (federation, run_id):
        # No file may grow beyond 8 KiB: what SCAFFOLD lets a site keep is larger.
        command = f'ulimit -f 16; exec "{sys.executable}" -m hilum.study.flower.executor "$@" >/dev/null 2>&1'
        shim(federation, "south", command)
        follow(federation, run_id, lambda line: None)
        without = federation.run.read_json(FEDERATION)["without"][MODEL]
    assert {r["lost"]["south"] for r in log_of(run)} == set(without.values()) == {"its disk is full."}


def test_a_hospital_that_has_not_approved_the_study_stops_the_run_with_a_reason(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "refused"
    with begun(folder, run) as (federation, run_id):
        file = federation.layout.hospital("north") / "hospital.yaml"
        file.write_text(file.read_text().partition("approved:")[0] + "approved: []\n")
        with pytest.raises(RunError, match="north: it has not approved"):
            follow(federation, run_id, lambda line: None)
