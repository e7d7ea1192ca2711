"""Fixtures that several test files share; property tests that repeat exactly, and never fail on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from hospitals import hilum, write_study

settings.register_profile("hilum", deadline=None, derandomize=True, database=None)
settings.load_profile("hilum")


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file of three tiny hospitals; not to be changed."""
    return write_study(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_run(tiny_study: Path) -> Path:
    """The finished run directory of ``tiny_study``; not to be changed."""
    run = tiny_study.parent / "run"
    outcome = hilum("study", tiny_study, "--out", run)
    assert outcome.status == 0, outcome.err
    return run
