"""Variance of AUROCs and of their differences without resampling, also where a patient has several images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata
from scipy.stats import t as student

from hilum.evaluation.bootstrap import LEVEL, MACRO, check_seeds, fewest_of_class, patients_of, too_few
from hilum.evaluation.classification import Floats


@dataclass(frozen=True)
class DeLong:
    """An AUROC, or a difference of two, with its standard error, interval and two-sided p value.

    ``p`` is of a difference against 0, and of one finding's AUROC against 0.5; NaN for a macro against 0.5, and where
    a difference does not vary.
    """

    value: float
    error: float
    low: float
    high: float
    p: float


def delong(
    scores: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    findings: Sequence[str],
    against: ArrayLike | None = None,
    level: float = LEVEL,
) -> dict[str, DeLong]:
    """Return the AUROC of each finding and of ``'macro'``, or its difference to that of the scores ``against``.

    Shapes and errors as in ``paired_difference``; with several seeds the value is the mean over them. DeLong et al.
    1988, with the components of a patient's images summed (Obuchowski 1997); interval and p of a difference by
    Student's t with as many degrees of freedom as the smaller class has patients, less one (a macro: the finding with
    fewest). Against 0.5, p is that of the rank-sum test with patients as its samples (Mann and Whitney 1947): DeLong's
    variance shrinks with the very ranking that is tested. NaN where either class has fewer than ``FEWEST_OF_CLASS``
    patients; the macro is over the other findings.
    """
    first, targets_, who = check_seeds(scores, targets, patients, findings)
    values, parts = influences(first, targets_, who)
    if against is not None:
        second = influences(check_seeds(against, targets, patients, findings)[0], targets_, who)
        values, parts = values - second[0], parts - second[1]
    parts = np.where(too_few(targets_, who), np.nan, parts)
    known = ~np.isnan(parts).any(axis=0)
    columns = [*parts.T, parts[:, known].mean(axis=1) if known.any() else np.full(len(parts), np.nan)]
    means = [*values, values[known].mean() if known.any() else np.nan]
    fewest = fewest_of_class(targets_, who)
    freedom = [*fewest - 1, fewest[known].min(initial=targets_.shape[0]) - 1]
    table = {
        name: _test(float(mean), float(np.sqrt((column**2).sum())), int(df), level)
        for name, mean, column, df in zip((*findings, MACRO), means, columns, freedom, strict=True)
    }
    if against is None:
        shown, absent = (patients_of(targets_ == k, who) for k in (1, 0))
        chance = dict(zip(findings, map(_rank_sum_p, np.where(known, values, np.nan), shown, absent), strict=True))
        table = {name: replace(one, p=chance.get(name, np.nan)) for name, one in table.items()}
    return table


def influences(scores: Floats, targets: Floats, patients: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Return the mean AUROC over S seeds (C,), and each patient's part in it (I, C), whose squares sum to its variance.

    ``scores`` (S, N, C), ``targets`` (N, C). The product of two columns sums to the covariance of two findings.
    """
    _, member = np.unique(patients, return_inverse=True)
    count = int(member.max(initial=-1)) + 1
    values, parts = np.full(scores.shape[2], np.nan), np.full((count, scores.shape[2]), np.nan)
    for c in range(scores.shape[2]):
        positive, negative = np.flatnonzero(targets[:, c] == 1), np.flatnonzero(targets[:, c] == 0)
        if not len(positive) or not len(negative):
            continue
        above, below = _placements(scores[:, positive, c], scores[:, negative, c])
        values[c] = above.mean()
        sides = ((positive, above), (negative, below))
        parts[:, c] = sum(_side(member[rows], placed - values[c], count) for rows, placed in sides)
    return values, parts


def _placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    # Mean over seeds of the share of negatives below each positive, and of positives above each negative.
    m, n = positive.shape[1], negative.shape[1]
    ranks = rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    above = (ranks[:, :m] - rankdata(positive, axis=1)) / n
    below = 1 - (ranks[:, m:] - rankdata(negative, axis=1)) / m
    return above.mean(axis=0), below.mean(axis=0)


def _side(member: NDArray[np.intp], excess: Floats, count: int) -> Floats:
    patients = len(np.unique(member))
    if patients < 2:
        return np.full(count, np.nan)
    return np.bincount(member, excess, minlength=count) / len(excess) * np.sqrt(patients / (patients - 1))


def _test(value: float, error: float, freedom: int, level: float) -> DeLong:
    reach = student.ppf((1 + level) / 2, freedom) * error
    t = value / error if error > 0 else 0.0 if error == 0 and value == 0 else np.nan
    return DeLong(value, error, value - reach, value + reach, float(2 * student.sf(abs(t), freedom)))


def _rank_sum_p(auroc: float, positive: int, negative: int) -> float:
    if auroc in (0, 1):  # all on their side: the chance of that ranking and its opposite
        return min(1.0, 2 / comb(positive + negative, positive))
    error = np.sqrt((positive + negative + 1) / (12 * max(positive * negative, 1)))
    return float(2 * norm.sf(abs(auroc - 0.5) / error))
