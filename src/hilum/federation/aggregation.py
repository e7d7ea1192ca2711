"""Weighted means of states, each group of tensors with its own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.federation.messages import LabelCounts
from hilum.models.classifier import StateGroup
from hilum.sites.weights import label_contrast, label_evidence, shares, site_shares
from hilum.training.state import State, fingerprint

OWN_EVIDENCE = 5.0  # n⁺ n⁻ / n below which a row of one's own would learn the site and not the finding


def site_weights(counts: Sequence[LabelCounts], tau: float, weighting: str = "known") -> NDArray[np.float64]:
    """Return the shares p_k (K,) of the sites in trunk and normalization (see ``sites.weights``)."""
    images, known, positive = _stacked(counts)
    return site_shares(images, known, positive, tau, weighting)


def row_weights(counts: Sequence[LabelCounts], tau: float, weighting: str = "known") -> NDArray[np.float64]:
    """Return weights (K, C) ∝ evidence^tau of each finding; columns that nobody labels are all zero."""
    _, known, positive = _stacked(counts)
    return shares(label_evidence(known, positive, weighting), tau)


def own_rows(counts: LabelCounts) -> NDArray[np.bool_]:
    """Return the findings (C,) of which a site can teach a row of its own: n⁺ n⁻ / n of ``OWN_EVIDENCE`` or more.

    That takes at least four times as many labelled images.
    """
    return label_contrast(counts.known, counts.positive) >= OWN_EVIDENCE


def _stacked(counts: Sequence[LabelCounts]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    images = np.array([c.images for c in counts], np.int64)
    return images, np.stack([c.known for c in counts]), np.stack([c.positive for c in counts])


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
