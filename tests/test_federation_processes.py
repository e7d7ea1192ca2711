"""Sites in processes: the same result as in one, and what becomes of a process that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hilum.errors import DataError, HilumError, RunError, TrainingError
from hilum.federation.messages import LabelCounts, Lost, Reply, Task
from hilum.federation.runtimes.base import Waiting
from hilum.federation.runtimes.in_process import Presence
from hilum.federation.runtimes.processes import Processes
from hilum.study.run import run_study
from hilum.study.spec import load_study
from hilum.training.state import fingerprint
from hospitals import write_hospital, write_study

COUNTS = LabelCounts(1, np.array([1]), np.array([1]))


@dataclass(frozen=True)
class Puppet:
    """A worker that does what the kind of the task says, in place of learning."""

    name: str

    def do(self, task: Task) -> Reply:
        if task.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.kind == "fail":
            raise TrainingError(f"Expected a finite loss at '{self.name}'.")
        time.sleep(0.02 * int(task.state["wait"]))
        told = {"pid": torch.tensor(os.getpid()), "half": task.state["half"] + 1}
        return Reply(self.name, task.round, told, COUNTS)


def puppets() -> list[Any]:
    return [Puppet(name) for name in "abcdef"]


def nobody() -> list[Any]:
    raise DataError("Expected images; found none.")


def task(kind: str = "do", wait: int = 0) -> Task:
    return Task(kind, 3, {"wait": torch.tensor(wait), "half": torch.tensor(0.5, dtype=torch.bfloat16)})


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    with Processes(puppets, list("fedcba"), 2, {"f": Presence(first=2)}) as runtime:
        yield runtime


def test_replies_come_sorted_from_both_processes(two: Processes) -> None:
    replies = list(two.exchange({name: task(wait=9 - k) for k, name in enumerate("fedcba")}))
    assert [reply.site for reply in replies] == list("abcdef")
    states = [reply.state for reply in replies if isinstance(reply, Reply)]
    assert len({int(state["pid"]) for state in states}) == 2
    assert all(state["half"].dtype == torch.bfloat16 and float(state["half"]) == 1.5 for state in states)


def test_sites_are_there_as_in_one_process(two: Processes) -> None:
    assert two.sites(1) == list("abcde")
    assert two.sites(2) == list("abcdef")


def test_who_watches_hears_who_has_answered(two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Waiting] = []
    monkeypatch.setattr(two, "tell", heard.append)
    list(two.exchange({"a": task(), "b": task(), "c": task(wait=9)}))
    assert heard[0] == Waiting("do", 3, (), ("a", "b", "c"))
    assert heard[-1] == Waiting("do", 3, ("a", "b", "c"), ())
    assert [len(waiting.done) for waiting in heard] == sorted(len(waiting.done) for waiting in heard)
    assert all(sorted(waiting.done + waiting.waiting) == ["a", "b", "c"] for waiting in heard)


def test_an_error_of_a_site_costs_that_site(two: Processes) -> None:
    ok, failed = two.exchange({"a": task(), "b": task("fail")})
    assert isinstance(ok, Reply)
    assert isinstance(failed, Lost)
    assert isinstance(failed.error, TrainingError)
    assert str(failed.error) == failed.reason == "Expected a finite loss at 'b'."


def test_a_killed_process_is_one_clear_error_and_is_replaced(two: Processes) -> None:
    a, b, c = two.exchange({"a": task(), "b": task("die"), "c": task()})
    assert isinstance(a, Reply)
    assert isinstance(c, Reply)
    assert isinstance(b, Lost)
    assert isinstance(b.error, RunError)
    assert "the process that trains 'b'; it ended with signal 9" in b.reason
    assert "--resume" in b.reason
    assert [reply.site for reply in two.exchange({name: task() for name in "abc"})] == list("abc")


def test_sites_that_cannot_be_made_are_an_error() -> None:
    with Processes(nobody, ["a"], 4) as runtime:
        assert runtime.processes == 1
        with pytest.raises(HilumError, match="Expected images; found none"):
            list(runtime.exchange({"a": task()}))


def test_the_processes_end_with_the_context() -> None:
    with Processes(puppets, ["a"], 1) as runtime:
        list(runtime.exchange({"a": task()}))
        process = runtime.children[0].process
        assert process.is_alive()
    assert not process.is_alive()


SPEC = "{strategy: scaffold, normalization: site, compression: {name: top_k, share: 0.2}, shared: {database: folder, root: public, share: 0.2}, processes: %d}"  # noqa: E501


def alive_in(group: int) -> list[str]:
    """Names of the processes of a group that have not ended."""
    stats = (path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/stat") if path.exists())
    fields = ((name, rest.split()) for name, _, rest in (stat.rpartition(")") for stat in stats))
    return [name for name, (state, _, of, *_) in fields if int(of) == group and state != "Z"]


def records(root: Path, arm: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "arm", "model")} for r in lines if r["arm"] == arm]


@pytest.mark.usefixtures("unevaluated")
def test_a_study_gives_the_same_weights_with_one_process_and_two(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_hospital(tmp_path / "public", 40)
    federations = f"federations={{one: {SPEC % 1}, two: {SPEC % 2}}}"
    root = run_study(load_study(study, [federations, "arms=[one, two]", "seeds=[0]"]), tmp_path / "run").root
    one, two = root / "models/seed_0/one/one", root / "models/seed_0/two/two"
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in two.glob("*.safetensors"))
    assert {"model.safetensors", "site_north.safetensors", "site_south.safetensors"} <= set(names)
    for name in names:
        assert fingerprint(load_file(one / name)) == fingerprint(load_file(two / name)), name
    assert records(root, "one") == records(root, "two")


@pytest.mark.usefixtures("unevaluated")
def test_ctrl_c_ends_all_processes_and_the_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    options = ["arms=[federated]", "seeds=[0]", "training.rounds=8", "federation.processes=2"]
    command = [sys.executable, "-m", "hilum", "study", study, "--out", tmp_path / "run"]
    command += [part for option in options for part in ("--set", option)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log, until = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 240
    while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < until:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Traceback" not in out + err
    until = time.monotonic() + 20
    while alive_in(running.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive_in(running.pid) == []
    alone = load_study(study, [*options, "federation.processes=1"])
    run_study(alone, tmp_path / "run", resume=True)  # as it is told where a process died
    run_study(alone, tmp_path / "whole")
    path = "models/seed_0/federated/federated/model.safetensors"
    assert fingerprint(load_file(tmp_path / "run" / path)) == fingerprint(load_file(tmp_path / "whole" / path))
    assert len(records(tmp_path / "run", "federated")) == 8
