"""Rounds of several waves: killed at any task, validated after every visit, with a region that does not answer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import Hospitals, fake_site, fake_trainer, tiny_model
from hilum.federation.compression.top_k import TopK
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, LabelCounts, Lost, Reply, ServerState, Task
from hilum.federation.rounds import Federation, Progress, RoundsPlan, completed_rounds
from hilum.federation.runtimes.base import Runtime
from hilum.federation.strategies.ciil import CIIL
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.iil import IIL
from hilum.federation.topology.gossip import Gossip
from hilum.federation.topology.hierarchy import Hierarchy
from hilum.federation.topology.ring import Ring
from hilum.federation.topology.star import Star
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import copy_state, fingerprint

GROUPS = tiny_model().state_groups()
SITES = tuple(fake_site(name, train=8 + 4 * k, seed=k) for k, name in enumerate("abc"))
REGIONS = {"x": ["a", "b"], "y": ["c"]}
OWN = {"normalization": "site", "head": "site"}
WAVES: dict[str, tuple[Any, Star]] = {
    "regions": (FedAvg(GROUPS, **OWN), Hierarchy(REGIONS, region_rounds=3)),  # type: ignore[arg-type]
    "iil": (IIL(GROUPS, patience=2, **OWN), Star()),  # type: ignore[arg-type]
    "ring": (FedAvg(GROUPS, **OWN), Ring()),  # type: ignore[arg-type]
    "gossip": (FedAvg(GROUPS, **OWN), Gossip({"a": ["b"], "b": ["c"]})),  # type: ignore[arg-type]
}


class Killed(Exception):
    pass


class Mortal:
    """Ends the run when the ``last``-th task that trains or closes has been done at its site."""

    def __init__(self, inner: Runtime, last: int) -> None:
        self.inner, self.last, self.done = inner, last, 0

    def sites(self, round_: int) -> list[str]:
        return self.inner.sites(round_)

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        for reply in self.inner.exchange(tasks):
            self.done += tasks[reply.site].kind not in ("count", "validate")
            if self.done == self.last:
                raise Killed
            yield reply


def federation(folder: Path, name: str, rounds: int) -> Federation:
    strategy, topology = WAVES[name]
    hospitals = Hospitals.of(folder, strategy, *SITES, rounds=rounds, updates=1)
    compression = TopK(GROUPS, strategy.private, share=0.1)
    for worker in (workers := hospitals.workers):
        object.__setattr__(worker, "compression", compression)
    loop = hospitals.federation(RoundsPlan(rounds, validate_every=99), topology)
    loop.runtime.workers = {worker.name: worker for worker in workers}  # type: ignore[attr-defined]
    return replace(loop, compression=compression)


def result(folder: Path, server: ServerState) -> dict[str, Any]:
    """What a run is: the server's tensors, and what every site goes on from."""
    kept = {site: fingerprint(SiteMemory(folder / site).at(server.taken.get(site, NEVER))) for site in "abc"}
    return {"server": fingerprint(server.state | server.extra), **kept}


def tasks_of(folder: Path, name: str, rounds: int) -> int:
    loop = federation(folder, name, rounds)
    counting = Mortal(loop.runtime, -1)
    replace(loop, runtime=counting).run(copy_state(tiny_model()), folder, lambda _: None)
    return counting.done


class Filmed(Mortal):
    """Copies the run as it lies on the disk after every task that trains or closes; it never ends one."""

    def __init__(self, inner: Runtime, root: Path, copies: Path) -> None:
        super().__init__(inner, -1)
        self.root, self.copies = root, copies

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        for reply in super().exchange(tasks):
            copy = self.copies / str(self.done)
            if self.done and not copy.exists():
                shutil.copytree(self.root, copy)
            yield reply


@pytest.mark.parametrize("name", WAVES)
def test_killed_after_any_task_a_run_goes_on_to_the_same_result(name: str, tmp_path: Path) -> None:
    rounds, whole = 2 if name == "regions" else 3, tmp_path / "whole"  # of regions a round has the most tasks
    loop = federation(whole, name, rounds)
    filmed = Filmed(loop.runtime, whole, tmp_path / "killed")
    expected = result(whole, replace(loop, runtime=filmed).run(copy_state(tiny_model()), whole, lambda _: None))
    assert filmed.done > rounds
    for killed in range(1, filmed.done + 1):
        folder = tmp_path / "killed" / str(killed)
        resumed = federation(folder, name, rounds).run(copy_state(tiny_model()), folder, lambda _: None)
        assert result(folder, resumed) == expected, killed


