"""Federated averaging against pooled gradient descent, plain training and the words of its policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import FakeSite, Hospitals, fake_site, fake_trainer, tensors_of, tiny_model
from hilum.errors import StudyError
from hilum.federation.messages import Reply, Task
from hilum.federation.strategies import STRATEGIES
from hilum.federation.strategies.fedavg import NORMALIZATION_POLICIES, FedAvg
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

PRIOR = np.array([0.5, 0.5])
GROUPS = tiny_model().state_groups()
STATS = [name for name, group in GROUPS.items() if group == "norm_stats"]
NORM = [name for name, group in GROUPS.items() if group in ("norm_stats", "norm_affine")]
WEIGHTS = [name for name, group in GROUPS.items() if group != "norm_stats"]
SITES = (fake_site("a", train=6), fake_site("b", train=10, seed=1))


def hospitals(folder: Path, strategy: FedAvg, sites: tuple[FakeSite, ...] = SITES, **plan: Any) -> Hospitals:
    return Hospitals.of(folder, strategy, *sites, **plan)


def floats(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name in GROUPS}


def test_the_registry_holds_it() -> None:
    assert STRATEGIES.load("fedavg") is FedAvg


def test_one_full_batch_step_is_pooled_gradient_descent(tmp_path: Path) -> None:
    """Card 11 (i), in evaluation mode of the normalization, whose batch statistics are no sum over sites."""
    plan = OptimizerPlan("sgd", lr=0.1, head_lr=1.0, weight_decay=0.0, momentum=0.9, clip=1e9, warmup=0)
    trainers = {
        s.name: fake_trainer(s, updates=1, batch=len(s.indices("train")), optimizer=plan, freeze_norm=True)
        for s in SITES
    }
    server, _ = Hospitals(FedAvg(GROUPS, tau=1.0), trainers, tmp_path).rounds(1)
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


def test_one_site_is_plain_training(tmp_path: Path) -> None:
    server, _ = hospitals(tmp_path, FedAvg(GROUPS), SITES[:1]).rounds(3)
    trainer, state = fake_trainer(SITES[0]), copy_state(tiny_model())
    for round_ in (1, 2, 3):
        state = trainer.fit(state, round_, PRIOR).state
    assert fingerprint(floats(server.state)) == fingerprint(floats(state))


@pytest.mark.parametrize("policy", NORMALIZATION_POLICIES)
def test_the_order_of_the_sites_changes_no_bit(policy: str, tmp_path: Path) -> None:
    sites = (*SITES, fake_site("c", train=6, seed=2))
    found = set()
    for k, order in enumerate((sites, sites[::-1], sites[1:] + sites[:1])):
        federation = hospitals(tmp_path / str(k), FedAvg(GROUPS, normalization=policy), order)
        server, _ = federation.rounds(2)
        found.add(fingerprint(federation.closed(server).state))
    assert len(found) == 1


def test_sites_answer_with_their_counts_and_nothing_of_their_images(tmp_path: Path) -> None:
    site = fake_site("a", train=6, unknown=[1])
    federation = hospitals(tmp_path, FedAvg(GROUPS), (site,))
    reply = federation.replies(federation.start())[0]
    train = site.targets[site.indices("train")]
    assert (reply.site, reply.round, reply.updates) == ("a", 1, 2)
    assert reply.counts.images == 6
    assert reply.counts.known.tolist() == [6, 0]
    assert reply.counts.positive.tolist() == [int(np.nansum(train[:, 0])), 0]
    assert set(reply.state) == set(tiny_model().state_dict())
    assert reply.extra == {}


def test_a_finding_that_one_site_labels_comes_from_that_site(tmp_path: Path) -> None:
    sites = (fake_site("a", unknown=[1]), fake_site("b", seed=1))
    server, answers = hospitals(tmp_path, FedAvg(GROUPS), sites).rounds(1)
    assert torch.equal(server.state["head.weight"][1], answers[1].state["head.weight"][1])
    assert not torch.equal(server.state["head.weight"][0], answers[1].state["head.weight"][0])


def mean_of(answers: list[Reply], name: str, tau: float = 0.5) -> torch.Tensor:
    n = np.array([reply.counts.images for reply in answers]) ** tau
    return sum(float(w) * reply.state[name].double() for w, reply in zip(n / n.sum(), answers, strict=True)).float()


def test_averaged_statistics_are_sent_back_like_weights(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, FedAvg(GROUPS, normalization="averaged"))
    server, answers = federation.rounds(2)
    for name in STATS:
        torch.testing.assert_close(server.state[name], mean_of(answers, name))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(("policy", "stays"), [("site", STATS), ("local", NORM)])
def test_normalization_of_the_site_stays_and_the_server_keeps_the_average(
    policy: str, stays: list[str], tmp_path: Path
) -> None:
    federation = hospitals(tmp_path, FedAvg(GROUPS, normalization=policy))
    server, answers = federation.rounds(2)
    for reply in answers:
        kept = federation.kept(reply.site)
        assert set(kept) == set(stays)
        assert all(torch.equal(kept[name], reply.state[name]) for name in stays)
    for name in stays:
        torch.testing.assert_close(server.state[name], mean_of(answers, name))
    # The next round starts from the site's own: statistics only move on from them where nothing is learned.
    trainer, kept = fake_trainer(SITES[0], freeze_norm=True), federation.kept("a")
    reply, _ = federation.strategy.at_site(Task("train", 3, server.state, PRIOR), kept, trainer)
    assert all(torch.equal(reply.state[name], kept[name]) for name in STATS)
    losses = federation.replies(server, "validate")[0].validation
    assert losses["a"] == fake_trainer(SITES[0]).validate(server.state | kept)["a"]
    assert losses["a"] != fake_trainer(SITES[0]).validate(server.state)["a"]


def test_recalibrated_statistics_are_those_of_the_mixture_and_the_weights_stay(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, FedAvg(GROUPS, tau=1.0, normalization="recalibrated"))
    server, _ = federation.rounds(2)
    final = federation.closed(server)
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


def test_frozen_statistics_are_those_the_trunk_came_with(tmp_path: Path) -> None:
    server, _ = hospitals(tmp_path, FedAvg(GROUPS, normalization="frozen"), freeze_norm=True).rounds(2)
    start = tiny_model().state_dict()
    assert all(torch.equal(server.state[name], start[name]) for name in STATS)
    assert not all(torch.equal(server.state[name], start[name]) for name in WEIGHTS)


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(StudyError, match=r"federation\.normalization among averaged, site.*found 'silo'"):
        FedAvg(GROUPS, normalization="silo")
    with pytest.raises(StudyError, match=r"federation\.weighting among known, contrast; found 'n'"):
        FedAvg(GROUPS, weighting="n")
