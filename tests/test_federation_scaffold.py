"""SCAFFOLD on losses whose optimum is known, and its control variates on a network (card 12)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import Hospitals, fake_site, fake_trainer, tensors_of, tiny_model
from hilum.federation.messages import counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.scaffold import CONTROL, SINCE, Controlled, Scaffold
from hilum.models.classifier import LocalizingClassifier
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from stand_ins import GROUPS, ByHand, StandIn

TINY = tiny_model().state_groups()
WEIGHTS = [name for name, group in TINY.items() if group != "norm_stats"]
MU = 1.0


def opposed(pull: float) -> list[StandIn]:
    """f₁ = μw² + Gw and f₂ = −Gw, whose mean is μw²/2."""
    return [StandIn("a", lambda w: (MU * w**2 + pull * w).sum()), StandIn("b", lambda w: (-pull * w).sum())]


def rounds_to_optimum(strategy: Any, pull: float, limit: int = 200) -> int:
    run = ByHand.of(strategy, opposed(pull), [1.0])
    for number in range(1, limit):
        run.round()
        if abs(float(run.w)) < 1e-6:
            return number
    raise AssertionError(f"|w| = {abs(float(run.w)):.1e} after {limit} rounds")


def test_the_optimum_is_reached_as_fast_however_far_the_sites_pull_apart() -> None:
    needed = np.array([rounds_to_optimum(Scaffold(GROUPS), pull) for pull in (1.0, 10.0, 100.0)])
    assert (abs(needed / needed[0] - 1) < 0.2).all(), needed


def test_federated_averaging_stops_beside_it_by_as_much_as_they_pull() -> None:
    """The guard of the test above."""
    stops = []
    for pull in (1.0, 10.0, 100.0):
        run = ByHand.of(FedAvg(GROUPS), opposed(pull), [1.0])
        for _ in range(50):
            run.round()
        stops.append(abs(float(run.w)))
    assert stops[0] > 1e-3
    np.testing.assert_allclose(np.array(stops) / stops[0], [1, 10, 100], rtol=0.01)


@pytest.mark.parametrize(("momentum", "clip"), [(0.0, 1e9), (0.5, 1e9), (0.5, 5.0)])
def test_the_optimum_of_two_bowls_is_reached_with_momentum_and_clipping(momentum: float, clip: float) -> None:
    """f₁ = ½(w₀−15)² + w₁² and f₂ = 2(w₀+12)² + 0.7(w₁+15)² meet at (−6.6, −10.5/1.7)."""
    options: dict[str, Any] = {"size": 2, "momentum": momentum, "clip": clip}
    sites = [
        StandIn("a", lambda w: 0.5 * (w[0] - 15) ** 2 + w[1] ** 2, **options),
        StandIn("b", lambda w: 2 * (w[0] + 12) ** 2 + 0.7 * (w[1] + 15) ** 2, **options),
    ]
    corrected, averaged = (ByHand.of(s, sites, [0.0, 0.0]) for s in (Scaffold(GROUPS), FedAvg(GROUPS)))
    for _ in range(60):
        corrected.round()
        averaged.round()
    np.testing.assert_allclose(corrected.w.numpy(), [-6.6, -10.5 / 1.7], atol=1e-6)
    assert np.abs(averaged.w.numpy() - [-6.6, -10.5 / 1.7]).max() > 0.1


def weighted_sum(run: ByHand) -> torch.Tensor:
    weights = run.strategy.weights(run.server.members())
    zero = torch.zeros(1, dtype=torch.float64)
    kept = {name: run.kept.get(name, {}).get(CONTROL + "w", zero) for name in run.server.members()}
    return sum((weights[name].trunk * tensor for name, tensor in kept.items()), zero)


def many(count: int) -> list[StandIn]:
    """Sites of 3, 8, 13, … images with bowls of other widths and middles."""
    return [
        StandIn("abcdefg"[k], lambda w, k=k: ((k + 1) * (w - 2 * k) ** 2).sum(), images=3 + 5 * k) for k in range(count)
    ]


@pytest.mark.parametrize("asked", [5, 2, 1])
def test_the_servers_variate_is_the_mean_of_the_sites_whoever_is_asked(asked: int) -> None:
    run, rng = ByHand.of(Scaffold(GROUPS), many(5), [1.0]), np.random.default_rng(0)
    for _ in range(30):
        run.round([str(name) for name in rng.choice(list("abcde"), asked, replace=False)])
        assert abs(float(run.server.extra[CONTROL + "w"] - weighted_sum(run))) < 1e-6
    assert max(abs(float(kept[CONTROL + "w"])) for kept in run.kept.values()) > 1


def regrouped(run: ByHand, sites: list[StandIn]) -> None:
    """Let these sites be there from now on."""
    run.sites = {site.name: site for site in sites}
    new = {site.name: counts_of(site.train_examples) for site in sites if site.name not in run.server.counts}
    joined = run.strategy.join(run.server, new)  # type: ignore[arg-type]
    run.server = run.strategy.regroup(replace(joined, present=tuple(sorted(run.sites))))


def optimum(sites: list[StandIn]) -> float:
    """Where the mean of the bowls of ``many`` is lowest."""
    weights = Scaffold(GROUPS).weights({site.name: counts_of(site.train_examples) for site in sites})  # type: ignore[misc]
    bowls = ["abcdefg".index(site.name) for site in sites]
    pulls = np.array([weights[site.name].trunk * (k + 1) for site, k in zip(sites, bowls, strict=True)])
    return float((pulls * 2.0 * np.array(bowls)).sum() / pulls.sum())


def test_sites_come_and_go_and_the_optimum_is_that_of_those_who_are_there() -> None:
    sites = many(4)
    run = ByHand.of(Scaffold(GROUPS), sites[:2], [1.0])
    for there in (sites[:2], sites[:3], sites, sites[1:], [sites[0], sites[3]]):
        regrouped(run, there)
        assert float(run.server.extra.get(CONTROL + "w", torch.zeros(1))) == 0
        for _ in range(60):
            run.round()
            assert abs(float(run.server.extra[CONTROL + "w"] - weighted_sum(run))) < 1e-6
        assert float(run.w) == pytest.approx(optimum(there), abs=1e-5)


def test_what_stays_at_the_sites_is_not_corrected(tmp_path: Path) -> None:
    """A row of one's own has an optimum of its own, from which the others' gradients would pull it."""
    strategy = Scaffold(TINY, head="site", normalization="local")
    federation = Hospitals.of(tmp_path, strategy, fake_site("a"), fake_site("b", seed=1))
    server, _ = federation.rounds(2)
    trunk = {CONTROL + name for name, group in TINY.items() if group == "trunk"}
    assert {name for name in server.extra if name.startswith(CONTROL)} == trunk
    assert {name for name in federation.kept("a") if name.startswith(CONTROL)} == trunk


def test_a_sites_variate_is_the_mean_of_its_raw_gradients(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With momentum, clipping and weight decay, in the second round, when gradients are corrected."""
    seen: list[dict[str, torch.Tensor]] = []
    before_step = Controlled.before_step

    def watched(self: Controlled, model: LocalizingClassifier, step: int, steps: int) -> None:
        seen.append({n: p.grad + 0.1 * p.detach() for n, p in model.named_parameters() if p.grad is not None})
        before_step(self, model, step, steps)

    plan = OptimizerPlan("sgd", lr=0.1, weight_decay=0.1, momentum=0.9, clip=1e-3)
    sites = [fake_site("a"), fake_site("b", seed=1)]
    federation = Hospitals.of(tmp_path, Scaffold(TINY), *sites, updates=3, optimizer=plan)
    server, _ = federation.rounds(1)
    monkeypatch.setattr(Controlled, "before_step", watched)
    server, _ = federation.rounds(1, server)
    for number, site in enumerate("ab"):
        kept, own = federation.kept(site), seen[3 * number : 3 * number + 3]
        assert set(kept) == {CONTROL + name for name in WEIGHTS} | {SINCE}
        for name in WEIGHTS:
            torch.testing.assert_close(kept[CONTROL + name], sum(g[name] for g in own) / 3, rtol=1e-5, atol=1e-7)
    assert max(float(tensor.abs().max()) for tensor in kept.values()) > 0.01  # ten times what clipping lets through


