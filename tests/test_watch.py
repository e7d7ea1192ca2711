"""How far a run is: what is written of it and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import TrainingError
from hilum.federation.messages import Task
from hilum.federation.runtimes.base import Waiting
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies.fedavg import FedAvg
from hilum.study.watch import Watch, lines, read_progress


def record(round_: int, seconds: float = 2.0) -> dict[str, Any]:
    return {
        "round": round_,
        "seconds": seconds,
        "train_loss": {"north": 0.5, "south": 0.25},
        "validation_loss": {"north": 0.75},
        "bytes_down": 2**21,
        "bytes_up": 2**20,
        "lost": {"west": "its disk is full."},
    }


def test_tells_round_sites_losses_bytes_and_time_left(tmp_path: Path) -> None:
    watch = Watch(tmp_path, models=2, rounds=3)
    watch.begins("seed_0/federated/federated", 0)
    watch.round_done(record(1))
    watch.waits(Waiting("train", 2, ("north",), ("south", "west")))
    last, now = lines(read_progress(tmp_path) or {})
    assert last == (
        "seed_0/federated/federated round 1/3; loss north 0.5000, south 0.2500; validation north 0.7500; "
        "2.00 MiB down, 1.00 MiB up; lost west: its disk is full.; 10 s left"
    )
    assert now == "seed_0/federated/federated round 2/3 train: done north; waiting south, west"


def test_a_run_in_process_leaves_who_has_answered(tiny_run: Path) -> None:
    facts = read_progress(tiny_run) or {}
    assert facts["task"] is not None
    assert (facts["done"], facts["waiting"]) == (["north", "south"], [])


def test_who_watches_sites_in_process_hears_of_every_answer(tmp_path: Path) -> None:
    hospitals, heard = Hospitals.of(tmp_path, FedAvg(tiny_model().state_groups()), *map(fake_site, "ab")), []
    runtime = InProcess(hospitals.workers, tell=heard.append)
    list(runtime.exchange(dict.fromkeys("ba", Task("count", 3))))
    assert heard == [Waiting("count", 3, tuple("ab"[:n]), tuple("ab"[n:])) for n in range(3)]


def test_tells_the_error_that_ends_the_training(tmp_path: Path) -> None:
    def training() -> None:
        with Watch(tmp_path, 1, 3) as watch:
            watch.begins("a", 0)
            raise TrainingError("Expected a finite loss; found nan.")

    with pytest.raises(TrainingError):
        training()
    assert (read_progress(tmp_path) or {})["error"] == "Expected a finite loss; found nan."


def test_the_bar_ends_full_though_rounds_were_skipped(tmp_path: Path) -> None:
    steps: list[int] = []
    watch = Watch(tmp_path, 3, 5, lambda steps_=1, note="": steps.append(steps_))
    watch.model_done()  # was there already
    watch.begins("b", 2)  # resumed
    watch.round_done(record(3))
    watch.model_done()  # stopped early
    watch.begins("c", 0)
    for round_ in range(1, 6):
        watch.round_done(record(round_))
    watch.model_done()
    assert sum(steps) == 15
    assert min(steps) >= 0
    assert watch.seconds_left() == 0


def test_answers_are_written_at_most_once_in_a_pause(tmp_path: Path) -> None:
    watch = Watch(tmp_path, 1, 5, pause=1000)
    watch.begins("a", 0)
    watch.waits(Waiting("train", 1, (), ("north",)))
    assert json.loads((tmp_path / "progress.json").read_text())["task"] is None
    watch.round_done(record(1))
    assert json.loads((tmp_path / "progress.json").read_text())["task"] == "train"
