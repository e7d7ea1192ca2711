"""Are probabilities what they say: expected calibration error, reliability, and corrections fitted on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit

from hilum.errors import DataError
from hilum.evaluation.bootstrap import LEVEL, Estimate, check_seeds, few_patients, figures_of, resample
from hilum.evaluation.classification import Floats, check_predictions

BINS = 15
EDGE = 1e-6
STEEPEST = 20.0


@dataclass(frozen=True)
class Reliability:
    """One bin a row: mean probability, share of positives, images; bins without an image are left out."""

    predicted: Floats
    observed: Floats
    images: Floats


@dataclass(frozen=True)
class Correction:
    """logit p' = slope · logit p + intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, probabilities: ArrayLike) -> Floats:
        """Return corrected probabilities of the same shape."""
        return np.asarray(expit(self.slope * _logit(probabilities) + self.intercept), dtype=np.float64)


def expected_calibration_error(
    probabilities: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, bins: int = BINS
) -> Floats:
    """Return the mean distance between a finding's probability and how often it is there, in bins of equal width.

    ``probabilities`` (N, C) in [0, 1], ``targets`` (N, C) in {1, 0, NaN}, ``weights`` (R, N) multiplicities; returns
    (C,), or (R, C) with weights, in [0, 1]; NaN without a label. Guo et al. 2017, equation 3, on the probability of
    each finding. Few images make it too high. Raises ``DataError``.
    """
    p, t = _check_probabilities(probabilities, targets)
    w = np.ones((1, len(p))) if weights is None else np.asarray(weights, dtype=np.float64)
    values = np.full((len(w), p.shape[1]), np.nan)
    for column in range(p.shape[1]):
        known = ~np.isnan(t[:, column])
        if known.any():
            inside = _inside(p[known, column], bins)
            excess = (p[known, column] - t[known, column])[:, None] * inside
            drawn = w[:, known]
            total = drawn.sum(axis=1)
            gap = np.abs(drawn @ excess).sum(axis=1)
            values[:, column] = np.divide(gap, total, out=np.full(len(w), np.nan), where=total > 0)
    return values[0] if weights is None else values


def evaluate_calibration(
    probabilities: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    findings: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """Return the calibration error of each finding, and of ``'macro'``, with patient-bootstrap intervals.

    Shapes and errors as in ``evaluate_classification``. Few images make the value too high, and resamples of them
    higher still: the interval is the basic one (Davison and Hinkley 1997, equation 5.6), which takes that off, so that
    it may lie below the value. It holds an error of 0.1 or more nearly nine times in ten, one next to 0 less often.
    """
    p, t, who = check_seeds(probabilities, targets, patients, findings)
    sample = resample(
        lambda weights: np.stack([expected_calibration_error(one, t, weights) for one in p], axis=1),
        who,
        resamples,
        seed,
    )
    sample = sample.without(few_patients(~np.isnan(t), who))
    return {name: _basic(figure.estimate(level)) for name, figure in figures_of(sample, t, who, findings).items()}


def reliability(probabilities: ArrayLike, targets: ArrayLike, bins: int = BINS) -> Reliability:
    """Return the points of a reliability plot of one finding, of probabilities and targets (N,)."""
    p, t = _check_probabilities(np.asarray(probabilities)[:, None], np.asarray(targets)[:, None])
    known = ~np.isnan(t[:, 0])
    inside = _inside(p[known, 0], bins)
    images = inside.sum(axis=0)
    some = images > 0
    predicted, observed = ((values[known, 0] @ inside)[some] / images[some] for values in (p, t))
    return Reliability(predicted, observed, images[some])


def fit_temperature(probabilities: ArrayLike, targets: ArrayLike) -> Correction:
    """Return the slope 1 / T under which validation patients' labels are most likely (Guo et al. 2017).

    ``probabilities`` and ``targets`` (N,), NaN labels left out. T lies between 1/20 and 20, so that a correction keeps
    the ranking. Where a class is absent, no correction.
    """
    return _fit(probabilities, targets, slope=True, intercept=False)


def fit_prior_shift(probabilities: ArrayLike, targets: ArrayLike) -> Correction:
    """Return the intercept under which a site's validation labels are most likely, as ``fit_temperature``.

    Where only the share of positives differs between hospitals, this is the difference of its log-odds (Saerens et
    al. 2002, equation 2.4), and the mean probability becomes the share of positives.
    """
    return _fit(probabilities, targets, slope=False, intercept=True)


def fit_platt(probabilities: ArrayLike, targets: ArrayLike) -> Correction:
    """Return slope and intercept together (Platt 1999), as ``fit_temperature``; the slope is positive.

    Where a class is absent, the intercept alone: of n labels the mean becomes about 1 / (n + 2), or the rest to 1.
    """
    return _fit(probabilities, targets, slope=True, intercept=True)


def _basic(estimate: Estimate) -> Estimate:
    """Return an estimate of which the percentile interval becomes the basic one, cut at 0."""
    low, high = (2 * estimate.value - end for end in (estimate.high, estimate.low))
    return replace(estimate, low=float(np.maximum(low, 0)), high=float(np.maximum(high, 0)))


def _fit(probabilities: ArrayLike, targets: ArrayLike, slope: bool, intercept: bool) -> Correction:
    p, t = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    x, y = _logit(p[~np.isnan(t)]), t[~np.isnan(t)]
    positive, platt = y.sum(), slope and intercept
    both = 0 < positive < len(y)
    if not len(y) or not (both or platt):
        return Correction()
    slope = slope and both
    # Platt's targets: a label is certain only as far as the number of labels goes, so that no fit runs away.
    y = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2)) if platt else y

    def loss(v: Floats) -> tuple[float, Floats]:
        z = v[0] * x + v[1]
        gap = expit(z) - y
        return float((np.logaddexp(0, z) - y * z).mean()), np.array([(gap * x).mean(), gap.mean()])

    # A slope of 0 or less would tie or turn round what the model ranks, where labels say the opposite of it.
    bounds = [(1 / STEEPEST, STEEPEST) if slope else (1.0, 1.0), (None, None) if intercept else (0.0, 0.0)]
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds)
    return Correction(float(found.x[0]), float(found.x[1]))


def _logit(probabilities: ArrayLike) -> Floats:
    return np.asarray(logit(np.clip(np.asarray(probabilities, dtype=np.float64), EDGE, 1 - EDGE)), dtype=np.float64)


def _inside(probabilities: Floats, bins: int) -> Floats:
    member = np.minimum((probabilities * bins).astype(np.intp), bins - 1)
    return np.asarray(member[:, None] == np.arange(bins), dtype=np.float64)


def _check_probabilities(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    p, t = check_predictions(probabilities, targets)
    if p.size and (p.min() < 0 or p.max() > 1):
        raise DataError(f"Expected probabilities in [0, 1]; found {p.min():g} to {p.max():g}. Apply a sigmoid first.")
    return p, t
