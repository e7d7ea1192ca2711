"""Detections against boxes over many images: average precision and FROC, for many resamples at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.evaluation.boxes import Floats, check_boxes, overlaps
from hilum.evaluation.maps import Boxes
from hilum.localization.components import Detections

Judge = Callable[[Detections, Floats], tuple[Floats, Floats]]
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
OVERLAPS = (0.3, 0.5)
DETECTION_FIGURES = (*(f"ap@{t:g}" for t in OVERLAPS), "froc", *(f"froc@{r:g}" for r in RATES))


@dataclass(frozen=True)
class Marks:
    """Detections of one finding in N images, from the highest score to the lowest.

    ``scores`` (D,); ``image`` (D,): whose; ``hits`` (D,): boxes that it is the first to find; ``false`` (D,): 1 for a
    false alarm; ``last`` (G,): the last detection of each of the G distinct scores; ``boxes`` (N,): annotated boxes of
    an image.
    """

    scores: Floats
    image: NDArray[np.intp]
    hits: Floats
    false: Floats
    last: NDArray[np.intp]
    boxes: Floats


def match_boxes(detections: Sequence[Detections], boxes: Boxes, overlap: float) -> Marks:
    """Match detected boxes to annotated ones, by falling score: a hit has an IoU of at least ``overlap`` with a box.

    Each detection takes the box that it overlaps most, and is a false alarm where another has taken that box before
    (Everingham et al. 2010, Pascal VOC). Raises ``DataError``.
    """

    def judge(found: Detections, true: Floats) -> tuple[Floats, Floats]:
        hits = np.zeros(len(found.scores))
        ratios, taken = overlaps(found.boxes, true)[0], np.zeros(len(true), dtype=bool)
        for k in np.argsort(-found.scores, kind="stable") if len(true) else ():
            best = int(ratios[k].argmax())
            if ratios[k, best] >= overlap and not taken[best]:
                hits[k], taken[best] = 1, True
        return hits, 1 - hits

    return _marks(detections, boxes, judge)


def match_points(detections: Sequence[Detections], boxes: Boxes) -> Marks:
    """Match the points of detections to annotated boxes: a hit lies in a box.

    A point in a box that was hit before, by a higher score, counts neither as a hit nor as a false alarm, and one in
    two boxes hits both. Raises ``DataError``.
    """

    def judge(found: Detections, true: Floats) -> tuple[Floats, Floats]:
        x, y = found.points[:, :1], found.points[:, 1:]
        inside = (true[:, 0] <= x) & (x <= true[:, 2]) & (true[:, 1] <= y) & (y <= true[:, 3])
        order = np.argsort(-found.scores, kind="stable")
        first = np.zeros_like(inside)
        first[order] = inside[order] & (inside[order].cumsum(axis=0) == 1)
        hits, false = first.sum(axis=1), ~inside.any(axis=1)
        return np.asarray(hits, dtype=np.float64), np.asarray(false, dtype=np.float64)

    return _marks(detections, boxes, judge)


def detection_ap(marks: Marks, weights: ArrayLike | None = None) -> Floats:
    """Return the average precision of detections, (R,) in [0, 1]: area under the envelope of precision over recall.

    ``weights`` (R, N): how often each image is drawn; None: once. All points of the curve count (Pascal VOC since
    2010). NaN where there is no annotated box.
    """
    hits, false, boxes, _ = _cumulative(marks, weights)
    called = hits + false
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    found = (np.diff(hits, axis=1, prepend=0) * envelope).sum(axis=1)
    return np.divide(found, boxes, out=np.full(len(boxes), np.nan), where=boxes > 0)


def froc(marks: Marks, rates: Sequence[float] = RATES, weights: ArrayLike | None = None) -> Floats:
    """Return the share of annotated boxes found at up to each number of false alarms per image, (R, len(rates)).

    ``weights`` as in ``detection_ap``; every image counts in the rate, also those without boxes. NaN where there is
    no annotated box. Bunch et al. 1977; the mean over the default rates is the score of LUNA16 and object-CXR.
    """
    hits, false, boxes, images = _cumulative(marks, weights)
    found = [np.where(false <= rate * images[:, None], hits, 0).max(axis=1, initial=0) for rate in rates]
    share = np.stack(found, axis=1)
    return np.divide(share, boxes[:, None], out=np.full(share.shape, np.nan), where=boxes[:, None] > 0)


def detection_statistic(detections: Sequence[Detections], boxes: Boxes) -> Callable[[ArrayLike], Floats]:
    """Return what maps weights (R, N) to the ``DETECTION_FIGURES`` of one finding, (R, K).

    'ap@0.3' needs an IoU of 0.3; 'froc@2' is the share of boxes found at 2 false alarms an image, 'froc' the mean of
    it over ``RATES``.
    """
    by_overlap, by_point = [match_boxes(detections, boxes, t) for t in OVERLAPS], match_points(detections, boxes)

    def figures(weights: ArrayLike) -> Floats:
        curve = froc(by_point, RATES, weights)
        precisions = [detection_ap(marks, weights) for marks in by_overlap]
        return np.column_stack([*precisions, curve.mean(axis=1), curve])

    return figures


def _marks(detections: Sequence[Detections], boxes: Boxes, judge: Judge) -> Marks:
    true = check_boxes(boxes)
    if len(true) != len(detections):
        raise DataError(f"Expected detections and boxes of the same images; found {len(detections)} and {len(true)}.")
    judged = [judge(d, b) for d, b in zip(detections, true, strict=True)]
    scores = np.concatenate([np.empty(0), *(d.scores for d in detections)])
    image = np.repeat(np.arange(len(true)), [len(d.scores) for d in detections])
    order = np.argsort(-scores, kind="stable")
    hits, false = (np.concatenate([np.empty(0), *(pair[k] for pair in judged)])[order] for k in (0, 1))
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) if len(scores) else np.empty(0, np.intp)
    return Marks(scores[order], image[order], hits, false, last, np.array([len(b) for b in true], dtype=np.float64))


def _cumulative(marks: Marks, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats, Floats]:
    # Hits and false alarms (R, G) down to each distinct score; boxes and images (R,).
    w = np.ones((1, len(marks.boxes))) if weights is None else np.asarray(weights, dtype=np.float64)
    drawn = w[:, marks.image]
    hits, false = ((drawn * value).cumsum(axis=1)[:, marks.last] for value in (marks.hits, marks.false))
    return hits, false, w @ marks.boxes, w.sum(axis=1)
