"""Weighted means of states, each group of tensors with its own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.federation.messages import LabelCounts
from hilum.models.classifier import StateGroup
from hilum.training.state import State


def site_weights(counts: Sequence[LabelCounts], tau: float) -> NDArray[np.float64]:
    """Return p_k ∝ n_k^tau over sites (K,): tau 1 is FedAvg's weighting, 0 gives every site the same."""
    n = np.array([c.images for c in counts], np.float64) ** tau
    return n / n.sum()


def row_weights(counts: Sequence[LabelCounts], tau: float) -> NDArray[np.float64]:
    """Return weights (K, C) ∝ known labels^tau of each finding; columns that nobody labels are all zero."""
    known = np.stack([c.known for c in counts]).astype(np.float64)
    weights = np.where(known > 0, known**tau, 0.0)
    total = weights.sum(0, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def aggregate(
    previous: State,
    states: Sequence[State],
    counts: Sequence[LabelCounts],
    groups: Mapping[str, StateGroup],
    tau: float,
) -> State:
    """Return the aggregated state, in float64, independent of the order of the sites.

    Trunk and normalization: Σ p_k w_k with p_k ∝ n_k^tau (McMahan et al. 2017 at tau 1). Head row c: only
    sites that label finding c, weighted by their known labels; a row that nobody labels keeps its previous
    value (Kulkarni et al. 2024, generalized). Integer counters are taken from the previous state.
    """
    order = sorted(range(len(states)), key=lambda k: (counts[k].images, counts[k].known.tobytes(), _first(states[k])))
    states, counts = [states[k] for k in order], [counts[k] for k in order]
    p = torch.from_numpy(site_weights(counts, tau))
    rows = torch.from_numpy(row_weights(counts, tau))
    result: State = {}
    for name, old in previous.items():
        if name not in groups:
            result[name] = old.clone()
            continue
        stacked = torch.stack([state[name].double() for state in states])
        if groups[name] == "head":
            mean = torch.einsum("kc,kc...->c...", rows, stacked)
            labelled = (rows.sum(0) > 0).view(-1, *[1] * (old.dim() - 1))
            result[name] = torch.where(labelled, mean, old.double()).to(old.dtype)
        else:
            result[name] = torch.tensordot(p, stacked, 1).to(old.dtype)
    return result


def _first(state: State) -> float:
    return float(next(iter(state.values())).double().sum())


def pooled_norm_stats(states: Sequence[State], groups: Mapping[str, StateGroup], weights: NDArray[np.float64]) -> State:
    """Return the mean and variance of the mixture of sites: Var = Σ p_k (var_k + mean_k²) − mean²."""
    p = torch.from_numpy(weights)
    result: State = {}
    for name in (n for n, group in groups.items() if group == "norm_stats" and n.endswith("running_mean")):
        spread = name.replace("running_mean", "running_var")
        means = torch.stack([s[name].double() for s in states])
        variances = torch.stack([s[spread].double() for s in states])
        mean = torch.tensordot(p, means, 1)
        result[name] = mean.float()
        result[spread] = (torch.tensordot(p, variances + means**2, 1) - mean**2).clamp(min=0).float()
    return result
