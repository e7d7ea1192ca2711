"""What every strategy of the registry must keep, and which setting makes it one of the others."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fakes import FakeSite, Hospitals, fake_site, fake_trainer, tiny_model
from hilum.errors import StudyError
from hilum.federation import aggregation
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, LabelCounts, Reply, ServerState, Task
from hilum.federation.rounds import Progress, RoundsPlan, latest_checkpoint, save_checkpoint
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.federation.strategies.fedadam import FedAdam
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.fedavgm import FedAvgM
from hilum.federation.strategies.fednova import FedNova, effective_steps
from hilum.federation.strategies.fedprox import FedProx
from hilum.federation.strategies.fedrep import FedRep
from hilum.federation.strategies.fedyogi import FedYogi
from hilum.federation.strategies.scaffold import Scaffold
from hilum.federation.topology import TOPOLOGIES
from hilum.federation.topology.ring import Ring
from hilum.federation.topology.star import Star
from hilum.federation.worker import Worker
from hilum.images.augmentation import Augmentation
from hilum.study.spec_federation import FederationSpec
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

GROUPS = tiny_model().state_groups()
HEAD = [name for name, group in GROUPS.items() if group == "head"]
TRUNK = next(name for name, group in GROUPS.items() if group == "trunk")
WEIGHTS = [name for name, group in GROUPS.items() if group != "norm_stats"]
# b labels one of the findings, so that there is something to teach; c is large enough for head rows of its own.
SITES = (fake_site("a"), fake_site("b", train=6, unknown=[1], seed=1), fake_site("c", train=40, seed=2))
PLAN: dict[str, Any] = {"augmentation": Augmentation(), "rounds": 3}
ALL = list(STRATEGIES)
# One site is not plain training where the strategy does something else to a single site, and what that is.
NOT_PLAIN = {
    "fedavgm": "momentum from one round to the next",
    "fedprox": "weights are pulled to where the round began",
    "fedadam": "the update is a gradient for Adam",
    "fedyogi": "the update is a gradient for Yogi",
    "fedrep": "head and trunk learn in turn",
}
# Equal but for the last bit: sums that are 0 or 1 in theory.
ROUNDED = {"scaffold": "c − c_i", "fednova": "steps / steps"}


STUDY = FederationSpec().model_dump(include={"head", "normalization", "weighting"})


@pytest.fixture(params=["plain", "study"])
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a strategy does by itself, and in a study, where b owns one row of its head and not the other."""
    if request.param == "plain":
        return {}
    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)
    return STUDY


def built(name: str, **options: Any) -> Any:
    return STRATEGIES.load(name)(GROUPS, **{**options, **IMPLIED.get(name, {})})


def loop(
    folder: Path, strategy: Any, sites: tuple[FakeSite, ...] = SITES, topology: Star | None = None, until: int = 3
) -> tuple[ServerState, dict[str, State], list[dict[str, Any]]]:
    """Server state, what the sites keep and the records after so many of three rounds."""
    hospitals, records = Hospitals.of(folder, strategy, *sites, **PLAN), []

    def on_round(record: dict[str, Any]) -> None:
        if record["round"] > until:
            raise InterruptedError
        records.append({key: value for key, value in record.items() if key != "seconds"})

    federation = hospitals.federation(RoundsPlan(3, validate_every=1), topology)
    server = federation.run(copy_state(tiny_model()), folder, on_round)
    kept = {site.name: SiteMemory(folder / site.name).at(server.taken.get(site.name, NEVER)) for site in sites}
    return server, kept, records


