"""Institutional incremental learning, once around and in circles: who trains when, what it forgets, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeSite, Hospitals, fake_site, fake_trainer, tiny_model
from hilum.errors import TrainingError
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.rounds import RoundsPlan
from hilum.federation.strategies.ciil import CIIL
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.iil import IIL
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import copy_state, fingerprint

GROUPS = tiny_model().state_groups()
PRIOR = np.array([0.5, 0.5])
SITES = tuple(fake_site(name, train=8, seed=k) for k, name in enumerate("abc"))
Record = dict[str, Any]


def loop(
    folder: Path, strategy: Any, rounds: int = 3, sites: tuple[FakeSite, ...] = SITES, **options: Any
) -> tuple[ServerState, list[Record]]:
    records: list[Record] = []
    hospitals = Hospitals.of(folder, strategy, *sites, **({"rounds": rounds} | options))
    plan = RoundsPlan(rounds, validate_every=1)
    return hospitals.federation(plan).run(copy_state(tiny_model()), folder, records.append), records


def visited(records: list[Record]) -> list[str]:
    """The sites in the order of their visits, one string a round."""
    return ["".join(site for visit in record["visits"] for site in visit["sites"]) for record in records]


def test_in_circles_every_site_trains_once_a_round_on_what_the_one_before_it_left(tmp_path: Path) -> None:
    server, records = loop(tmp_path, CIIL(GROUPS), rounds=2)
    assert visited(records) == ["abc", "abc"]
    state, trainers = copy_state(tiny_model()), [fake_trainer(site, rounds=2) for site in SITES]
    for round_ in (1, 2):
        for wave, trainer in enumerate(trainers):
            state = trainer.fit(state, round_, PRIOR, None, wave).state
    assert all(torch.equal(server.state[name], state[name]) for name in GROUPS)


def test_once_around_every_site_has_its_turn_of_as_many_visits_as_there_are_rounds(tmp_path: Path) -> None:
    _, records = loop(tmp_path, IIL(GROUPS, patience=99))
    assert visited(records) == ["aaa", "bbb", "ccc"]


def test_without_labelled_validation_a_site_trains_all_its_visits_and_hands_on_the_last(tmp_path: Path) -> None:
    site = fake_site("a")
    site.targets[site.indices("val")] = np.nan
    server, _ = loop(tmp_path, IIL(GROUPS, patience=1), sites=(site,))
    trainer, state = fake_trainer(site, rounds=3), copy_state(tiny_model())
    for visit in (1, 2, 3):
        state = trainer.fit(state, visit, PRIOR).state
    assert all(torch.equal(server.state[name], state[name]) for name in GROUPS)


@pytest.mark.parametrize("told", [(None, 1, 0), (2, 1, 0), (1, 0, 0), (1, 2, 0), (1, 1, 7), (1, 1, None)])
def test_what_a_site_tells_of_its_visit_has_to_make_sense(told: tuple[int | None, ...]) -> None:
    named = zip(("visit", "better", "ends"), told, strict=True)
    extra = {name: torch.tensor(value) for name, value in named if value is not None}
    counts = LabelCounts(4, np.array([4, 4]), np.array([2, 2]))
    with pytest.raises(TrainingError, match="visit 1"):
        IIL(GROUPS).check(Reply("a", 1, {}, counts, extra=extra), Task("train", 1, visit=1))


def test_circles_and_once_around_have_the_budget_of_the_others(tmp_path: Path) -> None:
    """Updates of all sites together, counted at the optimizer."""
    counted: dict[str, int] = {}
    for name, strategy in (("fedavg", FedAvg(GROUPS)), ("ciil", CIIL(GROUPS)), ("iil", IIL(GROUPS, patience=99))):
        hospitals, total = Hospitals.of(tmp_path / name, strategy, *SITES, rounds=3), 0

        def steps(trainer: Any) -> Any:
            update = trainer._update

            def watched(*arguments: Any) -> float:
                nonlocal total
                total += 1
                return float(update(*arguments))

            return watched

        for trainer in hospitals.trainers.values():
            trainer._update = steps(trainer)  # type: ignore[method-assign]
        hospitals.federation(RoundsPlan(3)).run(copy_state(tiny_model()), tmp_path / name, lambda _: None)
        counted[name] = total
    assert counted == {"fedavg": 18, "ciil": 18, "iil": 18}


def test_a_site_stops_early_and_hands_on_its_best_model(tmp_path: Path) -> None:
    plan = OptimizerPlan(lr=0.3, warmup=0, schedule="constant")  # overfits noise at once
    server, records = loop(tmp_path, IIL(GROUPS, patience=2), rounds=8, optimizer=plan)
    state, order = copy_state(tiny_model()), ""
    moments = iter((round_, wave) for round_ in range(1, 9) for wave in range(3))
    for site in SITES:
        trainer, states, losses = fake_trainer(site, rounds=8, optimizer=plan), [], []
        for visit in range(1, 9):
            _, wave = next(moments)
            state = trainer.fit(state, visit, PRIOR, None, wave).state
            states.append(state)
            losses.append(trainer.validate(state)[site.name])
            order += site.name
            if len(losses) - 1 - int(np.argmin(losses)) >= 2:
                break
        state = states[int(np.argmin(losses))]
    assert len(order) < 24
    assert "".join(visited([r for r in records if "visits" in r])) == order
    assert all(torch.equal(server.state[name], state[name]) for name in GROUPS)
    assert [r["train_loss"] for r in records][-1] == {}  # all have had their turn


def opposed() -> tuple[FakeSite, ...]:
    """Two hospitals of the same films that call them the opposite."""
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, (40, 1))
    stored = np.where(bright[:, :, None] == 1, 220, 30) + rng.integers(-20, 20, (40, 16, 16))
    split = np.array(["train"] * 24 + ["val"] * 16)
    labels = np.repeat(bright, 2, 1).astype(np.float32)
    return tuple(FakeSite(name, stored.astype(np.uint8), of, split) for name, of in (("a", labels), ("b", 1 - labels)))


@pytest.mark.parametrize("strategy", [CIIL(GROUPS), IIL(GROUPS, patience=99)])
def test_forgetting_is_seen_after_every_visit(strategy: Any, tmp_path: Path) -> None:
    plan: dict[str, Any] = {"updates": 40, "batch": 8, "optimizer": OptimizerPlan(lr=0.03, schedule="constant")}
    _, records = loop(tmp_path, strategy, rounds=2, sites=opposed(), **plan)
    visits = [visit for record in records for visit in record["visits"]]
    assert len(visits) == 4
    losses = [[visit["validation_loss"][name] for name in "ab"] for visit in visits]
    for visit, (a, b) in zip(visits, losses, strict=True):
        assert (a < b) == (visit["sites"] == ["a"]), losses
    leaving = next(k for k in range(1, 4) if visits[k]["sites"] == ["b"])
    assert losses[leaving][0] > losses[leaving - 1][0] + 0.3


def test_the_turn_survives_the_disk(tmp_path: Path) -> None:
    """A run that is stopped in the middle of a turn goes on in it, with its best model so far."""

    def run(folder: Path, stop: int | None = None) -> ServerState:
        def on_round(record: Record) -> None:
            if record["round"] == stop:
                raise InterruptedError

        hospitals = Hospitals.of(folder, IIL(GROUPS, patience=2), *SITES[:2], rounds=5)
        return hospitals.federation(RoundsPlan(5)).run(copy_state(tiny_model()), folder, on_round)

    whole = run(tmp_path / "whole")
    for stop in (2, 3, 5):
        with pytest.raises(InterruptedError):
            run(tmp_path / str(stop), stop)
        found = run(tmp_path / str(stop))
        assert fingerprint(found.state | found.extra) == fingerprint(whole.state | whole.extra)
