"""Weighted means of states, each group of tensors with its own weights, one reply at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.federation.messages import LabelCounts
from hilum.models.classifier import StateGroup
from hilum.sites.weights import label_contrast, label_evidence, shares, site_shares
from hilum.training.state import State

OWN_EVIDENCE = 5.0  # n⁺ n⁻ / n below which a row of one's own would learn the site and not the finding


@dataclass(frozen=True)
class Weight:
    """What a site weighs: ``trunk`` in trunk and normalization, ``rows`` (C,) in the rows of the head."""

    trunk: float
    rows: NDArray[np.float64]


def weights_of(
    counts: Mapping[str, LabelCounts], tau: float, weighting: str = "known", rows: str = "evidence"
) -> dict[str, Weight]:
    """Return the weight of every site; over the sites each adds up to 1, or to 0 in the row of an unlabelled finding.

    ``trunk`` ∝ n^tau and ``rows`` ∝ evidence^tau (see ``sites.weights``). ``rows`` 'uniform': a site that labels a
    finding weighs what any other does there (surgical aggregation, Kulkarni et al. 2024).
    """
    names = sorted(counts)
    images = np.array([counts[name].images for name in names], np.int64)
    known = np.stack([counts[name].known for name in names])
    positive = np.stack([counts[name].positive for name in names])
    trunk = site_shares(images, known, positive, tau, weighting)
    heads = shares(label_evidence(known, positive, weighting), 0.0 if rows == "uniform" else tau)
    return {name: Weight(float(trunk[k]), heads[k]) for k, name in enumerate(names)}


def own_rows(counts: LabelCounts) -> NDArray[np.bool_]:
    """Return the findings (C,) of which a site can teach a row of its own: n⁺ n⁻ / n of ``OWN_EVIDENCE`` or more.

    That takes at least four times as many labelled images.
    """
    return label_contrast(counts.known, counts.positive) >= OWN_EVIDENCE


def rows_of(chosen: NDArray[np.bool_], own: State, state: State, groups: Mapping[str, StateGroup]) -> State:
    """Return the head tensors of ``own`` in the ``chosen`` rows (C,), and those of ``state`` in the others."""
    heads = [name for name in own if groups[name] == "head"]
    return {name: torch.where(by_row(chosen, own[name]), own[name], state[name]) for name in heads}


@dataclass
class WeightedMean:
    """Σ w_k x_k / Σ w_k over states that come one at a time, in float64; its memory does not grow with the sites.

    ``groups`` says which weight a tensor takes: tensors of the group 'head' take one for each row, and 'sums' are of
    equal weight, so that ratios of them are those of all images. The order of the sites is the caller's: sorted by
    name, whatever the runtime.
    """

    groups: Mapping[str, StateGroup]
    sums: State = field(default_factory=dict)
    trunk: float = 0.0
    rows: NDArray[np.float64] | None = None
    states: int = 0

    def add(self, state: Mapping[str, Tensor], weight: Weight) -> None:
        """Add a state; tensors without a group are left out."""
        for name, tensor in state.items():
            if name in self.groups:
                part = tensor.double() * self._factor(name, weight, tensor)
                self.sums[name] = self.sums[name].add_(part) if name in self.sums else part
        self.trunk += weight.trunk
        self.rows = weight.rows + (0.0 if self.rows is None else self.rows)
        self.states += 1

    def merge(self, other: WeightedMean) -> None:
        """Add what another mean has seen: a mean of means, weighted as the states themselves."""
        for name, part in other.sums.items():
            self.sums[name] = self.sums[name].add_(part) if name in self.sums else part.clone()
        self.trunk += other.trunk
        self.states += other.states
        if other.rows is not None:
            self.rows = other.rows + (0.0 if self.rows is None else self.rows)

    def fill(self, other: WeightedMean) -> None:
        """Take from another mean of such states what nobody weighs in here."""
        for name, part in other.sums.items():
            self.sums[name] = torch.where(self.weighed(name, part), self.sums[name], part)
        self.trunk = self.trunk or other.trunk
        self.states = self.states or other.states
        if self.rows is not None and other.rows is not None:
            self.rows = np.where(self.rows > 0, self.rows, other.rows)

    def weighed(self, name: str, tensor: Tensor) -> Tensor:
        """Tell what of a tensor, in the shape that multiplies it, somebody weighs in."""
        return self._total(name, tensor) > 0

    def value(self, previous: State) -> State:
        """Return the mean; what nobody weighs in, rows and integer counters, keeps its previous value."""
        result: State = {}
        for name, old in previous.items():
            if name not in self.sums:
                result[name] = old.clone()
                continue
            total = self._total(name, old)
            mean = self.sums[name] / torch.where(total > 0, total, torch.ones_like(total))
            result[name] = torch.where(total > 0, mean, old.double()).to(old.dtype)
        return result

    def _factor(self, name: str, weight: Weight, tensor: Tensor) -> Tensor:
        if self.groups[name] == "head":
            return by_row(weight.rows, tensor)
        return torch.tensor(1.0 if self.groups[name] == "sums" else weight.trunk, dtype=torch.float64)

    def _total(self, name: str, tensor: Tensor) -> Tensor:
        if self.groups[name] == "head" and self.rows is not None:
            return by_row(self.rows, tensor)
        return torch.tensor(self.states if self.groups[name] == "sums" else self.trunk, dtype=torch.float64)


def by_row(weights: NDArray[Any], tensor: Tensor) -> Tensor:
    """Return weights (C,) in the shape that multiplies the rows of a tensor (C, …)."""
    return torch.from_numpy(weights).view(-1, *[1] * (tensor.dim() - 1))


@dataclass
class MixtureStats:
    """Mean and variance of the mixture of sites: Var = Σ p_k (var_k + mean_k²) − mean²."""

    groups: Mapping[str, StateGroup]
    weight: float = 0.0
    means: State = field(default_factory=dict)
    squares: State = field(default_factory=dict)

    def add(self, state: Mapping[str, Tensor], weight: Weight) -> None:
        """Add the normalization statistics of a site."""
        self.weight += weight.trunk
        for name in self._names(state):
            mean, variance = state[name].double(), state[_spread(name)].double()
            self.means[name] = self.means.get(name, torch.zeros(())) + weight.trunk * mean
            self.squares[name] = self.squares.get(name, torch.zeros(())) + weight.trunk * (variance + mean**2)

    def value(self) -> State:
        """Return the statistics of the mixture; none where nobody weighs anything."""
        result: State = {}
        if not self.weight:
            return result
        for name, total in self.means.items():
            mean = total / self.weight
            result[name] = mean.float()
            result[_spread(name)] = (self.squares[name] / self.weight - mean**2).clamp(min=0).float()
        return result

    def _names(self, state: Mapping[str, Tensor]) -> list[str]:
        return [n for n in state if self.groups.get(n) == "norm_stats" and n.endswith("running_mean")]


def _spread(name: str) -> str:
    return name.replace("running_mean", "running_var")