def prints(server: ServerState, kept: dict[str, State]) -> tuple[str, str, dict[str, str]]:
    return fingerprint(server.state), fingerprint(server.extra), {n: fingerprint(state) for n, state in kept.items()}


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_the_sites_changes_no_bit_and_a_resumed_run_is_an_uninterrupted_one(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    strategy = built(name, **settings)
    whole, kept, records = loop(tmp_path / "whole", strategy)
    assert fingerprint(whole.state) != fingerprint(copy_state(tiny_model()))
    for cut in (1, 2):
        with pytest.raises(InterruptedError):
            loop(tmp_path / "cut", strategy, SITES[::-1], until=cut)
    resumed, resumed_kept, rest = loop(tmp_path / "cut", strategy, SITES[::-1])
    assert prints(resumed, resumed_kept) == prints(whole, kept)
    assert rest == records[2:]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_over_every_topology_a_resumed_run_is_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    options = {"hierarchy": {"regions": {"x": ["a", "c"], "y": ["b"]}, "region_rounds": 2}}.get(name, {})
    topology, strategy = TOPOLOGIES.load(name)(**options), built("fedavg", **STUDY)
    whole, kept, records = loop(tmp_path / "whole", strategy, topology=topology)
    for cut in (1, 2):
        with pytest.raises(InterruptedError):
            loop(tmp_path / "cut", strategy, topology=topology, until=cut)
    resumed, resumed_kept, rest = loop(tmp_path / "cut", strategy, topology=topology)
    assert prints(resumed, resumed_kept) == prints(whole, kept)
    assert rest == records[2:]


def most_alive(folder: Path, strategy: Any, sites: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The most models of replies that were in memory at once, in a round of so many sites with one scratch model."""
    alive, counts, do = set[int](), [0], Worker.do

    def counted(worker: Worker, task: Task) -> Reply:
        reply = do(worker, task)
        trunk = reply.state.get(TRUNK)
        if trunk is not None and trunk is not task.state[TRUNK]:  # which some replies hand back
            number = len(counts)
            alive.add(number)
            weakref.finalize(trunk, alive.discard, number)
            counts.append(len(alive))
        return reply

    trainer = partial(fake_trainer, model=tiny_model(), updates=1)
    names = [f"{number:03d}" for number in range(sites)]
    trainers = {name: trainer(fake_site(name, train=4, val=2, seed=int(name))) for name in names}
    federation = Hospitals(strategy, trainers, folder).federation(RoundsPlan(1))
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "do", counted)
        federation.run(copy_state(tiny_model()), folder, lambda _: None)
    return max(counts)


@pytest.mark.parametrize(("name", "sites"), [(name, 100 if name == "fedavg" else 10) for name in ALL])
def test_as_many_models_are_in_memory_for_a_hundred_sites_as_for_four(
    name: str, sites: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (most_alive(tmp_path / f"{n}", built(name, **STUDY), n, monkeypatch) for n in (4, sites))
    assert 1 <= many <= few <= 3


def test_in_a_study_sites_keep_the_rows_that_they_own_and_their_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The guard of the test above; and that a row of one's own is not what the federation shares."""
    monkeypatch.setattr(aggregation, "OWN_EVIDENCE", 1.0)
    strategy = built("fedavg", **STUDY)
    server, kept, _ = loop(tmp_path, strategy)
    for site, own in (("a", [True, True]), ("b", [True, False]), ("c", [True, True])):
        model = strategy.model_at_site(server.state, kept[site], server.counts[site])
        assert [not torch.equal(model["head.weight"][r], server.state["head.weight"][r]) for r in (0, 1)] == own
        for name, group in GROUPS.items():
            if group == "norm_stats" and name.endswith("mean"):
                assert not torch.equal(model[name], server.state[name])


@pytest.mark.parametrize("name", ALL)
def test_one_site_is_plain_training_where_theory_says_so(name: str, tmp_path: Path) -> None:
    site = fake_site("a", train=24)
    server, kept, _ = loop(tmp_path / name, built(name), (site,))
    trainer, rounds = fake_trainer(site, **PLAN), [copy_state(tiny_model())]
    for round_ in (1, 2, 3):
        rounds.append(trainer.fit(rounds[-1], round_, np.array([0.5, 0.5])).state)
    plain = rounds[-1]
    if name == "iil":  # which hands on its best
        plain = min(rounds[1:], key=lambda state: trainer.validate(state)["a"])
    at_site = FedAvg.model_at_site(built(name), server.state, kept["a"] if name != "ditto" else {}, server.counts["a"])
    apart = max(float((at_site[n] - plain[n]).abs().max()) for n in GROUPS)
    if name in NOT_PLAIN:
        assert apart > 1e-4
    elif name in ROUNDED:
        assert apart < 1e-4
    else:
        assert apart == 0


def replies(seed: int, round_: int, told: Callable[[int], State]) -> list[Reply]:
    """Replies of sites that label other findings, made by hand."""
    made = []
    for k, name in enumerate("abc"):
        rng = torch.Generator().manual_seed(31 * seed + k)
        state = {
            n: torch.rand(t.shape, generator=rng).to(t.dtype) if t.is_floating_point() else t + 1
            for n, t in tiny_model().state_dict().items()
        }
        made.append(Reply(name, round_, state, COUNTS[name], 0.5, 2 + k, extra=told(k)))
    return made


COUNTS = {
    "a": LabelCounts(8, np.array([8, 0]), np.array([4, 0])),
    "b": LabelCounts(20, np.array([10, 20]), np.array([5, 10])),
    "c": LabelCounts(5, np.array([5, 5]), np.array([1, 2])),
}
TOLD: dict[str, Callable[[int], State]] = {
    "fednova": lambda k: {"steps": torch.tensor(2.0 + k)},
    "scaffold": lambda k: {f"control/{n}": torch.full_like(tiny_model().state_dict()[n], 0.1 * k) for n in WEIGHTS},
    "iil": lambda k: {"visit": torch.tensor(1), "better": torch.tensor(1), "ends": torch.tensor(0)},
}


@pytest.mark.parametrize("name", ALL)
def test_the_servers_half_is_a_function_of_values_that_survive_the_disk(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Replies by hand: (server state, replies) → server state, the same from a checkpoint, and no input changes."""
    strategy, told = built(name, **settings), TOLD.get(name, lambda k: {})
    server = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
    for round_ in (1, 2, 3):
        answers = replies(round_, round_, told)[:: 1 if name not in ("iil", "ciil") else 3]
        before = [fingerprint(server.state | server.extra), *(fingerprint(r.state) for r in answers)]
        asked = {reply.site: reply.counts for reply in answers}
        save_checkpoint(tmp_path, ServerState(round_, server.state, server.extra, server.counts), Progress())
        saved = latest_checkpoint(tmp_path)
        assert saved is not None
        after = strategy.step(server, strategy.collect(server, answers, asked))
        again = strategy.step(saved[0], strategy.collect(saved[0], iter(answers), asked))
        assert prints(after, {}) == prints(again, {})
        assert [fingerprint(server.state | server.extra), *(fingerprint(r.state) for r in answers)] == before
        assert {n: (t.shape, t.dtype) for n, t in after.state.items()} == {
            n: (t.shape, t.dtype) for n, t in server.state.items()
        }
        server = after


@pytest.mark.parametrize("name", ALL)
def test_a_row_that_nobody_asked_labels_stays(name: str, settings: dict[str, Any]) -> None:
    strategy, told = built(name, **settings), TOLD.get(name, lambda k: {})
    server = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
    answer = replies(1, 1, told)[0]
    after = strategy.step(server, strategy.collect(server, [answer], {"a": COUNTS["a"]}))
    for row in HEAD:
        assert torch.equal(after.state[row][1], server.state[row][1])
        assert not torch.equal(after.state[row][0], server.state[row][0])


# Degenerate settings


def assert_same_weights(found: ServerState, expected: ServerState, tolerance: float = 0.0) -> None:
    for name in GROUPS:
        torch.testing.assert_close(found.state[name], expected.state[name], rtol=0, atol=tolerance)


HUGE = 1e6
DEGENERATE = {
    "FedProx at μ 0": (FedProx(GROUPS, mu=0.0), 0.0),
    "FedAvgM without momentum": (FedAvgM(GROUPS, momentum=0.0), 1e-6),
    "FedAdam that does not adapt": (FedAdam(GROUPS, server_lr=2 * HUGE, beta1=0.0, beta2=1.0, adaptivity=HUGE), 1e-5),
    "FedYogi that does not adapt": (FedYogi(GROUPS, server_lr=2 * HUGE, beta1=0.0, beta2=1.0, adaptivity=HUGE), 1e-5),
    "FedNova of sites with as many steps": (FedNova(GROUPS), 1e-6),
    "FedMLP of weight 0": (built("fedmlp", weight=0.0), 1e-6),
    "FedMLP that only warms up": (built("fedmlp", warmup=1.0), 0.0),
    "FedLSM of weight 0": (built("fedlsm", weight=0.0, warmup=0.0), 1e-6),
    "FedLSM that only warms up": (built("fedlsm", warmup=1.0), 0.0),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_setting_is_federated_averaging(name: str, tmp_path: Path) -> None:
    strategy, tolerance = DEGENERATE[name]
    expected, _, _ = loop(tmp_path / "averaging", FedAvg(GROUPS))
    assert_same_weights(loop(tmp_path / "other", strategy)[0], expected, tolerance)


@pytest.mark.parametrize(
    "name", ["fedprox", "fedavgm", "fedadam", "fedyogi", "fedmlp", "fedlsm", "surgical", "scaffold"]
)
def test_with_its_own_settings_it_is_not(name: str, tmp_path: Path) -> None:
    """The guard of the test above. FedLSM is given labels that it is sure of."""
    options = {"fedlsm": {"low": 0.49, "high": 0.5}, "fedprox": {"mu": 1.0}}.get(name, {})
    expected, _, _ = loop(tmp_path / "averaging", FedAvg(GROUPS))
    found, _, _ = loop(tmp_path / "other", built(name, **options))
    assert max(float((found.state[n] - expected.state[n]).abs().max()) for n in GROUPS) > 1e-5


def test_surgical_aggregation_is_federated_averaging_at_tau_0_and_of_the_trunk_at_any(tmp_path: Path) -> None:
    for tau in (0.0, 1.0):
        expected, _, _ = loop(tmp_path / f"averaging{tau}", FedAvg(GROUPS, tau=tau), until=3)
        found, _, _ = loop(tmp_path / f"surgical{tau}", built("surgical", tau=tau))
        if tau == 0:
            assert_same_weights(found, expected)
    answers = replies(1, 1, lambda k: {})
    for strategy in (FedAvg(GROUPS, tau=1.0), built("surgical", tau=1.0)):
        server = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
        after = strategy.step(server, strategy.collect(server, answers, COUNTS))
        mean = (
            sum(n * r.state["backbone.stem.0.weight"].double() for n, r in zip((8, 20, 5), answers, strict=True)) / 33
        )
        torch.testing.assert_close(after.state["backbone.stem.0.weight"], mean.float())
    row = (answers[1].state["head.weight"][1] + answers[2].state["head.weight"][1]) / 2
    torch.testing.assert_close(after.state["head.weight"][1], row)


def test_ditto_without_pull_trains_local_models_beside_the_federation(tmp_path: Path) -> None:
    server, kept, _ = loop(tmp_path / "ditto", built("ditto", pull=0.0))
    assert_same_weights(server, loop(tmp_path / "averaging", FedAvg(GROUPS))[0])
    for site in SITES:
        alone, _, _ = loop(tmp_path / f"alone-{site.name}", FedAvg(GROUPS), (site,))
        own = built("ditto").model_at_site(server.state, kept[site.name], server.counts[site.name])
        assert all(torch.equal(own[name], alone.state[name]) for name in WEIGHTS if name not in HEAD)
        for row in range(2):
            unlabelled = site is SITES[1] and row == 1
            expected = server if unlabelled else alone
            assert all(torch.equal(own[name][row], expected.state[name][row]) for name in HEAD)


def test_ditto_pulls_its_own_model_to_the_common_one(tmp_path: Path) -> None:
    apart = []
    for pull in (0.0, 30.0):
        server, kept, _ = loop(tmp_path / str(pull), built("ditto", pull=pull))
        apart.append(sum(float((kept["a"][n] - server.state[n]).norm()) for n in WEIGHTS))
    assert apart[1] < 0.7 * apart[0]


@pytest.mark.parametrize("policy", ["averaged", "site", "local", "recalibrated"])
def test_ditto_predicts_with_its_own_normalization_and_shares_that_of_the_common_model(
    policy: str, tmp_path: Path
) -> None:
    """The federation beside the own models is what it is without them, under every policy."""
    server, kept, records = loop(tmp_path / "ditto", built("ditto", normalization=policy))
    expected, expected_kept, _ = loop(tmp_path / "averaging", FedAvg(GROUPS, normalization=policy))
    assert_same_weights(server, expected)
    for site in SITES:
        trainer = fake_trainer(site, **PLAN)
        own = built("ditto").model_at_site(server.state, kept[site.name], server.counts[site.name])
        assert all(torch.equal(own[name], kept[site.name][name]) for name in GROUPS if name not in HEAD)
        common = {n.removeprefix("common/"): t for n, t in kept[site.name].items() if n.startswith("common/")}
        assert fingerprint(common) == fingerprint(expected_kept[site.name])
        if policy == "recalibrated":
            recalibrated = trainer.recalibrate(own)
            assert all(torch.equal(own[name], recalibrated[name]) for name in GROUPS)
        else:
            assert records[-1]["validation_loss"][site.name] == trainer.validate(own)[site.name]


def test_cyclic_learning_is_a_ring_of_federated_averaging(tmp_path: Path) -> None:
    ring, _, _ = loop(tmp_path / "ring", FedAvg(GROUPS), topology=Ring())
    assert_same_weights(loop(tmp_path / "ciil", built("ciil"))[0], ring)


def test_a_ring_refuses_what_goes_from_site_to_site_by_itself() -> None:
    for name in ("iil", "ciil"):
        with pytest.raises(StudyError, match=f"topology 'star' for '{name}'"):
            Ring().check(name, ["a", "b"])


@pytest.mark.parametrize(("share", "rests"), [(0.0, HEAD), (1.0, [n for n in WEIGHTS if n not in HEAD])])
def test_the_part_that_rests_in_fedrep_stays(share: float, rests: list[str], tmp_path: Path) -> None:
    server, kept, _ = loop(tmp_path, FedRep(GROUPS, head_share=share))
    start = tiny_model().state_dict()
    moved = [name for name in WEIGHTS if not torch.equal(server.state[name], start[name])]
    assert set(moved) == set(WEIGHTS) - set(rests)
    if share == 0:
        assert all(torch.equal(kept["c"][name], start[name]) for name in HEAD)


@pytest.mark.parametrize("updates", [1, 2, 3])
def test_fedrep_trains_head_and_trunk_in_every_round(updates: int, tmp_path: Path) -> None:
    server, _ = Hospitals.of(tmp_path, FedRep(GROUPS), *SITES, updates=updates).rounds(1)
    start = tiny_model().state_dict()
    assert all(not torch.equal(server.state[name], start[name]) for name in WEIGHTS)


def test_in_fedrep_a_site_keeps_the_rows_that_it_can_teach_and_shares_the_others(tmp_path: Path) -> None:
    server, kept, _ = loop(tmp_path, FedRep(GROUPS))
    for site, own in ((SITES[1], False), (SITES[2], True)):
        model = FedRep(GROUPS).model_at_site(server.state, kept[site.name], server.counts[site.name])
        for row in (0, 1):
            shared = torch.equal(model["head.weight"][row], server.state["head.weight"][row])
            assert shared != own


# FedNova


def test_updates_of_other_lengths_count_by_the_step() -> None:
    """w ← w + τ_eff Σ p_i Δ_i / a_i with τ_eff = Σ p_i a_i (Wang et al. 2020, eq. 8), head rows likewise."""
    strategy = FedNova(GROUPS, tau=1.0)
    server = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
    answers = replies(4, 1, TOLD["fednova"])
    after = strategy.step(server, strategy.collect(server, answers, COUNTS))
    shares = {"trunk": np.array([8, 20, 5]) / 33, 0: np.array([8, 10, 5]) / 23, 1: np.array([0, 20, 5]) / 25}
    steps = np.array([2.0, 3.0, 4.0])

    def moved(p: Any, parts: list[torch.Tensor], old: torch.Tensor) -> torch.Tensor:
        per_step = sum(float(w) * (part.double() - old) / a for w, part, a in zip(p, parts, steps, strict=True))
        return (old + float(p @ steps) * per_step).float()

    name = "backbone.stem.0.weight"
    expected = moved(shares["trunk"], [r.state[name] for r in answers], server.state[name].double())
    torch.testing.assert_close(after.state[name], expected)
    for row in (0, 1):
        old, parts = server.state["head.weight"][row].double(), [r.state["head.weight"][row] for r in answers]
        torch.testing.assert_close(after.state["head.weight"][row], moved(shares[row], parts, old))
    stats = "backbone.stem.1.running_mean"
    mean = sum(float(w) * r.state[stats].double() for w, r in zip(shares["trunk"], answers, strict=True))
    torch.testing.assert_close(after.state[stats], mean.float())


@pytest.mark.parametrize("name", [name for name in ALL if name != "iil"])
def test_replies_of_sites_that_weigh_nothing_change_no_weight(name: str) -> None:
    """Under contrast, where the site that has both classes was asked and lost."""
    both, one = COUNTS["b"], LabelCounts(5, np.array([5, 5]), np.array([5, 5]))
    strategy = built(name, weighting="contrast")
    server = strategy.join(ServerState(0, copy_state(tiny_model())), {"a": one, "b": both})
    answer = replies(1, 1, TOLD.get(name, lambda k: {}))[0]
    after = strategy.step(server, strategy.collect(server, [answer], {"a": one, "b": both}))
    assert fingerprint(after.state) == fingerprint(server.state)
    assert strategy.close_at_server("recalibrate", server, [answer]).state == server.state


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_effective_steps_are_what_a_constant_gradient_moves(momentum: float) -> None:
    plan = OptimizerPlan("sgd", momentum=momentum)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
    for updates in range(1, 7):
        weight.grad = -torch.ones(1)
        optimizer.step()
        assert effective_steps(plan, updates) == pytest.approx(float(weight.detach()), rel=1e-5)


# Server optimizers


def test_server_optimizers_move_as_torch_does_and_as_reddi_writes() -> None:
    """Hand-made updates of one tensor over three rounds; FedAvgM against SGD, Adam and Yogi against Algorithm 2."""
    groups = {"w": "trunk"}
    counts = {"a": LabelCounts(3, np.array([3]), np.array([1]))}
    updates = [torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0]), torch.tensor([-0.25, 0.1])]
    found: dict[str, State] = {}
    for strategy in (
        FedAvgM(groups, momentum=0.5, server_lr=0.3),
        FedAdam(groups, server_lr=0.1, adaptivity=0.05),
        FedYogi(groups, server_lr=0.1, adaptivity=0.05),
    ):
        server = strategy.join(ServerState(0, {"w": torch.zeros(2)}), counts)
        for update in updates:
            answer = Reply("a", 1, {"w": server.state["w"] + update}, counts["a"])
            server = strategy.step(server, strategy.collect(server, [answer], counts))
        found[type(strategy).__name__] = server.state
    weight = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.5)
    m, w, v = ({k: np.full(2, x) for k in ("FedAdam", "FedYogi")} for x in (0.0, 0.0, 0.05**2))
    for update in updates:
        weight.grad = -update
        optimizer.step()
        for kind in m:
            delta, square = update.double().numpy(), update.double().numpy() ** 2
            m[kind] = 0.9 * m[kind] + 0.1 * delta
            adam, yogi = 0.99 * v[kind] + 0.01 * square, v[kind] - 0.01 * square * np.sign(v[kind] - square)
            v[kind] = adam if kind == "FedAdam" else yogi
            w[kind] = w[kind] + 0.1 * m[kind] / (np.sqrt(v[kind]) + 0.05)
    torch.testing.assert_close(found["FedAvgM"]["w"], weight.detach())
    for kind in w:
        np.testing.assert_allclose(found[kind]["w"].numpy(), w[kind], rtol=1e-5)


def test_weights_that_the_server_moves_are_those_of_the_replies_and_statistics_their_mean() -> None:
    """A server learning rate of 0 stops the weights and not the statistics."""
    for strategy in (FedAvgM(GROUPS, server_lr=0.0), FedAdam(GROUPS, server_lr=0.0), Scaffold(GROUPS, server_lr=0.0)):
        server = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
        answers = replies(1, 1, TOLD["scaffold"] if isinstance(strategy, Scaffold) else lambda k: {})
        after = strategy.step(server, strategy.collect(server, answers, COUNTS))
        for name in GROUPS:
            assert torch.equal(after.state[name], server.state[name]) == (name in WEIGHTS), name


# The reference


REFERENCE = (Path(__file__).parents[1] / "docs/reference/federation.md").read_text(encoding="utf-8")


def test_the_reference_has_every_strategy_and_topology_with_its_options_and_their_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", REFERENCE, re.MULTILINE))
    assert set(rows) == {*STRATEGIES, *TOPOLOGIES}
    common = {"groups", "tau", "normalization", "weighting", "head"}
    for registry in (STRATEGIES, TOPOLOGIES):
        for name in registry:
            inherited = {"fedyogi": "fedadam"}.get(name, name)
            stated = dict(re.findall(r"`(\w+): ([^`]+)`", rows[inherited]))
            if name == "fedlsm":
                stated |= dict(re.findall(r"`(\w+): ([^`]+)`", rows["fedmlp"]))
            for option, parameter in signature(registry.load(name)).parameters.items():
                if option in common:
                    continue
                assert option in stated, (name, option)
                if parameter.default is not parameter.empty:
                    assert yaml.safe_load(stated[option]) == parameter.default, (name, option)
