"""AUROC and average precision for many findings and many bootstrap resamples at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError

Floats = NDArray[np.float64]
CHUNK = 1 << 16


@dataclass(frozen=True)
class Ranking:
    """One finding's scores, sorted once from the highest to the lowest and grouped where they tie.

    ``positives`` and ``negatives`` index the samples in that order; ``starts`` says where each of the G
    distinct positive scores begins in ``positives``; ``above`` and ``upto`` (G,) count the negatives that
    score higher than, and at least as high as, each of them.
    """

    positives: NDArray[np.intp]
    negatives: NDArray[np.intp]
    starts: NDArray[np.intp]
    above: NDArray[np.intp]
    upto: NDArray[np.intp]


@dataclass(frozen=True)
class Counts:
    """Weighted counts (R, G) of one ranking under R resamples; the fields speak of each positive score."""

    positives: Floats
    above: Floats
    upto: Floats
    all_positives: Floats
    all_negatives: Floats


def auroc(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties counted half.

    ``scores`` (N, C), any finite numbers; ``targets`` (N, C) in {1, 0, NaN}, where NaN rows are left out of
    that finding; ``weights`` (R, N) multiplicities of the samples in R resamples. Returns (C,), or (R, C)
    with weights, in [0, 1]; NaN where a class is absent. Raises ``DataError``.

    Hanley and McNeil 1982: AUROC is the Mann-Whitney statistic divided by positives x negatives.

    >>> auroc([[0.1], [0.4], [0.4], [0.9]], [[0], [0], [1], [1]])
    array([0.875])
    """
    return _per_finding(_auroc, scores, targets, weights)


def average_precision(scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Return the average precision: the mean, over positives, of the precision at their score.

    Shapes, ranges and errors as in ``auroc``. AP = sum over distinct scores of (R_k - R_{k-1}) P_k, without
    interpolation, which is scikit-learn's definition; it is NaN where a class is absent (scikit-learn
    returns 0 without positives and 1 without negatives). Chance level is the prevalence.

    >>> average_precision([[0.9], [0.8], [0.3]], [[1], [0], [1]]).round(4)
    array([0.8333])
    """
    return _per_finding(_average_precision, scores, targets, weights)


def check_predictions(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    """Return scores and targets as float64 (N, C) arrays; raises ``DataError`` for what cannot be ranked."""
    s, t = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if s.ndim != 2 or s.shape != t.shape:
        raise DataError(f"Expected scores and targets of one shape (samples, findings); found {s.shape} and {t.shape}.")
    if not np.isfinite(s).all():
        row, column = np.argwhere(~np.isfinite(s))[0]
        raise DataError(
            f"Expected finite scores; found {s[row, column]} in row {row}, finding {column}. "
            "Look at the model's training before its metrics."
        )
    wrong = ~(np.isnan(t) | (t == 0) | (t == 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(
            f"Expected targets 1, 0 or NaN; found {t[row, column]:g} in row {row}, finding {column}. "
            "Apply a label policy first."
        )
    return s, t


def rank(scores: Floats, targets: Floats) -> Ranking:
    """Sort one finding's scores (N,) once, so that every resample reuses the order; NaN targets drop out."""
    order = np.argsort(-scores, kind="stable")
    positives, negatives = order[targets[order] == 1], order[targets[order] == 0]
    levels, starts = np.unique(-scores[positives], return_index=True)
    falling = -scores[negatives]
    return Ranking(
        positives,
        negatives,
        starts,
        np.searchsorted(falling, levels, side="left"),
        np.searchsorted(falling, levels, side="right"),
    )


def _per_finding(
    metric: Callable[[Counts], Floats], scores: ArrayLike, targets: ArrayLike, weights: ArrayLike | None
) -> Floats:
    s, t = check_predictions(scores, targets)
    w = np.ones((1, len(s)), dtype=np.uint16) if weights is None else _check_weights(weights, len(s))
    values = np.full((len(w), s.shape[1]), np.nan)
    rows = max(1, CHUNK // max(1, len(s)))
    for column in range(s.shape[1]):
        ranking = rank(s[:, column], t[:, column])
        if not len(ranking.positives) or not len(ranking.negatives):
            continue
        for start in range(0, len(w), rows):
            block = slice(start, start + rows)
            values[block, column] = metric(_count(ranking, w[block]))
    return values[0] if weights is None else values


def _check_weights(weights: ArrayLike, samples: int) -> NDArray[Any]:
    w = np.asarray(weights)
    if w.ndim != 2 or w.shape[1] != samples:
        raise DataError(f"Expected weights of shape (resamples, {samples}); found {w.shape}.")
    if w.dtype.kind not in "bu" and not (w >= 0).all():
        raise DataError("Expected weights of at least 0; found a negative weight or NaN.")
    return w


def _count(ranking: Ranking, weights: NDArray[Any]) -> Counts:
    exact = np.int64 if weights.dtype.kind in "biu" else np.float64
    running = np.zeros((len(weights), len(ranking.negatives) + 1), dtype=exact)
    np.cumsum(weights.take(ranking.negatives, axis=1), axis=1, out=running[:, 1:])
    positives = weights.take(ranking.positives, axis=1)
    if len(ranking.starts) < positives.shape[1]:
        positives = np.add.reduceat(positives, ranking.starts, axis=1, dtype=exact)
    return Counts(
        positives.astype(np.float64),
        running.take(ranking.above, axis=1).astype(np.float64),
        running.take(ranking.upto, axis=1).astype(np.float64),
        positives.sum(axis=1, dtype=np.float64),
        running[:, -1].astype(np.float64),
    )


def _auroc(counts: Counts) -> Floats:
    outranking = np.einsum("rg,rg->r", counts.positives, counts.above + counts.upto) / 2
    return 1 - _where_both(outranking, counts, counts.all_positives * counts.all_negatives)


def _average_precision(counts: Counts) -> Floats:
    found = np.cumsum(counts.positives, axis=1)
    called = np.maximum(found + counts.upto, np.finfo(np.float64).tiny)
    total = np.einsum("rg,rg->r", counts.positives, found / called)
    return _where_both(total, counts, counts.all_positives)


def _where_both(numerator: Floats, counts: Counts, denominator: Floats) -> Floats:
    both = (counts.all_positives > 0) & (counts.all_negatives > 0)
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=both)
