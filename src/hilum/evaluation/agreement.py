"""Do maps depend on what they claim to show: on the weights, and on the finding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from hilum.errors import DataError
from hilum.evaluation.bootstrap import mean_of_known
from hilum.evaluation.boxes import Floats

AT_ONCE = 64  # images whose ranks are held


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return Spearman's correlation of two maps over their cells, of each image: (N,) in [-1, 1].

    Both (N, H, W). Near 1 for a map and that of shuffled weights, the map shows nothing that was learnt (Adebayo et
    al. 2018). NaN where one of them is constant. Raises ``DataError``.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 3 or a.shape != b.shape:
        raise DataError(f"Expected two maps (height, width) of every image; found {a.shape} and {b.shape}.")
    x, y = _centred_ranks(a), _centred_ranks(b)
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.full(len(a), np.nan), where=size > 0)


def other_findings(maps: ArrayLike) -> tuple[Floats, Floats]:
    """Return how far the map of each finding is that of the others of its image, (N, C) each.

    ``maps`` (N, C, H, W). First the mean of ``rank_correlation`` with each other finding, second the share of them
    whose highest cell is the same. A model that tells findings apart on the image has low values of both; NaN where
    there is no other finding.
    """
    m = np.asarray(maps)
    parts = [_other_findings(m[start : start + AT_ONCE]) for start in range(0, max(len(m), 1), AT_ONCE)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _other_findings(maps: NDArray[Any]) -> tuple[Floats, Floats]:
    ranks, own = _centred_ranks(maps), np.eye(maps.shape[1], dtype=bool)
    products = np.einsum("nax,nbx->nab", ranks, ranks, optimize=True)
    squares = products[:, own]
    size = np.sqrt(squares[:, :, None] * squares[:, None])
    same = np.divide(products, size, out=np.full(products.shape, np.nan), where=(size > 0) & ~own)
    peaks = maps.reshape(*maps.shape[:2], maps.shape[2] * maps.shape[3]).argmax(axis=2)
    shared = np.where(own, np.nan, peaks[:, :, None] == peaks[:, None])
    return mean_of_known(same, axis=2), mean_of_known(shared, axis=2)


def _centred_ranks(maps: NDArray[Any]) -> Floats:
    """Return the ranks of the cells of maps (..., H, W) less their mean: (..., H · W)."""
    ranks = rankdata(maps.reshape(*maps.shape[:-2], maps.shape[-2] * maps.shape[-1]), axis=-1)
    return np.asarray(ranks - ranks.mean(axis=-1, keepdims=True), dtype=np.float64)
