"""Disease or site: what a score loses with the lesions, and what it still tells of a film without its middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import wilcoxon

from hilum.evaluation.bootstrap import FEWEST, LEVEL, Estimate, evaluate_classification
from hilum.evaluation.localization import evaluate_per_image

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LesionEffect:
    """How much the log-odds fall without the lesions, without equal boxes elsewhere, and how much more without lesions.

    ``p``: Wilcoxon's signed-rank test of ``difference`` over patients; NaN for fewer than 10 images.
    """

    lesions: Estimate
    control: Estimate
    difference: Estimate
    p: float


@dataclass(frozen=True)
class BorderEffect:
    """AUROC of whole films and of the same films without their middle, and the mean log-odds of the positives."""

    whole: Estimate
    border: Estimate
    odds: float
    border_odds: float


def lesion_effect(
    whole: ArrayLike,
    without_lesions: ArrayLike,
    without_control: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> LesionEffect:
    """Return what erasing lesions does beyond erasing as much elsewhere in the same images.

    Log-odds (N,) or (S, N) for S seeds of N images with lesions; ``patients`` (N,). A model that looks at lesions
    loses more with them than with their controls; one that knows the disease from the site loses as little.
    """
    before, lesions, control = (
        np.atleast_2d(np.asarray(v, np.float64)) for v in (whole, without_lesions, without_control)
    )
    who = np.asarray(patients)

    def mean(falls: Floats) -> Estimate:
        return evaluate_per_image(falls, who, resamples=resamples, seed=seed, level=level)

    beyond = control - lesions
    _, member = np.unique(who, return_inverse=True)
    of_patient = np.bincount(member, beyond.mean(axis=0)) / np.bincount(member)
    p = float("nan")
    if len(who) >= FEWEST:
        p = float(wilcoxon(of_patient).pvalue) if of_patient.any() else 1.0
    return LesionEffect(mean(before - lesions), mean(before - control), mean(beyond), p)


def border_effect(
    whole: ArrayLike,
    border: ArrayLike,
    targets: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> BorderEffect:
    """Return how well films are told apart, whole and without their middle.

    Log-odds (N,) or (S, N) for S seeds; ``targets`` (N,) in {1, 0}; ``patients`` (N,). Whatever is told apart without
    the lungs is told from how or where a film was made.
    """
    t = np.asarray(targets, dtype=np.float64)
    both = [np.atleast_2d(np.asarray(v, dtype=np.float64)) for v in (whole, border)]
    tables = [
        evaluate_classification(
            v[:, :, None], t[:, None], patients, [""], resamples=resamples, seed=seed, metrics=["auroc"], level=level
        )
        for v in both
    ]
    whole_odds, border_odds = (float(v[:, t == 1].mean()) if (t == 1).any() else float("nan") for v in both)
    return BorderEffect(tables[0][""]["auroc"], tables[1][""]["auroc"], whole_odds, border_odds)
