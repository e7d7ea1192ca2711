"""A run killed at any moment resumes to a bit-identical result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hospitals
from hilum.errors import RunError
from hilum.federation import aggregation
from hilum.federation.audit import verified
from hilum.study import arms, run, spec
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.hospitals import load_sites, training_sites
from hilum.study.watch import Watch

pytestmark = pytest.mark.usefixtures("unmeasured")

COMMAND = [sys.executable, "-c", "from hilum.cli import main; main()"]
SECONDS = 300
STOPPED = "hilum: Stopped. What was computed is kept: repeat the command to go on (hilum study: with --resume)."


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=pipe, stderr=pipe, text=True)


def wait_for(pattern: str, folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file appears; fail when the process ends before."""
    until = time.monotonic() + SECONDS
    while next(iter(folder.glob(pattern)), None) is None:
        assert process.poll() is None, f"ended before {pattern}: {process.communicate()}"
        assert time.monotonic() < until, f"no {pattern}"
        time.sleep(0.001)


def kept(root: Path) -> dict[str, Any]:
    """Return everything that a result is: files by their bytes, the log without its times."""
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for kind in ("models", "rounds", "predictions", "splits", "labels", "boxes", "gallery")
        for path in sorted((root / kind).rglob("*"))
        if path.is_file()
    }
    assert any(name.startswith("models") for name in files)
    for path in sorted((root / "maps").rglob("*.npz")):
        with np.load(path) as stored:
            files |= {f"{path.relative_to(root)}:{name}": stored[name].tobytes() for name in stored}
    log = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return {
        **files,
        "metrics.json": (root / "metrics.json").read_bytes(),
        "sites.json": (root / "sites.json").read_bytes(),
        "metrics.jsonl": [{k: v for k, v in line.items() if k != "seconds"} for line in log],
    }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_run_stopped_three_times_resumes_to_the_same_bytes(tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Killed while it caches, Ctrl-C after a first round, killed while it predicts; then let go on."""
    root, cache = tmp_path / "run", tmp_path / "cache"
    arguments = ("study", tiny_study, "--out", root, "--set", f"images.cache={cache}")
    moments = {
        "cache/*/index.sqlite": signal.SIGKILL,
        "run/rounds/seed_0/pooled/pooled/round_0001": signal.SIGINT,
        "run/predictions/seed_0/pooled/pooled/north.csv": signal.SIGKILL,
    }
    for pattern, stop in moments.items():
        process = start(*arguments, *(["--resume"] if (root / "run.json").exists() else []))
        wait_for(pattern, tmp_path, process)
        process.send_signal(stop)
        out, err = process.communicate(timeout=SECONDS)
        if stop == signal.SIGINT:
            assert (process.returncode, out) == (130, "")
            assert [line for line in err.splitlines() if not line.startswith("training:")] == [STOPPED]
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (root / "metrics.json").exists()
    outcome = hospitals.hilum(*arguments, "--resume")
    assert outcome.status == 0, outcome.err
    assert_same(kept(root), kept(tiny_run))
    assert not list(root.rglob(".*.tmp"))
    assert json.loads((root / "run.json").read_text())["finished"]


FEDERATIONS = {
    "scaffold": {"strategy": "scaffold"},
    "iil": {"strategy": "iil", "normalization": "averaged"},
    "few": {"strategy": "ditto", "participation": 0.5, "patience": 1},
    "regions": {"topology": {"name": "hierarchy", "regions": {"x": ["north"], "y": ["south"]}, "region_rounds": 2}},
    "gossip": {"topology": {"name": "gossip"}},
}


def federations(tiny_study: Path, root: Path, *arms: str) -> list[str | Path]:
    """The command that runs a study of federations that keep something at the server or at the sites."""
    values = {
        "federations": json.dumps(FEDERATIONS),
        "arms": json.dumps(arms or [*FEDERATIONS]),
        "seeds": "[0]",
        "training.rounds": "3",
        "evaluation.flip": "false",
    }
    return ["study", tiny_study, "--out", root, *(part for k, v in values.items() for part in ("--set", f"{k}={v}"))]


def killed_after(seconds: float, command: list[str | Path]) -> bool:
    """Run a command and kill it after so many seconds; tell whether it still ran then."""
    process = start(*command)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def go_on(command: list[str | Path], root: Path) -> dict[str, Any]:
    """Let a run go on to its end; return what it is."""
    outcome = hospitals.hilum(*command, *(["--resume"] if (root / "run.json").exists() else []))
    assert outcome.status == 0, outcome.err
    return kept(root)


def test_federations_killed_at_two_moments_of_one_run_resume_to_the_same_bytes(
    tiny_study: Path, tmp_path: Path
) -> None:
    """Where a site has trained and the server has not heard of it, and after a first round."""
    root, arms = tmp_path / "run", ("scaffold", "regions")
    command = federations(tiny_study, root, *arms)
    for pattern in ("scaffold/scaffold/site_north/round_00002_*.safetensors", "regions/regions/round_0001"):
        process = start(*command, *(["--resume"] if root.exists() else []))
        wait_for(f"rounds/seed_0/{pattern}", root, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    whole = tmp_path / "whole"
    assert_same(go_on(command, root), go_on(federations(tiny_study, whole, *arms), whole))


@pytest.mark.slow
def test_federations_killed_at_twenty_random_moments_resume_to_the_same_bytes(tiny_study: Path, tmp_path: Path) -> None:
    """Further moments are drawn in place of those at which the run had ended already."""
    whole, started = tmp_path / "whole", time.monotonic()
    expected, seconds = go_on(federations(tiny_study, whole), whole), time.monotonic() - started
    moments, killed = iter(np.random.default_rng(0).uniform(0.2, 0.95, 100) * seconds), 0
    while killed < 20:
        root = tmp_path / str(killed)
        command = federations(tiny_study, root)
        killed += killed_after(float(next(moments)), command)
        assert_same(go_on(command, root), expected)
        shutil.rmtree(root)


@pytest.mark.parametrize("policy", ["normalization=site", "normalization=recalibrated", "head=site"])
def test_every_file_of_a_training_may_be_the_last(
    policy: str, tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that dies before its k-th file is in place ends, for every k, as one that never died."""
    study = spec.load_study(tiny_study, ["federation.head=shared", f"federation.{policy}"])
    sites = training_sites(load_sites(study, tiny_study.parent / "cache"))
    key = ModelKey(0, "federated", "federated")
    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)

    def train(root: Path) -> dict[str, Any]:
        arms.train_model(study, key, sites, RunDirectory(root), "float32", Watch(root, 1, study.training.rounds))
        changing = ("metrics.jsonl", "audit.jsonl", "progress.json")
        files = [path for path in root.rglob("[!.]*") if path.is_file() and path.name not in changing]
        log = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
        rounds = [(line["round"], line["train_loss"], line["validation_loss"]) for line in log]
        verified(root / "audit.jsonl")
        return {"log": rounds, **{str(path.relative_to(root)): path.read_bytes() for path in files}}

    root, died = tmp_path / "whole", []
    RunDirectory(root).write_json("run.json", {"machine": {"device": "cpu"}})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: died.append(shutil.copytree(root, tmp_path / str(len(died)))))
        whole = train(root)
    assert ("site_heads" in str(whole.keys())) == (policy == "head=site")
    assert len(died) >= 7
    for left in died:
        RunDirectory(left).remove_unfinished()
        assert_same(train(left), whole)


def test_a_run_is_not_overwritten_and_not_mixed(tiny_study: Path, tiny_run: Path) -> None:
    study = spec.load_study(tiny_study)
    with pytest.raises(RunError, match="--resume"):
        run.run_study(study, tiny_run)
    other = spec.load_study(tiny_study, ["training.rounds=3", "seeds=[0]"])
    with pytest.raises(RunError, match="other values in: seeds, training"):
        run.run_study(other, tiny_run, resume=True)


@pytest.mark.usefixtures("unevaluated")
def test_changed_images_are_not_mixed_into_a_run(tmp_path: Path) -> None:
    study = spec.load_study(hospitals.write_study(tmp_path), ["arms=[federated]", "seeds=[0]", "training.rounds=1"])
    run.run_study(study, tmp_path / "run")
    shutil.copy(tmp_path / "north/images/north00.png", tmp_path / "north/images/north01.png")
    with pytest.raises(RunError, match="some have changed"):
        run.run_study(study, tmp_path / "run", resume=True)


def test_a_finished_run_resumes_to_itself(tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    assert hospitals.hilum("study", tiny_study, "--out", copy, "--resume").status == 0
    assert_same(kept(copy), kept(tiny_run))
