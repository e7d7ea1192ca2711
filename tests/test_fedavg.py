"""Federated averaging against pooled gradient descent, plain training and the words of its policies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeSite, fake_site, fake_trainer, tensors_of, tiny_model
from hilum.errors import StudyError
from hilum.federation.messages import Reply, ServerState, Task
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies import STRATEGIES
from hilum.federation.strategies.fedavg import NORMALIZATION_POLICIES, FedAvg
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

PRIOR = np.array([0.5, 0.5])
GROUPS = tiny_model().state_groups()
STATS = [name for name, group in GROUPS.items() if group == "norm_stats"]
WEIGHTS = [name for name, group in GROUPS.items() if group != "norm_stats"]
SITES = (fake_site("a", train=6), fake_site("b", train=10, seed=1))


def federation(strategy: FedAvg, sites: tuple[FakeSite, ...] = SITES, **plan: Any) -> InProcess:
    return InProcess(strategy, [fake_trainer(site, **plan) for site in sites])


def replies(runtime: InProcess, server: ServerState, kind: str = "train") -> list[Reply]:
    task = Task(kind, server.round + (kind == "train"), server.state, PRIOR)
    return runtime.exchange({name: task for name in runtime.sites()})


def rounds(runtime: InProcess, number: int) -> tuple[ServerState, list[Reply]]:
    server, last = ServerState(0, copy_state(tiny_model())), []
    for _ in range(number):
        last = replies(runtime, server)
        server = runtime.strategy.at_server(server, last)
    return server, last


def floats(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name in GROUPS}


def test_the_registry_holds_it() -> None:
    assert STRATEGIES.load("fedavg") is FedAvg


def test_one_full_batch_step_is_pooled_gradient_descent() -> None:
    """Card 11 (i), in evaluation mode of the normalization, whose batch statistics are no sum over sites."""
    plan = OptimizerPlan("sgd", lr=0.1, head_lr=1.0, weight_decay=0.0, momentum=0.9, clip=1e9, warmup=0)
    runtime = InProcess(
        FedAvg(GROUPS, tau=1.0),
        [fake_trainer(s, updates=1, batch=len(s.indices("train")), optimizer=plan, freeze_norm=True) for s in SITES],
    )
    server, _ = rounds(runtime, 1)
    model = tiny_model().eval()
    parts = [tensors_of(site, "train") for site in SITES]
    loss = masked_bce(model(torch.cat([p[0] for p in parts])).logits, torch.cat([p[1] for p in parts]))
    loss.backward()
    moved = 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(server.state[name], expected, rtol=0, atol=1e-6)
        moved = max(moved, float(parameter.grad.abs().max()))
    assert moved > 1e-3


def test_one_site_is_plain_training() -> None:
    server, _ = rounds(federation(FedAvg(GROUPS), SITES[:1]), 3)
    trainer, state = fake_trainer(SITES[0]), copy_state(tiny_model())
    for round_ in (1, 2, 3):
        state = trainer.fit(state, round_, PRIOR).state
    assert fingerprint(floats(server.state)) == fingerprint(floats(state))


@pytest.mark.parametrize("policy", NORMALIZATION_POLICIES)
def test_the_order_of_the_sites_changes_no_bit(policy: str) -> None:
    sites = (*SITES, fake_site("c", train=6, seed=2))
    found = set()
    for order in (sites, sites[::-1], sites[1:] + sites[:1]):
        strategy = FedAvg(GROUPS, normalization=policy)
        runtime = federation(strategy, order)
        server, _ = rounds(runtime, 2)
        final = strategy.close_at_server("recalibrate", server, replies(runtime, server, "recalibrate"))
        found.add(fingerprint(final.state))
    assert len(found) == 1


def test_sites_answer_with_their_counts_and_nothing_of_their_images() -> None:
    site = fake_site("a", train=6, unknown=[1])
    reply = replies(federation(FedAvg(GROUPS), (site,)), ServerState(0, copy_state(tiny_model())))[0]
    train = site.targets[site.indices("train")]
    assert (reply.site, reply.round, reply.updates) == ("a", 1, 2)
    assert reply.counts.images == 6
    assert reply.counts.known.tolist() == [6, 0]
    assert reply.counts.positive.tolist() == [int(np.nansum(train[:, 0])), 0]
    assert set(reply.state) == set(tiny_model().state_dict())


def test_a_finding_that_one_site_labels_comes_from_that_site() -> None:
    sites = (fake_site("a", unknown=[1]), fake_site("b", seed=1))
    server, answers = rounds(federation(FedAvg(GROUPS), sites), 1)
    assert torch.equal(server.state["head.weight"][1], answers[1].state["head.weight"][1])
    assert not torch.equal(server.state["head.weight"][0], answers[1].state["head.weight"][0])


def mean_of(answers: list[Reply], name: str, tau: float = 0.5) -> torch.Tensor:
    n = np.array([reply.counts.images for reply in answers]) ** tau
    return sum(float(w) * reply.state[name].double() for w, reply in zip(n / n.sum(), answers, strict=True)).float()


def test_averaged_statistics_are_sent_back_like_weights() -> None:
    runtime = federation(FedAvg(GROUPS, normalization="averaged"))
    server, answers = rounds(runtime, 2)
    for name in STATS:
        torch.testing.assert_close(server.state[name], mean_of(answers, name))
    assert runtime.site_states == {"a": {}, "b": {}}


def test_site_statistics_stay_and_the_server_keeps_their_average() -> None:
    runtime = federation(FedAvg(GROUPS, normalization="site"))
    server, answers = rounds(runtime, 2)
    for reply in answers:
        kept = runtime.site_states[reply.site]
        assert set(kept) == set(STATS)
        assert all(torch.equal(kept[name], reply.state[name]) for name in STATS)
    for name in STATS:
        torch.testing.assert_close(server.state[name], mean_of(answers, name))
    # The next round starts from the site's own statistics: with no learning it only moves on from them.
    trainer = fake_trainer(SITES[0], freeze_norm=True)
    task = Task("train", 3, server.state, PRIOR)
    reply, _ = runtime.strategy.at_site(task, runtime.site_states["a"], trainer)
    assert all(torch.equal(reply.state[name], runtime.site_states["a"][name]) for name in STATS)
    losses = runtime.validate(server.state)
    assert losses["a"] == fake_trainer(SITES[0]).validate(server.state | runtime.site_states["a"])["a"]
    assert losses["a"] != fake_trainer(SITES[0]).validate(server.state)["a"]


def test_recalibrated_statistics_are_those_of_the_mixture_and_the_weights_stay() -> None:
    strategy = FedAvg(GROUPS, tau=1.0, normalization="recalibrated")
    runtime = federation(strategy)
    server, _ = rounds(runtime, 2)
    final = strategy.close_at_server("recalibrate", server, replies(runtime, server, "recalibrate"))
    assert final.round == server.round == 2
    assert all(torch.equal(final.state[name], server.state[name]) for name in WEIGHTS)
    images = torch.cat([tensors_of(site, "train")[0] for site in SITES])
    with torch.no_grad():
        features = torch.nn.functional.conv2d(
            2 * images - 1, server.state["backbone.stem.0.weight"], stride=2, padding=2
        )
    together = features.double().numpy()
    mean, var = (final.state[f"backbone.stem.1.running_{kind}"].numpy() for kind in ("mean", "var"))
    np.testing.assert_allclose(mean, together.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, together.var((0, 2, 3)), rtol=0.01)
    assert not np.allclose(server.state["backbone.stem.1.running_var"].numpy(), var, rtol=0.01)


def test_frozen_statistics_are_those_the_trunk_came_with() -> None:
    server, _ = rounds(federation(FedAvg(GROUPS, normalization="frozen"), freeze_norm=True), 2)
    start = tiny_model().state_dict()
    assert all(torch.equal(server.state[name], start[name]) for name in STATS)
    assert not all(torch.equal(server.state[name], start[name]) for name in WEIGHTS)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(StudyError, match=r"federation\.normalization among averaged, site.*found 'silo'"):
        FedAvg(GROUPS, normalization="silo")
    with pytest.raises(StudyError, match=r"federation\.weighting among known, contrast; found 'n'"):
        FedAvg(GROUPS, weighting="n")
