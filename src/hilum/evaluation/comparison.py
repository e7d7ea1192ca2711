"""Two arms on the same patients: the difference of a metric, its interval and its p value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from hilum.evaluation import METRICS
from hilum.evaluation.bootstrap import (
    LEVEL,
    MACRO,
    Estimate,
    Figure,
    Resampled,
    check_seeds,
    figures_of,
    mean_figure,
    resample_metric,
)
from hilum.randomness import derive_seed


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
    spread of the seed-by-seed differences where they do not. ``p`` is that of ``two_sided_p``.
    """
    a, t, who = check_seeds(scores_a, targets, patients, findings)
    b, _, _ = check_seeds(scores_b, targets, patients, findings)
    table: dict[str, dict[str, Difference]] = {name: {} for name in (*findings, MACRO)}
    for metric in metrics:
        first, second = (resample_metric(metric, one, t, who, resamples, seed) for one in (a, b))
        sample = _subtract(first, second)
        for name, figure in figures_of(sample, t, who, findings).items():
            table[name][metric] = difference_of(figure, level)
    return table


def paired_over_sites(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    sites: ArrayLike,
    findings: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    *,
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = tuple(METRICS),
    level: float = LEVEL,
) -> dict[str, dict[str, Difference]]:
    """Return metric(a) - metric(b) as means over findings, then over sites, each site's patients resampled apart.

    As ``paired_difference``, with what ``evaluate_sites`` takes: ``sites`` (N,), and ``groups``, name → findings of
    means beside ``'macro'``; an empty group has none.
    """
    a, t, who = check_seeds(scores_a, targets, patients, findings)
    b, _, _ = check_seeds(scores_b, targets, patients, findings)
    where = np.asarray(sites).astype(str)
    names = (MACRO, *(name for name, members in groups.items() if members))
    table: dict[str, dict[str, Difference]] = {name: {} for name in names}
    for metric in metrics:
        parts = []
        for site in dict.fromkeys(where.tolist()):
            rows = where == site
            samples = [
                resample_metric(metric, one[:, rows], t[rows], who[rows], resamples, derive_seed(seed, site))
                for one in (a, b)
            ]
            parts.append(figures_of(_subtract(*samples), t[rows], who[rows], findings, groups))
        for name in names:
            table[name][metric] = difference_of(mean_figure([part[name] for part in parts]), level)
    return table


def two_sided_p(differences: ArrayLike, patients: int) -> float:
    """Return the two-sided bootstrap p value of resampled differences (R,) against 0; NaN without any.

    Twice the smaller share of resamples at or beyond 0, with one added to count and total (Davison and Hinkley 1997,
    chapter 4). Where none is, that is 2 / (R + 1) however far away 0 lies, which no correction for many tests survives:
    then, if it is smaller, the tail of Student's t of the resamples' mean over their spread, with as many degrees of
    freedom as the ``patients`` that the figure hangs on, less one.
    """
    d = np.asarray(differences, dtype=np.float64)
    d = d[~np.isnan(d)]
    if not len(d):
        return float("nan")
    beyond = int(min((d <= 0).sum(), (d >= 0).sum()))
    counted = min(1.0, 2 * (1 + beyond) / (len(d) + 1))
    mean, spread = abs(d.mean()), d.std()
    if beyond or patients < 2 or spread < 1e-9 * mean:
        return counted
    error = spread * np.sqrt(patients / (patients - 1))  # resamples of few spread less than samples of them
    return float(min(counted, 2 * student.sf(mean / error, patients - 1)))


def difference_of(figure: Figure, level: float) -> Difference:
    """Return a resampled difference with its interval and p value."""
    return Difference(**vars(figure.estimate(level)), p=two_sided_p(figure.sample.resamples[:, 0], figure.witnesses))


def _subtract(a: Resampled, b: Resampled) -> Resampled:
    paired = len(a.seeds) == len(b.seeds)
    seeds = a.seeds - b.seeds if paired else (a.values - b.values)[None]
    return Resampled(seeds, a.resamples - b.resamples)