def test_the_first_variate_is_the_gradient_at_the_servers_weights(tmp_path: Path) -> None:
    """Option II with one step is option I, here with a clipped step of momentum."""
    site = fake_site("a")
    plan = OptimizerPlan("sgd", lr=0.1, weight_decay=0.0, momentum=0.9, clip=1e-3)
    trainer = fake_trainer(site, updates=1, batch=8, optimizer=plan, freeze_norm=True)
    federation = Hospitals(Scaffold(TINY), {"a": trainer}, tmp_path)
    federation.rounds(1)
    model = tiny_model().eval()
    images, targets = tensors_of(site, "train")
    masked_bce(model(images).logits, targets).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(federation.kept("a")[CONTROL + name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_rows_of_unknown_findings_have_no_variate_and_no_correction(tmp_path: Path) -> None:
    sites = [fake_site("a", unknown=[1]), fake_site("b", seed=1)]
    plan = OptimizerPlan("sgd", lr=0.1, weight_decay=0.0)
    federation = Hospitals.of(tmp_path, Scaffold(TINY), *sites, optimizer=plan)
    server, _ = federation.rounds(1)
    row = server.extra[CONTROL + "head.weight"][1]
    assert bool((federation.kept("a")[CONTROL + "head.weight"][1] == 0).all())
    torch.testing.assert_close(row, federation.kept("b")[CONTROL + "head.weight"][1])
    assert float(row.abs().max()) > 1e-4
    before = server.state["head.weight"][1].clone()
    replies = federation.replies(server)
    assert torch.equal(replies[0].state["head.weight"][1], before)
    after = federation.taking(server, replies)
    assert torch.equal(after.state["head.weight"][1], replies[1].state["head.weight"][1])


@pytest.mark.parametrize("server_lr", [1.0, 0.5])
def test_normalization_statistics_are_averaged_and_have_no_variate(server_lr: float, tmp_path: Path) -> None:
    sites = [fake_site("a"), fake_site("b", train=20, seed=1)]
    federation = Hospitals.of(tmp_path, Scaffold(TINY, server_lr=server_lr, tau=1.0), *sites)
    start = federation.start()
    server, replies = federation.rounds(1, start)
    assert set(server.extra) == {CONTROL + name for name in WEIGHTS}
    for name in set(TINY) - {"head.weight", "head.bias"}:
        mean = (8 * replies[0].state[name].double() + 20 * replies[1].state[name].double()) / 28
        share = 1.0 if name not in WEIGHTS else server_lr
        expected = start.state[name] + share * (mean - start.state[name])
        torch.testing.assert_close(server.state[name], expected.float(), rtol=1e-5, atol=1e-7)


def test_a_lost_reply_takes_its_variate_with_it(tmp_path: Path) -> None:
    """A site goes on from what it kept with the last reply that the server took."""
    sites = [fake_site("a"), fake_site("b", seed=1)]
    federation = Hospitals.of(tmp_path, Scaffold(TINY), *sites)
    server, _ = federation.rounds(1)
    lost, taken = federation.kept("b"), federation.replies(server)[:1]  # b trains, and its reply is lost
    server = federation.taking(server, taken)
    server, _ = federation.rounds(2, server)
    assert server.taken == {"a": (4, 0), "b": (4, 0)}
    assert federation.kept("b").keys() == lost.keys()
    for name in WEIGHTS:
        weights = federation.strategy.weights(server.counts)
        if TINY[name] == "head":
            continue
        mean = sum(weights[site].trunk * federation.kept(site)[CONTROL + name] for site in "ab")
        torch.testing.assert_close(server.extra[CONTROL + name], mean, rtol=1e-5, atol=1e-7)
