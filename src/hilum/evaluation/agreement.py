"""Do maps depend on what they claim to show: on the weights, and on the finding."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from hilum.errors import DataError
from hilum.evaluation.boxes import Floats


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


def other_findings(maps: ArrayLike, finding: int) -> tuple[Floats, Floats]:
    """Return how far the map of a finding is that of the others of its image, (N,) each.

    ``maps`` (N, C, H, W). First the mean of ``rank_correlation`` with each other finding, second the share of them
    whose highest cell is the same. A model that tells findings apart on the image has low values of both; NaN where
    there is no other finding.
    """
    m = np.asarray(maps, dtype=np.float64)
    others = [k for k in range(m.shape[1]) if k != finding]
    if not others:
        return np.full(len(m), np.nan), np.full(len(m), np.nan)
    same = np.stack([rank_correlation(m[:, finding], m[:, k]) for k in others])
    known = ~np.isnan(same)
    count = known.sum(axis=0)
    mean = np.divide(np.where(known, same, 0).sum(axis=0), count, out=np.full(len(m), np.nan), where=count > 0)
    peaks = m.reshape(*m.shape[:2], m.shape[2] * m.shape[3]).argmax(axis=2)
    return mean, (peaks[:, others] == peaks[:, [finding]]).mean(axis=1)


def _centred_ranks(maps: Floats) -> Floats:
    ranks = rankdata(maps.reshape(len(maps), maps.shape[1] * maps.shape[2]), axis=1)
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True), dtype=np.float64)
