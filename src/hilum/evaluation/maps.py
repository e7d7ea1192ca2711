"""Maps against boxes, image by image: pointing game, IoU, IoBB, pixel AUPRC and box energy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.evaluation.boxes import Floats, check_boxes, covers, overlaps
from hilum.localization.components import Threshold, connected_boxes, masks

THRESHOLD: Threshold = 0.5
ACCURACIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
FALSE_BELOW = 0.1

Boxes = Sequence[ArrayLike]
Overlaps = list[tuple[Floats, Floats]]


def pointing_game(maps: ArrayLike, boxes: Boxes) -> Floats:
    """Return 1 where the map's maximum lies in any box, else 0, NaN without boxes; (N,).

    ``maps`` (N, H, W) of any finite values cover the whole image; ``boxes`` (n_b, 4) per image in [0, 1]. The
    point is the centre of the highest cell, of the first in reading order where several tie (so a constant
    map points at the top left). Zhang et al. 2018, without the 15-pixel tolerance.
    """
    return _pointing(*check_maps(maps, boxes))


def hottest_points(maps: ArrayLike) -> Floats:
    """Return where the pointing game points: (N, 2), x and y in [0, 1] of the image."""
    m = np.asarray(maps, dtype=np.float64)
    height, width = m.shape[1:]
    row, column = np.divmod(m.reshape(len(m), height * width).argmax(axis=1), width)
    return np.stack([(column + 0.5) / width, (row + 0.5) / height], axis=1)


def iou(maps: ArrayLike, boxes: Boxes, threshold: Threshold = THRESHOLD) -> Floats:
    """Return intersection over union of the thresholded map and the union of the boxes, (N,) in [0, 1].

    Each map is scaled to [0, 1] by its own minimum and maximum and cut at >= ``threshold`` in (0, 1], or at its own
    by 'otsu', as CheXlocalize does; a constant map is an empty mask. Areas are exact: a box covers a cell in part.
    NaN without boxes.
    """
    m, b = check_maps(maps, boxes)
    return _iou(m, covers(b, m.shape[1:]), threshold)


def iou_boxes(maps: ArrayLike, boxes: Boxes, threshold: Threshold = THRESHOLD) -> Floats:
    """Return the largest IoU of a detected and an annotated box, (N,) in [0, 1].

    Detected boxes bound the connected components of the thresholded map; T(IoU) accuracy is the share of
    images above T (Wang et al. 2017). 0 without a detection, NaN without boxes.
    """
    m, b = check_maps(maps, boxes)
    return _largest([pair[0] for pair in _overlaps(m, b, threshold)], b)


def iobb(maps: ArrayLike, boxes: Boxes, threshold: Threshold = THRESHOLD) -> Floats:
    """Return the largest intersection / area of a detected box, (N,) in [0, 1]: IoBB of Wang et al. 2017.

    A tiny detection inside a large box reaches 1, so read it beside its controls. 0 without a detection, NaN
    without boxes.
    """
    m, b = check_maps(maps, boxes)
    return _largest([pair[1] for pair in _overlaps(m, b, threshold)], b)


def false_boxes(
    maps: ArrayLike, boxes: Boxes, threshold: Threshold = THRESHOLD, overlap: float = FALSE_BELOW
) -> Floats:
    """Return how many detected boxes have an IoBB of at most ``overlap`` with every annotated box, (N,).

    Averaged over images it is AFP at T(IoBB) = ``overlap`` (Wang et al. 2017); lower is better. NaN without boxes.
    """
    m, b = check_maps(maps, boxes)
    return _false([pair[1] for pair in _overlaps(m, b, threshold)], b, overlap)


def box_energy(maps: ArrayLike, boxes: Boxes) -> Floats:
    """Return the share of the map's mass that lies in the boxes, (N,) in [0, 1].

    A map with negative values is shifted to a minimum of 0, others stay as they are; cells count by the exact
    share that the boxes cover. 0 for a map of zeros, NaN without boxes. Wang et al. 2020 (Score-CAM).
    """
    m, b = check_maps(maps, boxes)
    return _energy(m, covers(b, m.shape[1:]))


def pixel_auprc(maps: ArrayLike, boxes: Boxes) -> Floats:
    """Return the average precision of a map's cells as a detector of the cells in the boxes, (N,) in [0, 1].

    A cell that the boxes cover in part is positive by that share. Chance is the area of the boxes. NaN without boxes.
    """
    m, b = check_maps(maps, boxes)
    return _auprc(m, covers(b, m.shape[1:]))


def measure(
    maps: ArrayLike,
    boxes: Boxes,
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    *,
    covered: Floats | None = None,
) -> dict[str, Floats]:
    """Return every figure of every image, (N,) each; ``'iobb>0.1'`` is 1 where that ratio exceeds 0.1.

    ``'false_boxes_iobb@0.1'`` counts the detected boxes whose IoBB does not, ``'false_boxes_iou@0.1'`` those by IoU.
    ``covered`` (N, H, W) is the boxes' ``covers`` where the caller has it already.
    """
    m, b = check_maps(maps, boxes)
    covered = covers(b, m.shape[1:]) if covered is None else covered
    pairs = _overlaps(m, b, threshold)
    by_iou, by_iobb = (_largest([pair[k] for pair in pairs], b) for k in (0, 1))
    return {
        "pointing_game": _pointing(m, b),
        "box_energy": _energy(m, covered),
        "pixel_auprc": _auprc(m, covered),
        "iou": _iou(m, covered, threshold),
        "iou_boxes": by_iou,
        "iobb": by_iobb,
        **{f"iou_boxes>{t:g}": np.where(np.isnan(by_iou), np.nan, by_iou > t) for t in accuracies},
        **{f"iobb>{t:g}": np.where(np.isnan(by_iobb), np.nan, by_iobb > t) for t in accuracies},
        **{
            f"false_boxes_{name}@{t:g}": _false([pair[k] for pair in pairs], b, t)
            for k, name in enumerate(("iou", "iobb"))
            for t in accuracies
        },
    }


def check_maps(maps: ArrayLike, boxes: Boxes) -> tuple[Floats, list[Floats]]:
    """Return maps (N, H, W) and checked boxes; raises ``DataError``."""
    m, b = np.asarray(maps, dtype=np.float64), check_boxes(boxes)
    if m.ndim != 3 or len(m) != len(b) or 0 in m.shape[1:]:
        raise DataError(f"Expected one map (height, width) an image, for {len(b)} images; found {m.shape}.")
    if not np.isfinite(m).all():
        row = np.argwhere(~np.isfinite(m))[0][0]
        raise DataError(f"Expected finite maps; found NaN or infinity in row {row}. Look at the model's logits.")
    return m, b


def _pointing(maps: Floats, boxes: Sequence[Floats]) -> Floats:
    inside = [(b[:, :2] <= p) & (p <= b[:, 2:]) for p, b in zip(hottest_points(maps), boxes, strict=True)]
    return _where_boxes([float(hit.all(axis=1).any()) for hit in inside], boxes)


def _iou(maps: Floats, covered: Floats, threshold: Threshold) -> Floats:
    mask = masks(maps, threshold)
    shared = (mask * covered).sum(axis=(1, 2))
    united = mask.sum(axis=(1, 2)) + covered.sum(axis=(1, 2)) - shared
    return np.divide(shared, united, out=np.full(len(maps), np.nan), where=covered.any(axis=(1, 2)))


def _energy(maps: Floats, covered: Floats) -> Floats:
    mass = maps - np.minimum(maps.min(axis=(1, 2), keepdims=True), 0)
    total, inside = mass.sum(axis=(1, 2)), (mass * covered).sum(axis=(1, 2))
    share = np.divide(inside, total, out=np.zeros(len(maps)), where=total > 0)
    return np.where(covered.any(axis=(1, 2)), share, np.nan)


def _auprc(maps: Floats, covered: Floats) -> Floats:
    flat, inside = (a.reshape(len(a), maps.shape[1] * maps.shape[2]) for a in (maps, covered))
    order = np.argsort(-flat, axis=1, kind="stable")
    heat, share = np.take_along_axis(flat, order, axis=1), np.take_along_axis(inside, order, axis=1)
    cells = heat.shape[1]
    # Cells of one value are called together: precision counts to the last of them.
    last = np.append(heat[:, 1:] != heat[:, :-1], np.ones((len(heat), 1), dtype=bool), axis=1)
    end = np.minimum.accumulate(np.where(last, np.arange(cells), cells)[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(share.cumsum(axis=1), end, axis=1) / (end + 1)
    total = share.sum(axis=1)
    return np.divide((share * precision).sum(axis=1), total, out=np.full(len(maps), np.nan), where=total > 0)


def _overlaps(maps: Floats, boxes: Sequence[Floats], threshold: Threshold) -> Overlaps:
    return [overlaps(connected_boxes(m, threshold), b) for m, b in zip(maps, boxes, strict=True)]


def _largest(ratios: Sequence[Floats], boxes: Sequence[Floats]) -> Floats:
    return _where_boxes([float(r.max(initial=0.0)) for r in ratios], boxes)


def _false(ratios: Sequence[Floats], boxes: Sequence[Floats], overlap: float) -> Floats:
    return _where_boxes([float((r.max(axis=1, initial=0.0) <= overlap).sum()) for r in ratios], boxes)


def _where_boxes(values: Sequence[float], boxes: Sequence[Floats]) -> Floats:
    return np.array([v if len(b) else np.nan for v, b in zip(values, boxes, strict=True)], dtype=np.float64)
