"""How far apart the labels of sites are: of prevalences alone, no image moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.shift.proportions import Z95
from hilum.shift.samples import Floats


@dataclass(frozen=True)
class Ratio:
    """A ratio of two prevalences with its 95 % interval; NaN where it does not exist."""

    value: float
    low: float
    high: float


def patient_counts(targets: ArrayLike, patients: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many patients have a finding on any image, and how many have a known label of it, (C,) each.

    targets: (N, C) in {1, 0, NaN}; patients: (N,).
    """
    t, member = np.asarray(targets, np.float64), np.unique(np.asarray(patients), return_inverse=True)[1]
    if t.ndim != 2 or member.shape != t.shape[:1]:
        raise DataError(f"Expected targets (N, C) and patients (N,); found {t.shape} and {member.shape}.")
    positive, known = (np.zeros((member.max(initial=-1) + 1, t.shape[1]), bool) for _ in range(2))
    np.logical_or.at(positive, member, t == 1)
    np.logical_or.at(known, member, ~np.isnan(t))
    return positive.sum(axis=0), known.sum(axis=0)


def label_emd(priors: ArrayLike, weights: ArrayLike | None = None, known: ArrayLike | None = None) -> Floats:
    """Return the label distance (K,) of each site from the mixture of all (Zhao et al. 2018), 0 … 2.

    priors: (K, C) prevalences, NaN or ``known`` (K, C) false where a site does not label a finding; weights:
    (K,) shares of the mixture, equal unless given. Each site's prevalences are scaled to sum to 1, mixed, and
    compared by Σ_c |p_kc − p_c|; over the findings the site knows, where the mixture is that of the sites
    which know *all* of those. NaN for a site that knows none or has no positive.
    """
    p = _priors(priors, known)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(p),) or not (w >= 0).all() or not w.sum() > 0:
        raise DataError(f"Expected {len(p)} weights ≥ 0, not all 0; found shape {w.shape}.")
    distances = np.full(len(p), np.nan)
    for k, own in enumerate(p):
        here = ~np.isnan(own)
        able = ~np.isnan(p[:, here]).any(axis=1)
        vectors = np.array([_normalized(row) for row in p[able][:, here]]).reshape(able.sum(), -1)
        usable = ~np.isnan(vectors).any(axis=1) & (w[able] > 0)
        if here.any() and usable.any():
            mixture = np.average(vectors[usable], axis=0, weights=w[able][usable])
            distances[k] = np.abs(_normalized(own[here]) - mixture).sum()
    return distances


def label_emd_matrix(priors: ArrayLike, known: ArrayLike | None = None) -> Floats:
    """Return the label distances (K, K) of all pairs, each over the findings that both know, 0 … 2.

    Arguments as in ``label_emd``; NaN where two sites share no finding or one has no positive of those.
    """
    p = _priors(priors, known)
    matrix = np.full((len(p), len(p)), np.nan)
    for i, j in np.ndindex(matrix.shape):
        both = ~np.isnan(p[i]) & ~np.isnan(p[j])
        if both.any():
            matrix[i, j] = np.abs(_normalized(p[i, both]) - _normalized(p[j, both])).sum()
    return matrix


def bernoulli_distance(prior_a: ArrayLike, prior_b: ArrayLike) -> float:
    """Return the mean of 2 |p_a − p_b| over the findings known to both, 0 … 2; NaN where there is none.

    prior_a, prior_b: (C,) prevalences in [0, 1], NaN where unknown. For findings that occur together, as
    these do: each one is a distribution of its own, positive and negative.
    """
    return float(bernoulli_matrix(np.stack([np.asarray(prior_a), np.asarray(prior_b)]))[0, 1])


def bernoulli_matrix(priors: ArrayLike) -> Floats:
    """Return ``bernoulli_distance`` of all pairs of sites (K, K) from prevalences (K, C) with NaN."""
    p = _priors(priors, None)
    if (p > 1).any():
        raise DataError("Expected prevalences in [0, 1]; found some above 1.")
    gaps = 2 * np.abs(p[:, None] - p[None])
    known = ~np.isnan(gaps)
    count = known.sum(axis=2)
    total = np.where(known, gaps, 0).sum(axis=2)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)


def prevalence_ratio(pos_a: int, n_a: int, pos_b: int, n_b: int) -> Ratio:
    """Return (pos_a / n_a) / (pos_b / n_b) of patients with its 95 % interval.

    The log interval of Katz et al. (1978). It has no width where both are all positive and none where a count
    is 0: there each of the four cells (positive and negative, of both sites) enters with ½ added (Haldane 1956,
    Anscombe 1956), and the side on which the ratio itself lies at its bound stays there: [0, …] where only b has
    positives, […, ∞] where only a has. Without any positive the value is NaN and the interval [0, ∞].
    Raises ``DataError``.
    """
    for pos, n in ((pos_a, n_a), (pos_b, n_b)):
        if not 0 <= pos <= n or n < 1:
            raise DataError(f"Expected 0 ≤ positives ≤ patients, patients ≥ 1; found {pos} of {n}.")
    if pos_a == pos_b == 0:
        return Ratio(float("nan"), 0.0, math.inf)
    extreme = 0 in (pos_a, pos_b) or (pos_a == n_a and pos_b == n_b)
    low, high = _log_interval(pos_a, n_a, pos_b, n_b, 0.5 if extreme else 0.0)
    if pos_b == 0:
        return Ratio(math.inf, low, math.inf)
    return Ratio(pos_a / n_a / (pos_b / n_b), low if pos_a else 0.0, high)


def _log_interval(pos_a: int, n_a: int, pos_b: int, n_b: int, add: float) -> tuple[float, float]:
    xa, ma, xb, mb = pos_a + add, n_a + 2 * add, pos_b + add, n_b + 2 * add
    middle = math.log(xa / ma) - math.log(xb / mb)
    half = Z95 * math.sqrt(max(0.0, 1 / xa - 1 / ma + 1 / xb - 1 / mb))
    return math.exp(middle - half), math.exp(middle + half)


def _priors(priors: ArrayLike, known: ArrayLike | None) -> Floats:
    p = np.array(priors, np.float64)
    if p.ndim != 2 or (p < 0).any() or np.isinf(p).any():
        raise DataError(f"Expected prevalences (K, C) ≥ 0 or NaN; found shape {p.shape} or others.")
    if known is not None:
        mask = np.asarray(known, bool)
        if mask.shape != p.shape:
            raise DataError(f"Expected known {p.shape}; found {mask.shape}.")
        p[~mask] = np.nan
    return p


def _normalized(vector: Floats) -> Floats:
    total = vector.sum()
    return vector / total if total > 0 else np.full(vector.shape, np.nan)
