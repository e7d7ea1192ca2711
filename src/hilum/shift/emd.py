"""Earth Mover's Distance between signatures, histograms and samples (Rubner, Tomasi and Guibas 2000), exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.randomness import derive_seed
from hilum.shift.samples import Floats, standardize
from hilum.shift.transport import transport

__all__ = ["Flow", "Signature", "emd", "emd_1d", "emd_samples", "signature", "standardize"]

METRICS = ("euclidean", "cityblock", "sqeuclidean", "chebyshev")


@dataclass(frozen=True)
class Signature:
    """A distribution as few points: ``centers`` (k, d) and their ``weights`` (k,) ≥ 0, of any sum above 0."""

    centers: Floats
    weights: Floats

    def __post_init__(self) -> None:
        c, w = self.centers, self.weights
        if c.ndim != 2 or w.shape != c.shape[:1] or not np.isfinite(c).all():
            raise DataError(f"Expected finite centers (k, d) and weights (k,); found {c.shape} and {w.shape}.")
        if not (w >= 0).all() or not 0 < w.sum() < np.inf:
            raise DataError("Expected weights ≥ 0 with a finite sum above 0; found others.")


@dataclass(frozen=True)
class Flow:
    """``cost``: mean distance over the mass that moves; ``flow`` (k1, k2): how much goes from where to where."""

    cost: float
    flow: Floats


def signature(x: ArrayLike, k: int = 16, seed: int = 0) -> Signature:
    """Return the means and shares of k clusters of features (n, d); fewer where fewer points differ.

    k-means++ with four starts (Arthur and Vassilvitskii 2007); the shares sum to 1. The same points in any order
    have the same signature. This is the only approximation in a distance of signatures: what happens inside a
    cluster is not seen.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all() or k < 1:
        raise DataError(f"Expected finite features (n, d) and k ≥ 1; found {values.shape} and k = {k}.")
    distinct, counts = np.unique(values, axis=0, return_counts=True)
    if len(distinct) <= k:
        return Signature(distinct, counts / counts.sum())
    state = derive_seed(seed, "signature") % 2**32
    with threadpool_limits(1):  # one order of summation, and no waiting on a busy machine
        label = KMeans(k, n_init=4, random_state=state).fit(distinct, sample_weight=counts).labels_
    sizes = np.bincount(label, counts, k)
    sums = np.zeros((k, values.shape[1]))
    np.add.at(sums, label, distinct * counts[:, None])
    kept = sizes > 0
    return Signature(sums[kept] / sizes[kept, None], sizes[kept] / len(values))


def emd(p: Signature, q: Signature, metric: str = "euclidean") -> Flow:
    """Return the Earth Mover's Distance of two signatures and its flow.

    Σ f_ij d_ij / Σ f_ij over the cheapest flow of min(Σ w_p, Σ w_q); 0 where the lighter one is part of the
    heavier. For equal sums it is the 1-Wasserstein distance, and a metric where d is one: 'euclidean',
    'cityblock' and 'chebyshev' are, 'sqeuclidean' is not. Exact (``transport``). Raises ``DataError``.
    """
    cost = _distances(p.centers, q.centers, metric)
    flow = transport(cost, p.weights, q.weights)
    return Flow(float((flow * cost).sum() / flow.sum()), flow)


def emd_1d(u: ArrayLike, v: ArrayLike, u_weights: ArrayLike | None = None, v_weights: ArrayLike | None = None) -> float:
    """Return the 1-Wasserstein distance on the line, ∫ |F_u − F_v|, in the unit of the values.

    u (n,) and v (m,): values; weights of the same shapes are scaled to sum to 1, equal where not given.
    """
    sides = [_weighted(u, u_weights), _weighted(v, v_weights)]
    points = np.unique(np.concatenate([values for values, _ in sides]))
    steps = [np.bincount(np.searchsorted(points, values), w, len(points)) for values, w in sides]
    return float(np.abs(np.cumsum(steps[0] - steps[1])[:-1]) @ np.diff(points))


def emd_samples(a: ArrayLike, b: ArrayLike) -> float:
    """Return the exact 1-Wasserstein distance (Euclidean) of two samples (n, d) and (m, d), no clusters between.

    Equal n: the cheapest assignment (Crouse 2016), 0.1 s for 1,000 images; otherwise the transportation
    problem, some ten times slower. Between samples of one distribution it is above 0, and in many dimensions
    far above: read it beside the distance of two halves of a site.
    """
    from scipy.optimize import linear_sum_assignment

    cost = _distances(np.asarray(a, np.float64), np.asarray(b, np.float64), "euclidean")
    n, m = cost.shape
    if n == m:
        return float(cost[linear_sum_assignment(cost)].mean())
    return float((transport(cost, np.full(n, 1 / n), np.full(m, 1 / m)) * cost).sum())


def _distances(a: Floats, b: Floats, metric: str) -> Floats:
    from scipy.spatial.distance import cdist

    if metric not in METRICS:
        raise DataError(f"Expected a metric of {', '.join(METRICS)}; found '{metric}'.")
    if a.ndim != 2 or b.ndim != 2 or not a.size or not b.size or a.shape[1] != b.shape[1]:
        raise DataError(f"Expected points (n, d) and (m, d); found {a.shape} and {b.shape}.")
    distances: Floats = cdist(a, b, metric)
    return distances


def _weighted(values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats]:
    x = np.asarray(values, np.float64)
    w = np.ones(x.shape) if weights is None else np.asarray(weights, np.float64)
    if x.ndim != 1 or w.shape != x.shape or not np.isfinite(x).all() or not (w >= 0).all() or not w.sum() > 0:
        raise DataError(f"Expected values (n,) and weights (n,) ≥ 0, not all 0; found {x.shape} and {w.shape}.")
    return x, w / w.sum()
