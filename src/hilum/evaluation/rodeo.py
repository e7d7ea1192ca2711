"""RoDeO, Robust Detection Outcome: detections against boxes of many findings at once, by place, shape and finding.

Meissen et al., MIDL 2023, PMLR 227:568-585. Equations are numbered as there. The figures agree with the authors'
package rodeometric 0.0.1, up to the 1e-6 that it adds before the harmonic mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from hilum.errors import DataError
from hilum.evaluation.boxes import Floats, check_boxes, overlaps
from hilum.evaluation.maps import Boxes

RODEO_FIGURES = ("rodeo", "rodeo_localization", "rodeo_shape", "rodeo_classification")


@dataclass(frozen=True)
class RodeoCounts:
    """What matching gave in each of N images, for each of C findings and last for all: (N, C + 1, 7).

    Along the last axis: matched boxes, boxes without a partner (predicted or true), sums of the localization and of
    the shape score over matched boxes, and true positives, false positives and false negatives of the matched boxes'
    findings. A matched pair counts under the finding of its true box.
    """

    counts: Floats
    findings: int

    def figures(self, weights: ArrayLike | None = None) -> Floats:
        """Return the ``RODEO_FIGURES`` (R, 4, C + 1) in [0, 1], higher is better; NaN where there is no box at all.

        ``weights`` (R, N): how often each image is drawn; None: once. Images stay matched as they are in the full
        sample. Equations 2 to 6, with weights of 1: a box without a partner scores 0 thrice, and the total is the
        harmonic mean.
        """
        w = np.ones((1, len(self.counts))) if weights is None else np.asarray(weights, dtype=np.float64)
        matched, alone, place, shape, hits, wrong, missed = np.moveaxis(np.tensordot(w, self.counts, 1), -1, 0)
        boxes = matched + alone
        right = self._matthews(hits, wrong, missed, matched)
        parts = np.stack([place, shape, right * matched])
        scores = np.divide(parts, boxes, out=np.full(parts.shape, np.nan), where=boxes > 0)
        positive = (scores > 0).all(axis=0)
        inverse = np.divide(1, scores, out=np.ones_like(scores), where=scores > 0).sum(axis=0)
        total = np.where(boxes > 0, np.where(positive, 3 / inverse, 0), np.nan)
        return np.stack([total, *scores], axis=1)

    def _matthews(self, hits: Floats, wrong: Floats, missed: Floats, matched: Floats) -> Floats:
        """Return the correlation of predicted and true findings of matched boxes, one-hot over findings, at least 0."""
        if self.findings == 1:
            return np.ones_like(hits)
        rest = matched * self.findings - hits - wrong - missed
        product = (hits + wrong) * (hits + missed) * (rest + wrong) * (rest + missed)
        value = (hits * rest - wrong * missed) / np.sqrt(np.where(product > 0, product, 1))
        return np.where(product > 0, value, 0).clip(min=0)


def rodeo_counts(predicted: Mapping[str, Boxes], true: Mapping[str, Boxes]) -> RodeoCounts:
    """Match predicted boxes to true ones, image by image, over all findings together.

    Both map the same C findings to the boxes of N images. The assignment has the highest sum of generalized IoU and,
    for a pair of one finding, ω (equation 1). ω is how well the findings of whole images are told, a Matthews
    correlation of at least 0. With one finding nothing can be confused and its classification score is 1 for every
    match. Raises ``DataError``.
    """
    found, truth = ({f: check_boxes(b) for f, b in side.items()} for side in (predicted, true))
    images = {len(b) for side in (found, truth) for b in side.values()}
    if list(found) != list(truth) or not found or len(images) != 1:
        raise DataError(
            f"Expected predicted and true boxes of the same findings in the same images; found {list(found)} and "
            f"{list(truth)}, and {sorted(images)} images."
        )
    names, total = list(found), images.pop()
    shown = [np.array([[len(b) > 0 for b in side[f]] for f in names], dtype=bool) for side in (found, truth)]
    omega = _told(shown[0], shown[1])
    counts = np.zeros((total, len(names) + 1, 7))
    for image in range(total):
        ours, mine = _joined([found[f][image] for f in names])
        theirs, yours = _joined([truth[f][image] for f in names])
        counts[image] = _match(ours, mine, theirs, yours, omega, len(names))
    return RodeoCounts(counts, len(names))


def _match(
    ours: Floats, mine: NDArray[np.intp], theirs: Floats, yours: NDArray[np.intp], omega: float, findings: int
) -> Floats:
    counts = np.zeros((findings + 1, 7))
    rows, columns = linear_sum_assignment(-_generalized_iou(ours, theirs) - omega * (mine[:, None] == yours))
    truth, same = yours[columns], mine[rows] == yours[columns]
    scored = np.stack([np.ones(len(rows)), *_agreement(ours[rows], theirs[columns])], axis=1)
    alone = np.concatenate([np.delete(mine, rows), np.delete(yours, columns)])
    for finding in range(findings + 1):
        chosen = truth == finding if finding < findings else np.ones(len(rows), dtype=bool)
        at = counts[finding]
        at[[0, 2, 3]] = scored[chosen].sum(axis=0)
        at[1] = (alone == finding).sum() if finding < findings else len(alone)
        at[4], at[5] = same[chosen].sum(), (~same[chosen]).sum()
        at[6] = at[5]
    return counts


def _agreement(ours: Floats, theirs: Floats) -> tuple[Floats, Floats]:
    """Return the localization (equation 2) and shape scores (equation 3) of pairs of boxes, both (n,)."""
    size, true = (b[:, 2:] - b[:, :2] for b in (ours, theirs))
    shift = (ours[:, :2] + ours[:, 2:] - theirs[:, :2] - theirs[:, 2:]) / 2 / true
    common = np.minimum(size, true).prod(axis=1)
    return np.exp(-np.log(2) * (shift**2).sum(axis=1)), common / (size.prod(axis=1) + true.prod(axis=1) - common)


def _generalized_iou(first: Floats, second: Floats) -> Floats:
    """Return the generalized IoU (n, m) of boxes (Rezatofighi et al. 2019)."""
    iou = overlaps(first, second)[0]
    corner = np.minimum(first[:, None, :2], second[None, :, :2])
    opposite = np.maximum(first[:, None, 2:], second[None, :, 2:])
    hull = (opposite - corner).prod(axis=2)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1)[:, None] + (second[:, 2:] - second[:, :2]).prod(axis=1)
    union = areas / (1 + iou)
    return np.asarray(iou - (hull - union) / hull)


def _told(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return how well findings (C, N) of whole images are told: Matthews correlation, at least 0."""
    if predicted.all() == predicted.any() or true.all() == true.any():
        return 0.0
    return max(0.0, float(np.corrcoef(predicted.ravel(), true.ravel())[0, 1]))


def _joined(boxes: Sequence[Floats]) -> tuple[Floats, NDArray[np.intp]]:
    """Return the boxes of all findings together, and of which finding each is."""
    return np.concatenate(boxes), np.repeat(np.arange(len(boxes)), [len(b) for b in boxes])
