"""Shared fixtures; property tests that repeat exactly and do not mind a busy machine; one thread, as tensors are tiny.

Test files import the fixtures below from nowhere: keep them here when this file is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
settings.register_profile("hilum", deadline=None, derandomize=True, database=None)
settings.load_profile("hilum")


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file of three tiny hospitals; not to be changed."""
    from hospitals import write_study

    return write_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_run(tiny_study: Path) -> Iterator[Path]:
    """The finished run directory of ``tiny_study``; not to be changed, or the order of the tests would count."""
    from hospitals import hilum

    run = tiny_study.parent / "run"
    outcome = hilum("study", tiny_study, "--out", run)
    assert outcome.status == 0, outcome.err
    written = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    yield run
    changed = {path for path in run.rglob("*") if written.get(path) != path.stat().st_mtime_ns}
    assert not changed | (written.keys() - set(run.rglob("*"))), changed


@pytest.fixture(scope="session")
def tiny_shift(tiny_study: Path, tiny_run: Path) -> Path:
    """What ``hilum shift`` writes of ``tiny_study``, its run and noise, with 2 epochs; not to be changed."""
    from hilum.shift import a_distance
    from hospitals import hilum

    out = tiny_study.parent / "shift"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(a_distance, "EPOCHS", 2)
        outcome = hilum("shift", tiny_study, "--out", out, "--run", tiny_run, "--epsilon", "2")
    assert outcome.status == 0, outcome.err
    (out.parent / "told").write_text(outcome.out)
    return out


@pytest.fixture
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let studies train and do no more."""
    from hilum.study import run

    monkeypatch.setattr(run, "_predict", lambda *_: None)
    monkeypatch.setattr(run.Figures, "records", lambda _: {})


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``hilum study`` end before the evaluation, which has tests of its own."""
    from hilum.study.evaluation import evaluate

    monkeypatch.setattr(evaluate, "evaluate_run", lambda *_: None)
