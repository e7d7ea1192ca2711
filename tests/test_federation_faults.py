"""Sites that are not asked, come late, leave, fail or answer nonsense; early stopping, epochs and schedules."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeSite, Hospitals, fake_site, fake_trainer, tiny_model
from hilum.errors import TrainingError
from hilum.federation import aggregation
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, Lost, Reply, ServerState, Task
from hilum.federation.rounds import AFTER_ALL_WAVES, Federation, RoundsPlan
from hilum.federation.runtimes.in_process import InProcess, Presence
from hilum.federation.strategies.ciil import CIIL
from hilum.federation.strategies.ditto import Ditto
from hilum.federation.strategies.fedavg import HEADS_OF, FedAvg
from hilum.federation.strategies.scaffold import CONTROL, Scaffold
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

GROUPS = tiny_model().state_groups()
SITES = tuple(fake_site(name, train=8 + 4 * k, seed=k) for k, name in enumerate("abc"))
Record = dict[str, Any]


@dataclass
class Faulty(InProcess):
    """Sites some of whose replies are lost or spoiled on the way: (round or other task, site) → what arrives."""

    inner: InProcess
    faults: Mapping[tuple[int | str, str], Any]

    def sites(self, round_: int) -> list[str]:
        return self.inner.sites(round_)

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        for reply in self.inner.exchange(tasks):
            task = tasks[reply.site]
            fault = self.faults.get((task.round if task.kind == "train" else task.kind, reply.site))
            yield fault(reply) if fault else reply


def loop(folder: Path, plan: RoundsPlan, strategy: Any = None, **options: Any) -> tuple[ServerState, list[Record]]:
    faults, presence = options.pop("faults", {}), options.pop("presence", {})
    sites: tuple[FakeSite, ...] = options.pop("sites", SITES)
    hospitals = Hospitals.of(folder, strategy or FedAvg(GROUPS), *sites, **({"rounds": plan.rounds} | options))
    federation = hospitals.federation(plan, **presence)
    runtime = Faulty(federation.runtime, faults)  # type: ignore[arg-type]
    records: list[Record] = []
    server = replace(federation, runtime=runtime).run(copy_state(tiny_model()), folder, records.append)
    return server, records


def kept(folder: Path, server: ServerState, site: str) -> State:
    return SiteMemory(folder / site).at(server.taken.get(site, NEVER))


# Who takes part


def test_the_sites_of_a_round_follow_from_seed_and_round_and_are_recorded(tmp_path: Path) -> None:
    plan, sites = RoundsPlan(200, participation=0.4, seed=3), list("abcde")
    drawn = [plan.participants(round_, sites) for round_ in range(1, 201)]
    assert all(len(names) == 2 and names == sorted(names) for names in drawn)
    assert drawn == [RoundsPlan(9, participation=0.4, seed=3).participants(round_, sites) for round_ in range(1, 201)]
    assert drawn != [replace(plan, seed=4).participants(round_, sites) for round_ in range(1, 201)]
    counts = Counter(name for names in drawn for name in names)
    assert all(60 <= counts[name] <= 100 for name in sites)  # 80, by ± 3 standard deviations
    short = RoundsPlan(3, participation=0.5, seed=3)
    _, records = loop(tmp_path, short)
    assert [sorted(r["train_loss"]) for r in records] == [short.participants(k, list("abc")) for k in (1, 2, 3)]


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.2, 1), (0.21, 2), (0.6, 3), (1.0, 5)])
def test_a_share_of_the_sites_is_rounded_up(share: float, count: int) -> None:
    assert len(RoundsPlan(1, participation=share).participants(1, list("abcde"))) == count


def test_only_those_who_train_move_the_model(tmp_path: Path) -> None:
    plan = RoundsPlan(1, participation=0.3)
    server, records = loop(tmp_path / "some", plan)
    (name,) = records[0]["train_loss"]
    site = next(site for site in SITES if site.name == name)
    alone, _ = loop(tmp_path / "alone", RoundsPlan(1), sites=(site,))
    for tensor in GROUPS:
        assert torch.equal(server.state[tensor], alone.state[tensor])
    assert "visits" not in records[0]  # drawn alone is no turn


def test_a_site_joins_late_and_another_leaves(tmp_path: Path) -> None:
    presence = {"c": Presence(3), "a": Presence(last=3)}
    server, records = loop(tmp_path, RoundsPlan(4, validate_every=1), Scaffold(GROUPS), presence=presence)
    assert ["".join(sorted(record["train_loss"])) for record in records] == ["ab", "ab", "abc", "bc"]
    assert ["".join(sorted(record["validation_loss"])) for record in records] == ["ab", "ab", "abc", "bc"]
    assert set(server.counts) == set("abc")
    assert server.present == ("b", "c")
    weights = Scaffold(GROUPS).weights(server.members())
    name = "backbone.stem.0.weight"
    mean = sum(weights[site].trunk * kept(tmp_path, server, site)[CONTROL + name] for site in "bc")
    torch.testing.assert_close(server.extra[CONTROL + name], mean, rtol=1e-5, atol=1e-7)


def test_a_round_without_any_site_is_one_clear_error(tmp_path: Path) -> None:
    presence = {name: Presence(last=2) for name in "abc"}
    with pytest.raises(TrainingError, match=r"at least one site in round 3; none is there\. Start the sites"):
        loop(tmp_path, RoundsPlan(4), presence=presence)


# Replies that are lost


def spoiled(name: str, value: float) -> Any:
    def spoil(reply: Reply) -> Reply:
        return replace(reply, state=reply.state | {name: torch.full_like(reply.state[name], value)})

    return spoil


def recounted(**changes: Any) -> Any:
    return lambda reply: replace(reply, counts=replace(reply.counts, **changes))


def imaginary(reply: Reply) -> Reply:
    bias = reply.state["head.bias"] + complex(0, math.nan)
    assert bias.dtype == torch.complex64
    return replace(reply, state=reply.state | {"head.bias": bias})


FAULTS = {
    "NaN": (spoiled("head.bias", math.nan), "'head.bias' holds NaN"),
    "infinity": (spoiled("backbone.stem.0.weight", math.inf), "holds NaN or infinity"),
    "a wrong shape": (lambda r: replace(r, state=r.state | {"head.bias": torch.ones(7)}), r"of shape (2,) from 'b'"),
    "too few tensors": (lambda r: replace(r, state={}), "found nothing"),
    "another type": (imaginary, "Expected 'head.bias' as torch.float32 from 'b'; found torch.complex64"),
    "more images than before": (
        recounted(images=10**6),
        "Expected the label counts that 'b' told when it joined, of 12 images; found others, of 1000000",
    ),
    "other labels than before": (recounted(positive=np.zeros(2, np.int64)), "that 'b' told when it joined"),
    "an old round": (lambda r: replace(r, round=1), "Expected a reply to round 2 from 'b'; found round 1"),
    "nothing": (lambda r: Lost("b", "did not answer in 60 s"), "did not answer in 60 s"),
    "a full disk": (lambda r: Lost("b", "the disk is full", TrainingError("the disk is full")), "the disk is full"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_below_the_whole_quorum_a_lost_reply_is_told_and_the_run_goes_on(fault: str, tmp_path: Path) -> None:
    """The round is that of a federation that did not ask b."""
    spoil, told = FAULTS[fault]
    plan = RoundsPlan(3, validate_every=1, quorum=0.6)
    server, records = loop(tmp_path / "lost", plan, faults={(2, "b"): spoil})
    assert [list(record.get("lost", {})) for record in records] == [[], ["b"], []]
    assert told in records[1]["lost"]["b"]
    assert [sorted(record["train_loss"]) for record in records] == [["a", "b", "c"], ["a", "c"], ["a", "b", "c"]]
    hospitals = Hospitals.of(tmp_path / "by hand", FedAvg(GROUPS), *SITES, rounds=3)
    expected, _ = hospitals.rounds(1)
    expected = hospitals.taking(expected, [r for r in hospitals.replies(expected) if r.site != "b"])
    expected, _ = hospitals.rounds(1, expected)
    assert fingerprint(server.state) == fingerprint(expected.state)


@pytest.mark.parametrize("fault", FAULTS)
def test_with_the_whole_quorum_a_lost_reply_is_one_clear_error(fault: str, tmp_path: Path) -> None:
    spoil, told = FAULTS[fault]
    with pytest.raises(TrainingError) as caught:
        loop(tmp_path, RoundsPlan(3), faults={(2, "b"): spoil})
    assert told in str(caught.value)
    assert (tmp_path / "round_0001").is_dir()
    assert not (tmp_path / "round_0002").exists()
    server, _ = loop(tmp_path, RoundsPlan(3))  # mended, and resumed
    assert fingerprint(server.state) == fingerprint(loop(tmp_path / "whole", RoundsPlan(3))[0].state)


def test_less_than_the_quorum_is_one_clear_error(tmp_path: Path) -> None:
    gone = {(2, name): lambda reply: Lost(reply.site, "it is switched off") for name in "ab"}
    with pytest.raises(TrainingError) as caught:
        loop(tmp_path, RoundsPlan(3, quorum=0.5), faults=gone)
    assert str(caught.value) == (
        "Expected replies from 50% of 3 sites in round 2; 1 answered. a: it is switched off b: it is switched off "
        "Mend those sites and repeat the command (hilum study: with --resume), or lower federation.quorum."
    )


def test_in_a_circle_a_lost_site_is_skipped(tmp_path: Path) -> None:
    gone = {(1, "b"): lambda reply: Lost("b", "it is switched off")}
    server, records = loop(tmp_path / "circle", RoundsPlan(1, quorum=0.5), CIIL(GROUPS), faults=gone)
    assert sorted(records[0]["train_loss"]) == ["a", "c"]
    assert records[0]["lost"] == {"b": "it is switched off"}
    trainers = {site.name: fake_trainer(site, rounds=1) for site in SITES}
    state = trainers["a"].fit(copy_state(tiny_model()), 1, np.array([0.5, 0.5])).state
    state = trainers["c"].fit(state, 1, np.array([0.5, 0.5]), None, 2).state
    assert all(torch.equal(server.state[name], state[name]) for name in GROUPS)


@pytest.mark.parametrize("policy", ["site", "local"])
def test_what_a_site_kept_of_a_spoiled_reply_is_forgotten(policy: str, tmp_path: Path) -> None:
    """Statistics that the server did not take do not come back: the site goes on from those before."""
    strategy, plan = FedAvg(GROUPS, normalization=policy), RoundsPlan(3, quorum=0.5)
    faults = {(2, "b"): spoiled("head.bias", math.nan)}
    server, _ = loop(tmp_path / "lost", plan, strategy, faults=faults)
    hospitals = Hospitals.of(tmp_path / "by hand", strategy, *SITES, rounds=3)
    expected, _ = hospitals.rounds(1)
    before = hospitals.kept("b")
    expected = hospitals.taking(expected, [r for r in hospitals.replies(expected) if r.site != "b"])
    assert fingerprint(hospitals.kept("b")) != fingerprint(before)
    expected, _ = hospitals.rounds(1, expected)
    assert fingerprint(server.state) == fingerprint(expected.state)
    assert fingerprint(kept(tmp_path / "lost", server, "b")) == fingerprint(hospitals.kept("b"))


def test_a_site_that_cannot_tell_its_counts_joins_when_it_can(tmp_path: Path) -> None:
    """With a quorum it is told as lost; without, it is an error."""

    @dataclass
    class Silent(InProcess):
        inner: InProcess
        asked: int = 0

        def sites(self, round_: int) -> list[str]:
            return self.inner.sites(round_)

        def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
            for reply in self.inner.exchange(tasks):
                self.asked += reply.site == "b" and tasks[reply.site].kind == "count"
                silent = reply.site == "b" and self.asked < 2
                yield Lost("b", "did not answer") if silent else reply

    def run(folder: Path, quorum: float) -> list[Record]:
        federation: Federation = Hospitals.of(folder, FedAvg(GROUPS), *SITES).federation(RoundsPlan(2, quorum=quorum))
        records: list[Record] = []
        runtime = Silent(federation.runtime)  # type: ignore[arg-type]
        replace(federation, runtime=runtime).run(copy_state(tiny_model()), folder, records.append)
        return records

    records = run(tmp_path / "some", 0.5)
    assert [sorted(record["train_loss"]) for record in records] == [["a", "c"], ["a", "b", "c"]]
    assert [record.get("lost") for record in records] == [{"b": "did not answer"}, None]
    with pytest.raises(TrainingError, match=r"100% of 3 sites in round 1; 2 answered\. b: did not answer"):
        run(tmp_path / "all", 1.0)


COUNTS = {
    "of another length": (recounted(known=np.array([12]), positive=np.array([6])), "counts of 2 findings, int64, from"),
    "of no whole numbers": (recounted(known=np.array([12.0, 12.0])), "from 'b'; found (2,), float64"),
    "below 0": (recounted(positive=np.array([6, -1])), "found -1, 12 and 12 of finding 2"),
    "with more positive than known": (recounted(positive=np.array([13, 6])), "found 13, 12 and 12 of finding 1"),
    "with more known than images": (recounted(images=11), "found 6, 12 and 11 of finding 1"),
    "beyond all hospitals": (recounted(images=10**15), "and 1000000000000000 of finding 1"),
}


@pytest.mark.parametrize("fault", COUNTS)
def test_a_site_whose_counts_cannot_be_does_not_join_and_the_others_train(fault: str, tmp_path: Path) -> None:
    spoil, told = COUNTS[fault]
    faults = {("count", "b"): spoil}
    server, records = loop(tmp_path / "lost", RoundsPlan(1, quorum=0.6), faults=faults)
    assert told in records[0]["lost"]["b"]
    expected, _ = loop(tmp_path / "without", RoundsPlan(1), sites=(SITES[0], SITES[2]))
    assert fingerprint(server.state) == fingerprint(expected.state)
    assert set(server.counts) == {"a", "c"}
    with pytest.raises(TrainingError, match=re.escape(told)):
        loop(tmp_path / "all", RoundsPlan(1), faults=faults)


def test_a_site_whose_moments_do_not_fit_has_no_head_of_its_own_and_the_others_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def short(reply: Reply) -> Reply:
        assert reply.moments is not None
        return replace(reply, moments=replace(reply.moments, mean=reply.moments.mean[:-1]))

    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)
    strategy, faults = FedAvg(GROUPS, head="site"), {("describe", "b"): short}
    server, _ = loop(tmp_path / "lost", RoundsPlan(1, quorum=0.6), strategy, faults=faults)
    assert {name.split("/")[1] for name in server.extra if name.startswith(HEADS_OF)} == {"a", "c"}
    with pytest.raises(TrainingError, match=r"moments of shape \(8,\), float64, from 'b'; found \(7,\)"):
        loop(tmp_path / "all", RoundsPlan(1), strategy, faults=faults)


# Early stopping


FAST = OptimizerPlan(lr=0.3, warmup=0, schedule="constant")  # overfits noise at once


def test_training_stops_and_the_weights_at_the_lowest_validation_loss_are_taken(tmp_path: Path) -> None:
    plan = RoundsPlan(12, validate_every=1, patience=2)
    server, records = loop(tmp_path / "early", plan, optimizer=FAST)
    means = [float(np.mean(list(record["validation_loss"].values()))) for record in records]
    best = int(np.argmin(means))
    assert len(records) == best + 3 < 12
    expected, _ = loop(tmp_path / "to the best", RoundsPlan(best + 1), optimizer=FAST, rounds=12)
    assert all(torch.equal(server.state[name], expected.state[name]) for name in GROUPS)
    assert server.extra == {}


@pytest.mark.parametrize("strategy", [FedAvg(GROUPS, normalization="site"), FedAvg(GROUPS, head="site"), Ditto(GROUPS)])
def test_what_the_sites_kept_at_the_lowest_loss_is_taken_as_well(strategy: FedAvg, tmp_path: Path) -> None:
    """Also where closing tasks follow, and where the run is stopped in them."""
    options: dict[str, Any] = {"optimizer": FAST, "rounds": 12}
    server, records = loop(tmp_path / "early", RoundsPlan(12, validate_every=1, patience=2), strategy, **options)
    best = len(records) - 2
    assert best < 10
    expected, _ = loop(tmp_path / "to the best", RoundsPlan(best), strategy, **options)
    again, rest = loop(tmp_path / "early", RoundsPlan(12, validate_every=1, patience=2), strategy, **options)
    assert rest == []
    for name in "abc":
        found = kept(tmp_path / "early", server, name)
        assert found.keys() == kept(tmp_path / "to the best", expected, name).keys() != set()
        assert fingerprint(found) == fingerprint(kept(tmp_path / "to the best", expected, name))
        assert fingerprint(found) == fingerprint(kept(tmp_path / "early", again, name))
    assert fingerprint(server.extra) == fingerprint(expected.extra) == fingerprint(again.extra)


def test_a_site_keeps_no_more_files_than_it_may_go_on_from(tmp_path: Path) -> None:
    plan = RoundsPlan(12, validate_every=1, patience=3)
    server, records = loop(tmp_path, plan, FedAvg(GROUPS, normalization="site"), optimizer=FAST)
    last, best = len(records), server.taken["a"][0]
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    rounds = sorted({best, *range(last - 2, last + 1)})
    assert names == [f"round_{k:05d}_0000.safetensors" for k in rounds]


def test_memory_keeps_what_may_be_gone_on_from_and_no_more(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path)
    memory.keep((1, 0), {})
    assert not list(tmp_path.iterdir())  # a strategy that keeps nothing writes nothing
    for round_ in (1, 2, 3):
        memory.keep((round_, 0), {"x": torch.tensor(float(round_))}, (round_ - 1, 0))
    memory.keep((4, 0), {"x": torch.tensor(4.0)}, (3, 0), lowest=(2, 0))
    assert [float(memory.at((k, 0)).get("x", torch.tensor(0.0))) for k in range(6)] == [0, 0, 2, 3, 4, 4]
    memory.keep((5, 0), {"x": torch.tensor(5.0)}, (3, 0), lowest=(2, 0))  # what it kept in 4 was lost
    assert [float(memory.at((k, 0))["x"]) for k in (2, 3, 4, 5)] == [2, 3, 3, 5]
    memory.keep((5, AFTER_ALL_WAVES + 1), {"x": torch.tensor(6.0)}, (5, 0))
    assert [float(memory.at((5, k))["x"]) for k in (0, AFTER_ALL_WAVES, AFTER_ALL_WAVES + 1)] == [5, 5, 6]


def test_a_task_that_ends_late_takes_nothing_of_a_newer_one(tmp_path: Path) -> None:
    memory = SiteMemory(tmp_path)
    for round_ in (1, 3, 2):  # the server waited no longer for 2, and took 3
        memory.keep((round_, 0), {"x": torch.tensor(float(round_))}, (1, 0) if round_ > 1 else NEVER)
    assert float(memory.at((3, 0))["x"]) == 3
    memory.keep((4, 0), {"x": torch.tensor(4.0)}, (3, 0))
    assert [float(memory.at((k, 0))["x"]) for k in (3, 4)] == [3, 4]
    memory.keep((5, 0), {"x": torch.tensor(5.0)}, (4, 0))
    assert sorted(path.stem for path in tmp_path.iterdir()) == [f"round_0000{k}_0000" for k in (3, 4, 5)]


# Epochs and schedules


@pytest.mark.parametrize(("batch", "updates"), [(4, 6), (5, 6), (12, 2), (64, 2)])
def test_two_epochs_see_every_image_twice(batch: int, updates: int) -> None:
    site = fake_site("a", train=12)
    seen: Counter[bytes] = Counter()
    trainer = fake_trainer(site, updates=None, epochs=2, batch=batch)
    images = trainer.train_examples.sources[0][0].images

    def watched(rows: Any) -> Any:
        found = images(rows)
        seen.update(image.tobytes() for image in found)
        return found

    object.__setattr__(site, "images", watched)
    assert trainer.fit(copy_state(tiny_model()), 1, np.array([0.5, 0.5])).updates == updates
    assert set(seen.values()) == {2}
    assert len(seen) == 12


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.2 + 0.8 * 0.75, 0.2 + 0.8 * 0.5, 0.2 + 0.8 * 0.25]),
        ("cosine", [1.0, *(0.2 + 0.4 * (1 + math.cos(math.pi * k / 4)) for k in (1, 2, 3))]),
    ],
)
def test_the_rate_follows_its_schedule_over_rounds(schedule: Any, expected: list[float]) -> None:
    plan = OptimizerPlan(lr=2.0, warmup=0, floor=0.2, schedule=schedule)
    assert [plan.rate(k, 4) for k in (1, 2, 3, 4)] == pytest.approx([2 * value for value in expected])
