"""Ten sites of handwritten digits whose labels differ more and more (card 10; card 12's digits)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hilum.federation.divergence import weight_divergence
from hilum.federation.messages import ServerState, counts_of
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.scaffold import Scaffold
from hilum.training.loop import Fit, TrainingPlan
from hilum.training.optimizers import OptimizerPlan
from hilum.training.rules import LocalRule
from hilum.training.state import State, copy_state
from stand_ins import ByHand, Labels

CLASSES, SIZE, BATCH = 10, 130, 10
EMDS = (0.0, 0.5, 1.0, 1.44, 1.8)
Rows = NDArray[np.int64]


@cache
def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))


GROUPS = dict.fromkeys(network(0).state_dict(), "trunk")


@dataclass
class Digits:
    """One pass of SGD over ``rows`` a round, in ``LocalTrainer``'s words."""

    name: str
    rows: Rows
    seed: int
    lr: float = 0.1
    passes: int = 1
    plan: TrainingPlan = field(init=False)

    def __post_init__(self) -> None:
        self.train_examples = Labels(len(self.rows))
        optimizer = OptimizerPlan("sgd", lr=self.lr, weight_decay=0.0, momentum=0.0)
        self.plan = TrainingPlan(rounds=100, updates=None, batch=BATCH, optimizer=optimizer)

    def fit(self, state: State, round_: int, prior: Any, rule: LocalRule | None = None, wave: int = 0) -> Fit:
        model, rule, rng = (
            network(0),
            rule or LocalRule(),
            np.random.default_rng([self.seed, round_, *map(ord, self.name)]),
        )
        model.load_state_dict(state)
        rule.begin(model)  # type: ignore[arg-type]
        images, labels = digits()
        order = np.concatenate([rng.permutation(self.rows) for _ in range(self.passes)])
        batches = np.array_split(order, -(-len(order) // BATCH))
        for step, batch in enumerate(batches):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            weights = list(model.parameters())
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
            rule.before_step(model, step, len(batches))  # type: ignore[arg-type]
            for weight in weights:
                assert weight.grad is not None
                weight.data -= self.lr * weight.grad
        return Fit(copy_state(model), float(loss.detach()), len(batches))


def cut(emd: float, seed: int) -> tuple[list[Rows], Rows]:
    """Ten sites of 130 digits, a share emd / 1.8 of them of the site's own class, the rest of all; and the others."""
    labels, rng = digits()[1].numpy(), np.random.default_rng(seed)
    pools = [list(rng.permutation(np.flatnonzero(labels == k))) for k in range(CLASSES)]
    own = round(emd / 1.8 * SIZE)
    sites = [[pools[k].pop() for _ in range(own)] for k in range(CLASSES)]
    for number in range(SIZE - own):
        for k, site in enumerate(sites):
            site.append(pools[(number + k) % CLASSES].pop())
    return [np.array(site) for site in sites], np.array(sorted(row for pool in pools for row in pool))


def emd_of(sites: list[Rows]) -> float:
    labels = digits()[1].numpy()
    shares = np.stack([np.bincount(labels[rows], minlength=CLASSES) / len(rows) for rows in sites])
    return float(abs(shares - shares.mean(0)).sum(1).mean())


def accuracy(state: State, rows: Rows) -> float:
    model = network(0)
    model.load_state_dict(state)
    images, labels = digits()
    with torch.no_grad():
        return float((model(images[rows]).argmax(1) == labels[rows]).float().mean())


def federation(strategy: Any, sites: list[Rows], seed: int, **options: Any) -> ByHand:
    named = {f"site{k}": Digits(f"site{k}", rows, seed, **options) for k, rows in enumerate(sites)}
    counts = {name: counts_of(site.train_examples) for name, site in named.items()}  # type: ignore[arg-type]
    server = strategy.join(ServerState(0, copy_state(network(seed))), counts)
    return ByHand(strategy, named, server)  # type: ignore[arg-type]


def test_label_emd_of_the_sites_is_what_they_were_cut_for() -> None:
    for emd in EMDS:
        sites, rest = cut(emd, 0)
        assert emd_of(sites) == pytest.approx(emd, abs=0.02)
        assert len(np.unique(np.concatenate([*sites, rest]))) == len(digits()[1])


def test_weight_divergence_grows_with_the_label_emd() -> None:
    """After the first round, against as many steps of SGD on everybody's digits from the same start."""
    emds, divergences = [], []
    for emd in EMDS:
        for seed in range(3):
            sites, _ = cut(emd, seed)
            run = federation(FedAvg(GROUPS), sites, seed)
            run.round()
            rng = np.random.default_rng(seed)
            pooled = Digits("pooled", rng.permutation(np.concatenate(sites))[:SIZE], seed)
            centralized = pooled.fit(copy_state(network(seed)), 1, None).state
            emds.append(emd)
            divergences.append(weight_divergence(run.server.state, centralized, GROUPS).whole)
    assert spearmanr(emds, divergences).statistic >= 0.9, divergences


def final(emd: float, seed: int, shared: bool, rounds: int = 6) -> float:
    """Test accuracy; ``shared``: every site also has all of a set of 5 % as many digits, as many of each class."""
    sites, rest = cut(emd, seed)
    labels, rng = digits()[1].numpy(), np.random.default_rng([seed, 1])
    count = round(0.05 * SIZE)  # of each class
    public = np.concatenate([rng.permutation(rest[labels[rest] == k])[:count] for k in range(CLASSES)])
    test = np.setdiff1d(rest, public)
    run = federation(FedAvg(GROUPS), [np.concatenate([s, public]) for s in sites] if shared else sites, seed)
    for _ in range(rounds):
        run.round()
    return accuracy(run.server.state, test)


def test_five_percent_of_shared_data_close_half_of_the_gap() -> None:
    alike, apart, mixed = (
        float(np.mean([final(emd, seed, shared) for seed in range(3)]))
        for emd, shared in ((0.0, False), (1.8, False), (1.8, True))
    )
    assert alike - apart > 0.1, (alike, apart)
    assert mixed >= (alike + apart) / 2, (alike, apart, mixed)


def rounds_to(strategy: Any, target: float, seed: int, limit: int = 15) -> int:
    sites, rest = cut(1.8, seed)
    run = federation(strategy, sites, seed, lr=0.05, passes=3)
    for number in range(1, limit + 1):
        run.round()
        if accuracy(run.server.state, rest) >= target:
            return number
    return limit + 1


def test_scaffold_needs_fewer_rounds_than_federated_averaging() -> None:
    """39 local steps at the same rate, one class a site."""
    corrected, averaged = (
        [rounds_to(strategy, 0.55, seed) for seed in range(2)] for strategy in (Scaffold(GROUPS), FedAvg(GROUPS))
    )
    assert sum(corrected) < 0.8 * sum(averaged), (corrected, averaged)
