"""Patient-level bootstrap: resamples, intervals and the tables of findings and sites made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.evaluation import METRICS
from hilum.evaluation.classification import Floats, check_predictions
from hilum.randomness import derive_seed, numpy_generator

MACRO = "macro"
LEVEL = 0.95
BLOCK = 1 << 22
FEWEST = 10  # images with boxes, below which their figures are not judged
FEWEST_OF_CLASS = 5

Weights = NDArray[np.uint16]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and the images behind it.

    ``value`` is NaN where the figure does not exist; ``low`` and ``high`` are NaN where more than half of the
    resamples have none, or where fewer than ``FEWEST_OF_CLASS`` patients have a positive image, or a negative, or a
    figure of single images at all: resamples of so few know nothing of those that were not met. ``n`` images have a
    known label, ``positives`` of them are positive; for a macro both count (image, finding) pairs over the
    ``findings`` that are averaged. ``sd`` is the standard deviation between training seeds, NaN for one seed. The
    interval speaks of the patients of the test set only, ``sd`` of the seeds only.
    """

    value: float
    low: float
    high: float
    n: int
    positives: int
    sd: float = float("nan")
    findings: int = 1


Table = dict[str, dict[str, Estimate]]
Statistic = Callable[[NDArray[Any]], Floats]


@dataclass(frozen=True)
class Resampled:
    """Values of the full sample per seed (S, K) and, averaged over the seeds, of each resample (R, K)."""

    seeds: Floats
    resamples: Floats

    @property
    def values(self) -> Floats:
        """Mean over the seeds (K,) that have the figure."""
        return mean_of_known(self.seeds, axis=0)

    @property
    def spread(self) -> float:
        """Standard deviation between seeds of the first figure; NaN for one seed."""
        return float(self.seeds[:, 0].std(ddof=1)) if len(self.seeds) > 1 else float("nan")

    @property
    def averaged(self) -> NDArray[np.bool_]:
        """Which figures (K,) a mean takes: those with resamples, or all that exist where none has any."""
        exists = ~np.isnan(self.values)
        counted = exists & ~np.isnan(self.resamples).all(axis=0)
        return counted if counted.any() else exists

    def without(self, few: NDArray[np.bool_]) -> Resampled:
        """Return the same values, without the resamples of the figures (K,) that rest on too few patients."""
        return Resampled(self.seeds, np.where(few, np.nan, self.resamples))


def patient_weights(patients: ArrayLike, resamples: int, rng: np.random.Generator) -> Weights:
    """Return how often each image is drawn when patients are drawn with replacement, (resamples, N) uint16.

    ``patients`` (N,) identifies each image's patient; all images of a patient enter together (the cluster
    bootstrap: Field and Welsh 2007), so that ten films of one patient count as one witness. Calling twice
    with one generator continues its sequence.
    """
    names, member = np.unique(np.asarray(patients), return_inverse=True)
    n = len(names)
    draws = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    counts = np.bincount(draws.ravel(), minlength=resamples * n).reshape(resamples, n)
    return np.take(counts.astype(np.uint16), member, axis=1)


def interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of resampled values (R,); NaN if more than half of them are NaN.

    ``level`` in (0, 1). NaN resamples, in which the figure does not exist, are left out.
    """
    v = np.asarray(values, dtype=np.float64)
    known = v[~np.isnan(v)]
    if not len(known) or 2 * len(known) < len(v):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_of_known(values: Floats, axis: int | None = None) -> Floats:
    """Return the mean over an axis, or over all, of the values that are not NaN; NaN where none is."""
    known = ~np.isnan(values)
    if known.size and known.all():
        return np.asarray(values.mean(axis=axis))
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def resample(statistic: Statistic, patients: ArrayLike, resamples: int, seed: int) -> Resampled:
    """Compute a statistic on the full sample and on resamples of its patients.

    ``statistic`` maps weights (R, N) to values (R, S, K) for S seeds and K figures. The resamples depend on
    ``patients``, ``resamples`` and ``seed`` alone: two statistics of one test set meet the same patients.
    """
    count = len(np.asarray(patients))
    if not count:
        raise DataError("Expected at least one image to evaluate; found none.")
    rng = numpy_generator(seed, "bootstrap")
    rows = max(1, BLOCK // count)
    full = statistic(np.ones((1, count), dtype=np.uint16))[0]
    blocks = [
        mean_of_known(statistic(patient_weights(patients, min(rows, resamples - start), rng)), axis=1)
        for start in range(0, resamples, rows)
    ]
    return Resampled(full, np.concatenate([np.empty((0, full.shape[1])), *blocks]))


@dataclass(frozen=True)
class Figure:
    """One figure (K = 1), resampled, with the images and positives behind it and the findings it averages.

    ``witnesses``: the patients it hangs on, those of the smaller class; of a mean, those of the finding with fewest.
    """

    sample: Resampled
    n: int
    positives: int
    findings: int = 1
    witnesses: int = 0

    def estimate(self, level: float = LEVEL) -> Estimate:
        """Return the value with its interval."""
        low, high = interval(self.sample.resamples[:, 0], level)
        value = float(self.sample.values[0])
        return Estimate(value, low, high, self.n, self.positives, self.sample.spread, self.findings)


def macro(sample: Resampled) -> Resampled:
    """Average the figures that a mean takes into one, K = 1; see ``Resampled.averaged``.

    A figure that a resample lacks stays out of that resample's mean, and so that the mean does not jump
    when an easy or hard finding is missing, it is the *deviations* from the full sample that are averaged;
    the result stays within the range of the figures.
    """
    taken = sample.averaged
    if not taken.any():
        return Resampled(*(np.full((len(rows), 1), np.nan) for rows in (sample.seeds, sample.resamples)))
    deviations = sample.resamples[:, taken] - sample.values[taken]
    mean = mean_of_known(deviations, axis=1)
    seeds = mean_of_known(sample.seeds[:, taken], axis=1)[:, None]
    seen = np.concatenate([sample.resamples[:, taken], sample.values[None, taken]])
    return Resampled(seeds, np.clip(np.nanmean(seeds) + mean[:, None], np.nanmin(seen), np.nanmax(seen)))


def evaluate_classification(
    scores: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = tuple(METRICS),
    level: float = LEVEL,
) -> Table:
    """Return each metric of each finding, and of ``'macro'``, with patient-bootstrap intervals.

    ``scores`` (N, C) or, for S training seeds, (S, N, C); ``targets`` (N, C) in {1, 0, NaN}; ``patients``
    (N,); ``findings`` the C names; ``metrics`` names in the registry. The macro is the mean over the findings
    whose figure exists; its resamples are the same patients for every finding and seed.
    Raises ``DataError`` and ``UnknownName``.
    """
    s, t, who = check_seeds(scores, targets, patients, findings)
    table: Table = {name: {} for name in (*findings, MACRO)}
    for metric in metrics:
        sample = resample_metric(metric, s, t, who, resamples, seed)
        for name, figure in figures_of(sample, t, who, findings).items():
            table[name][metric] = figure.estimate(level)
    return table


def evaluate_sites(
    scores: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    sites: ArrayLike,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] = tuple(METRICS),
    level: float = LEVEL,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Table]:
    """Return ``evaluate_classification`` of each site, and of ``'macro'``, the mean over the sites.

    ``sites`` (N,) names each image's site; the rest as in ``evaluate_classification``. The mean over sites of
    a finding takes the sites where its figure exists, and its resamples draw patients within each site; its
    ``findings`` counts (site, finding) pairs. Scores of different sites are not ranked against each other.
    ``groups``: name → findings of further means, such as those of ``tail_groups``; an empty group has none.
    """
    s, t, who = check_seeds(scores, targets, patients, findings)
    where = np.asarray(sites).astype(str)
    if where.shape != who.shape or MACRO in where:
        raise DataError(f"Expected {len(who)} site names, none of them '{MACRO}'; found shape {where.shape}.")
    names = list(dict.fromkeys(where.tolist()))
    rows_of = (*findings, MACRO, *(g for g, members in (groups or {}).items() if members))
    tables: dict[str, Table] = {site: {name: {} for name in rows_of} for site in (*names, MACRO)}
    for metric in metrics:
        parts = []
        for site in names:
            rows = where == site
            sample = resample_metric(metric, s[:, rows], t[rows], who[rows], resamples, derive_seed(seed, site))
            parts.append(figures_of(sample, t[rows], who[rows], findings, groups))
        for name in rows_of:
            for site, part in zip(names, parts, strict=True):
                tables[site][name][metric] = part[name].estimate(level)
            tables[MACRO][name][metric] = mean_figure([part[name] for part in parts]).estimate(level)
    return tables


def resample_metric(
    metric: str, scores: Floats, targets: Floats, patients: ArrayLike, resamples: int, seed: int
) -> Resampled:
    """Return ``resample`` of a registered metric on scores (S, N, C) and targets (N, C), K = C.

    A finding with fewer than ``FEWEST_OF_CLASS`` patients of a class has values and no resamples.
    """
    function = METRICS.load(metric)
    sample = resample(
        lambda weights: np.stack([function(s, targets, weights) for s in scores], axis=1), patients, resamples, seed
    )
    return sample.without(too_few(targets, patients))


def too_few(targets: Floats, patients: ArrayLike) -> NDArray[np.bool_]:
    """Return which findings (C,) have fewer than ``FEWEST_OF_CLASS`` patients of a class.

    ``targets`` (N, C), ``patients`` (N,). Patients are counted, not images, because patients are what is drawn; one
    with images of both classes counts in both.
    """
    return fewest_of_class(targets, patients) < FEWEST_OF_CLASS


def fewest_of_class(targets: Floats, patients: ArrayLike) -> NDArray[np.int64]:
    """Return how many patients each finding (C,) has of its smaller class."""
    return np.minimum(patients_of(targets == 1, patients), patients_of(targets == 0, patients))


def few_patients(shown: NDArray[np.bool_], patients: ArrayLike) -> NDArray[np.bool_]:
    """Return which columns of ``shown`` (N, ...) hold for images of fewer than ``FEWEST_OF_CLASS`` patients."""
    return patients_of(shown, patients) < FEWEST_OF_CLASS


def patients_of(shown: NDArray[np.bool_], patients: ArrayLike) -> NDArray[np.int64]:
    """Return of how many patients the images are for which each column of ``shown`` (N, ...) holds."""
    _, member = np.unique(np.asarray(patients), return_inverse=True)
    of_patient = np.zeros((member.max(initial=-1) + 1, *shown.shape[1:]), dtype=bool)
    np.logical_or.at(of_patient, member, shown)
    return np.asarray(of_patient.sum(axis=0), dtype=np.int64)


def figures_of(
    sample: Resampled,
    targets: Floats,
    patients: ArrayLike,
    findings: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Figure]:
    """Return the figure of each finding, their macro, and the mean of each group of findings that is not empty."""
    n, positives = (~np.isnan(targets)).sum(axis=0), (targets == 1).sum(axis=0)
    witnesses = fewest_of_class(targets, patients)
    figures = {
        name: Figure(
            Resampled(sample.seeds[:, k : k + 1], sample.resamples[:, k : k + 1]),
            int(n[k]),
            int(positives[k]),
            witnesses=int(witnesses[k]),
        )
        for k, name in enumerate(findings)
    }
    means = {MACRO: findings, **{name: members for name, members in (groups or {}).items() if members}}
    return {**figures, **{name: mean_figure([figures[f] for f in members]) for name, members in means.items()}}


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Return the mean of figures resampled together, over those that ``Resampled.averaged`` takes."""
    sample = Resampled(
        np.concatenate([f.sample.seeds for f in figures], axis=1),
        np.concatenate([f.sample.resamples for f in figures], axis=1),
    )
    taken = [f for f, yes in zip(figures, sample.averaged, strict=True) if yes]
    n, positives, findings = (sum(getattr(f, k) for f in taken) for k in ("n", "positives", "findings"))
    return Figure(macro(sample), n, positives, findings, min((f.witnesses for f in taken), default=0))


def check_seeds(
    scores: ArrayLike, targets: ArrayLike, patients: ArrayLike, findings: Sequence[str]
) -> tuple[Floats, Floats, NDArray[Any]]:
    """Return scores (S, N, C), targets (N, C) and patients (N,); raises ``DataError``."""
    s = np.asarray(scores, dtype=np.float64)
    s = s[None] if s.ndim == 2 else s
    if s.ndim != 3 or not len(s):
        raise DataError(f"Expected scores (samples, findings) or (seeds, samples, findings); found {s.shape}.")
    t = [check_predictions(one, targets)[1] for one in s][-1]
    who = np.asarray(patients)
    if (
        who.shape != t.shape[:1]
        or len(findings) != t.shape[1]
        or MACRO in findings
        or len(set(findings)) < len(findings)
    ):
        raise DataError(
            f"Expected {t.shape[0]} patients and {t.shape[1]} different finding names, "
            f"none of them '{MACRO}'; "
            f"found {who.shape} patients and {len(findings)} names."
        )
    return s, t, who
