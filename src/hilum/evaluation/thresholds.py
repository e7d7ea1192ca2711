"""What is tuned before a test: where maps are cut, and from which probability a finding is called."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hilum.evaluation.boxes import Floats
from hilum.evaluation.maps import Boxes, iou
from hilum.localization.components import Threshold

CUTS = tuple(round(0.1 + 0.05 * k, 2) for k in range(17))
FEWEST_TO_TUNE = 10  # images with boxes


def tune_threshold(maps: ArrayLike, boxes: Boxes, fewest: int = FEWEST_TO_TUNE) -> Threshold:
    """Return the threshold of ``CUTS`` at which the mean IoU of mask and boxes is highest on validation patients.

    ``maps`` (N, H, W) or, for S training seeds, (S, N, H, W); ``boxes`` of one finding per image. With boxes on fewer
    than ``fewest`` images it is 'otsu': each map is then cut by itself. Of equal thresholds the lowest. CheXlocalize
    (Saporta et al. 2022) tunes so, over 0.2 … 0.7.
    """
    m = np.asarray(maps, dtype=np.float64)
    m = m[None] if m.ndim == 3 else m
    boxed = [k for k, b in enumerate(boxes) if len(np.asarray(b))]
    if len(boxed) < fewest:
        return "otsu"
    chosen = [boxes[k] for k in boxed]
    means = [np.mean([iou(one[boxed], chosen, cut).mean() for one in m]) for cut in CUTS]
    return CUTS[int(np.argmax(means))]


def youden_cut(probabilities: ArrayLike, targets: ArrayLike) -> float:
    """Return the probability from which calling a finding gives the highest sensitivity + specificity.

    ``probabilities`` and ``targets`` (N,) in {1, 0, NaN} of validation patients; NaN where a class is absent. Youden
    1950; of equal cuts the highest.
    """
    p, t = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    positive, negative = np.sort(p[t == 1]), np.sort(p[t == 0])
    if not len(positive) or not len(negative):
        return float("nan")
    cuts: Floats = np.unique(np.concatenate([positive, negative]))[::-1]
    sensitivity = 1 - np.searchsorted(positive, cuts) / len(positive)
    specificity = np.searchsorted(negative, cuts) / len(negative)
    return float(cuts[(sensitivity + specificity).argmax()])