@pytest.mark.parametrize("name", WAVES)
def test_without_its_newest_checkpoint_a_run_goes_on_from_the_one_before(name: str, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    expected = result(whole, federation(whole, name, 4).run(copy_state(tiny_model()), whole, lambda _: None))
    loop = federation(folder, name, 4)
    last = tasks_of(tmp_path / "counted", name, 3) + 2
    with pytest.raises(Killed):
        replace(loop, runtime=Mortal(loop.runtime, last)).run(copy_state(tiny_model()), folder, lambda _: None)
    shutil.rmtree(completed_rounds(folder)[-1])
    resumed = federation(folder, name, 4).run(copy_state(tiny_model()), folder, lambda _: None)
    assert result(folder, resumed) == expected


@pytest.mark.parametrize("strategy", [CIIL(GROUPS), IIL(GROUPS, patience=99)])
def test_every_visit_is_validated_at_every_site_whatever_the_rounds_between(strategy: Any, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    loop = Hospitals.of(tmp_path, strategy, *SITES, rounds=2, updates=1).federation(RoundsPlan(2, validate_every=99))
    loop.run(copy_state(tiny_model()), tmp_path, records.append)
    visits = [visit for record in records for visit in record["visits"]]
    assert len(visits) == 6
    assert all(set(visit["validation_loss"]) == set("abc") for visit in visits)


@pytest.mark.parametrize(("topology", "turns"), [(Star(), False), (Ring(), True)])
def test_one_site_that_is_drawn_alone_is_no_turn(topology: Star, turns: bool, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    plan = RoundsPlan(3, validate_every=3, participation=0.1)
    hospitals = Hospitals.of(tmp_path, FedAvg(GROUPS), *SITES, rounds=3, updates=1)
    hospitals.federation(plan, topology).run(copy_state(tiny_model()), tmp_path, records.append)
    assert [len(record["train_loss"]) for record in records] == [1, 1, 1]
    assert [record["validation_loss"] is None for record in records] == [True, True, False]
    assert ["visits" in record for record in records] == [turns] * 3


def test_after_its_turn_a_site_keeps_what_belongs_to_the_model_that_it_hands_on(tmp_path: Path) -> None:
    plan = OptimizerPlan(lr=0.1, warmup=0, schedule="constant")  # overfits noise at once
    strategy = IIL(GROUPS, patience=2, normalization="site")
    loop = Hospitals.of(tmp_path, strategy, SITES[0], rounds=8, optimizer=plan).federation(RoundsPlan(8))
    server = loop.run(copy_state(tiny_model()), tmp_path, lambda _: None)
    trainer, state, states, losses = fake_trainer(SITES[0], rounds=8, optimizer=plan), copy_state(tiny_model()), [], []
    for visit in range(1, 9):
        state = trainer.fit(state, visit, np.array([0.5, 0.5])).state
        states.append(state)
        losses.append(trainer.validate(state)["a"])
    best = states[int(np.argmin(losses))]
    assert best is not states[-1]
    kept = SiteMemory(tmp_path / "a").at(server.taken["a"])
    for name in (n for n, group in GROUPS.items() if group == "norm_stats"):
        assert torch.equal(kept[name], best[name])


def test_a_region_that_does_not_answer_in_the_last_wave_counts_as_it_was() -> None:
    strategy, topology = FedAvg({"w": "trunk"}, tau=0.0), Hierarchy(REGIONS, region_rounds=2)
    counts = {name: LabelCounts(4, np.array([4]), np.array([2])) for name in "abc"}

    def said(site: str, value: float) -> Reply:
        return Reply(site, 1, {"w": torch.tensor([value])}, counts[site])

    server = ServerState(0, {"w": torch.zeros(1)}, counts=counts)
    replies = [said("a", 1.0), said("b", 3.0), said("c", 10.0)]
    server = topology.at_server(strategy, server, replies, counts, last=False)
    after = topology.at_server(strategy, server, [said("c", 20.0)], counts, last=True)
    assert after.state["w"].item() == pytest.approx((2.0 + 2.0 + 20.0) / 3)
    assert after.extra == {}


@pytest.mark.parametrize("region_rounds", [2, 3])
def test_a_row_whose_site_is_lost_stays_as_its_region_had_it(region_rounds: int) -> None:
    """a and b share a region, a alone labels the first finding there and is lost after the first wave."""
    groups = {"trunk": "trunk", "head.weight": "head"}
    strategy, topology = FedAvg(groups, tau=0.0), Hierarchy(REGIONS, region_rounds)  # type: ignore[arg-type]
    counts = {
        "a": LabelCounts(4, np.array([4, 0]), np.array([2, 0])),
        "b": LabelCounts(4, np.array([0, 4]), np.array([0, 2])),
        "c": LabelCounts(4, np.array([4, 4]), np.array([2, 2])),
    }

    def said(site: str, value: float) -> Reply:
        return Reply(
            site, 1, {"trunk": torch.full((1,), value), "head.weight": torch.full((2, 1), value)}, counts[site]
        )

    server = ServerState(0, {"trunk": torch.zeros(1), "head.weight": torch.zeros(2, 1)}, counts=counts)
    server = topology.at_server(strategy, server, [said("a", 1.0), said("b", 1.0), said("c", 1.0)], counts, last=False)
    for wave in range(1, region_rounds):
        last = wave == region_rounds - 1
        server = topology.at_server(strategy, server, [said("b", 3.0), said("c", 5.0)], counts, last)
        if not last:
            region = topology.state_for("a", server)
            assert (region["trunk"].tolist(), region["head.weight"].tolist()) == ([3.0], [[1.0], [3.0]])
    assert server.state["trunk"].tolist() == [4.0]
    assert server.state["head.weight"].tolist() == [[3.0], [4.0]]  # rows of (a as it was, c) and of (b, c)
    assert server.extra == {}


def test_early_stopping_compares_the_sites_that_both_measurements_hold() -> None:
    plan, server = RoundsPlan(9, patience=2), ServerState(1, {"w": torch.zeros(1)})
    progress, server = Progress().validated(plan, {"a": 0.5, "b": 0.5}, server)
    progress, server = progress.validated(plan, {"a": 0.4, "b": 0.4, "c": 1.8}, server)  # c joins
    assert (progress.age, dict(progress.best)) == (0, {"a": 0.4, "b": 0.4, "c": 1.8})
    progress, server = progress.validated(plan, {"b": 0.3, "c": 1.7}, server)  # a leaves
    assert progress.age == 0
    progress, server = progress.validated(plan, {"b": 0.3, "c": 1.8}, server)
    progress, server = progress.validated(plan, {"b": 0.3, "c": 1.7}, server)
    assert progress.stopped(plan)
