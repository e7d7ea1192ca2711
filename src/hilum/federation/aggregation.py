"""Weighted means of states, each group of tensors with its own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.federation.messages import LabelCounts
from hilum.models.classifier import StateGroup
from hilum.training.state import State, fingerprint


def label_evidence(counts: Sequence[LabelCounts], weighting: str) -> NDArray[np.float64]:
    """Return what each site knows of each finding (K, C): its known labels, or n⁺ n⁻ / n under 'contrast'.

    n⁺ n⁻ / n is the information of n labels about a log-odds at prevalence n⁺ / n. A finding of which no site
    has both classes falls back to known labels.
    """
    known = np.stack([c.known for c in counts]).astype(np.float64)
    if weighting == "known":
        return known
    positive = np.stack([c.positive for c in counts]).astype(np.float64)
    contrast = np.divide(positive * (known - positive), known, out=np.zeros_like(known), where=known > 0)
    return np.where(contrast.sum(0) > 0, contrast, known)


def site_weights(counts: Sequence[LabelCounts], tau: float, weighting: str = "known") -> NDArray[np.float64]:
    """Return p_k ∝ n_k^tau over sites (K,): tau 1 is FedAvg's weighting, 0 gives every site the same.

    n_k: images, or under 'contrast' the evidence over all findings.
    """
    n = np.array([c.images for c in counts], np.float64)
    if weighting == "contrast":
        n = label_evidence(counts, weighting).sum(1)
    return _shares(n, tau)


def row_weights(counts: Sequence[LabelCounts], tau: float, weighting: str = "known") -> NDArray[np.float64]:
    """Return weights (K, C) ∝ evidence^tau of each finding; columns that nobody labels are all zero."""
    return _shares(label_evidence(counts, weighting), tau)


def _shares(amounts: NDArray[np.float64], tau: float) -> NDArray[np.float64]:
    powers = np.where(amounts > 0, amounts**tau, 0.0)
    total = powers.sum(0, keepdims=True)
    return np.divide(powers, total, out=np.zeros_like(powers), where=total > 0)


def aggregate(
    previous: State,
    states: Sequence[State],
    counts: Sequence[LabelCounts],
    groups: Mapping[str, StateGroup],
    tau: float,
    weighting: str = "known",
) -> State:
    """Return the aggregated state, in float64, independent of the order of the sites.

    Trunk and normalization: Σ p_k w_k with p_k ∝ n_k^tau (McMahan et al. 2017 at tau 1). Head row c: only
    sites that label finding c, weighted by what they know of it (``label_evidence``); a row that nobody
    labels keeps its previous value (Kulkarni et al. 2024, generalized). Integer counters are taken from the
    previous state.
    """
    states, counts = in_canonical_order(states, counts)
    p = torch.from_numpy(site_weights(counts, tau, weighting))
    rows = torch.from_numpy(row_weights(counts, tau, weighting))
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


def in_canonical_order(states: Sequence[State], counts: Sequence[LabelCounts]) -> tuple[list[State], list[LabelCounts]]:
    """Return the sites in an order that depends on what they sent alone: only equal sites tie."""
    keys = [
        (c.images, c.known.tobytes(), c.positive.tobytes(), fingerprint(s)) for s, c in zip(states, counts, strict=True)
    ]
    order = sorted(range(len(states)), key=keys.__getitem__)
    return [states[k] for k in order], [counts[k] for k in order]


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
