"""Two arms on the same patients: the difference of a metric, its interval and its p value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hilum.evaluation import METRICS
from hilum.evaluation.bootstrap import (
    LEVEL,
    MACRO,
    Estimate,
    Figure,
    Resampled,
    check_seeds,
    figures_of,
    resample_metric,
)


@dataclass(frozen=True)
class Difference(Estimate):
    """A figure of one arm minus that of another on the same patients, with a two-sided bootstrap p value."""

    p: float = float("nan")


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = tuple(METRICS),
    level: float = LEVEL,
) -> dict[str, dict[str, Difference]]:
    """Return metric(a) - metric(b), per finding and macro, on the same resamples of the same patients.

    Shapes as in ``evaluate_classification``; a and b may differ in their number of seeds, and ``sd`` is the
    spread of the seed-by-seed differences where they do not. ``p`` is two-sided: twice the smaller share of
    resamples at or beyond 0, with one added to count and total (Davison and Hinkley 1997, chapter 4).
    """
    a, t, who = check_seeds(scores_a, targets, patients, findings)
    b, _, _ = check_seeds(scores_b, targets, patients, findings)
    table: dict[str, dict[str, Difference]] = {name: {} for name in (*findings, MACRO)}
    for metric in metrics:
        first, second = (resample_metric(metric, one, t, who, resamples, seed) for one in (a, b))
        sample = _subtract(first, second)
        for name, figure in figures_of(sample, t, findings).items():
            table[name][metric] = difference_of(figure, level)
    return table


def two_sided_p(differences: ArrayLike) -> float:
    """Return the two-sided bootstrap p value of resampled differences (R,) against 0; NaN without any."""
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if not len(d):
        return float("nan")
    return float(min(1.0, 2 * (1 + min((d <= 0).sum(), (d >= 0).sum())) / (len(d) + 1)))


def difference_of(figure: Figure, level: float) -> Difference:
    """Return a resampled difference with its interval and p value."""
    return Difference(**vars(figure.estimate(level)), p=two_sided_p(figure.sample.resamples[:, 0]))


def _subtract(a: Resampled, b: Resampled) -> Resampled:
    paired = len(a.seeds) == len(b.seeds)
    seeds = a.seeds - b.seeds if paired else (a.values - b.values)[None]
    return Resampled(seeds, a.resamples - b.resamples)
