"""Maps → masks and boxes: thresholds, Otsu's method, connected components. No CRF smooths them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from hilum.errors import DataError

Floats = NDArray[np.float64]
Threshold = float | Literal["otsu"]
BINS = 256


@dataclass(frozen=True)
class Detections:
    """Boxes (k, 4) found in one image, as fractions of it; scores (k,) in [0, 1]; points (k, 2) where each peaks."""

    boxes: Floats
    scores: Floats
    points: Floats


def normalise(maps: Floats) -> Floats:
    """Scale each map (..., H, W) to [0, 1] by its own minimum and maximum; a constant map becomes 0."""
    low = maps.min(axis=(-2, -1), keepdims=True)
    span = maps.max(axis=(-2, -1), keepdims=True) - low
    return np.divide(maps - low, span, out=np.zeros_like(maps), where=span > 0)


def otsu(maps: Floats) -> Floats:
    """Return the threshold of each map (N, H, W) in [0, 1] that splits its cells into the two most distinct groups.

    It maximizes the variance between cells below it and cells at or above it, over 255 cuts (Otsu 1979, equation 18).
    A constant map has the threshold 1.
    """
    bins = np.minimum((maps * BINS).astype(np.intp), BINS - 1).reshape(len(maps), maps.shape[1] * maps.shape[2])
    flat = (bins + BINS * np.arange(len(maps))[:, None]).ravel()
    counts = np.bincount(flat, minlength=BINS * len(maps)).reshape(len(maps), BINS).astype(np.float64)
    below, mass = counts.cumsum(axis=1)[:, :-1], (counts * np.arange(BINS)).cumsum(axis=1)
    above, total = counts.sum(axis=1, keepdims=True) - below, mass[:, -1:]
    both = (below > 0) & (above > 0)
    gap = np.divide(mass[:, :-1], below, out=np.zeros_like(below), where=both)
    gap -= np.divide(total - mass[:, :-1], above, out=np.zeros_like(below), where=both)
    between = below * above * gap**2
    return np.where(both.any(axis=1), (between.argmax(axis=1) + 1) / BINS, 1.0)


def thresholds_of(scaled: Floats, threshold: Threshold) -> Floats:
    """Return the threshold of each map (N, H, W) in [0, 1], (N,): the given one, or its own by Otsu's method.

    Raises ``DataError`` for another.
    """
    if threshold == "otsu":
        return otsu(scaled)
    if isinstance(threshold, str) or not 0 < threshold <= 1:
        raise DataError(f"Expected a threshold above 0 and at most 1, or 'otsu'; found {threshold!r}.")
    return np.full(len(scaled), float(threshold))


def masks(maps: Floats, threshold: Threshold) -> NDArray[np.bool_]:
    """Return which cells (N, H, W) are at or above ``threshold`` in (0, 1], each map scaled by its own range.

    A constant map has none.
    """
    scaled = normalise(maps)
    return np.asarray(scaled >= thresholds_of(scaled, threshold)[:, None, None])


def connected_boxes(heat: ArrayLike, threshold: Threshold) -> Floats:
    """Return the bounding box of each connected component of a map at its threshold, (k, 4) fractions.

    ``heat`` (H, W) covers the whole image and is scaled to [0, 1] by its own minimum and maximum; cells at or
    above ``threshold`` in (0, 1] are joined when they share a side. A constant map has no box.
    """
    mask = masks(np.asarray(heat, dtype=np.float64)[None], threshold)[0]
    labelled, count = ndimage.label(mask)
    return _boxes(labelled, count, mask.shape)


def detect(maps: Floats, probabilities: ArrayLike, threshold: Threshold) -> list[Detections]:
    """Return what the maps (N, H, W) of one finding detect in each image.

    Boxes are ``connected_boxes``. A box scores the image's probability (N,) times its highest cell, as a share of the
    map's own range: boxes rank across images as images do, and within one by their heat.
    """
    scaled = normalise(np.asarray(maps, dtype=np.float64))
    cuts = thresholds_of(scaled, threshold)
    found = []
    for heat, cut, probability in zip(scaled, cuts, np.asarray(probabilities, dtype=np.float64), strict=True):
        labelled, count = ndimage.label(heat >= cut)
        peaks = ndimage.maximum_position(heat, labelled, np.arange(1, count + 1)) if count else []
        cells = np.array(peaks, dtype=np.intp).reshape(-1, 2)
        points = (cells[:, ::-1] + 0.5) / heat.shape[::-1]
        scores = probability * heat[cells[:, 0], cells[:, 1]]
        found.append(Detections(_boxes(labelled, count, heat.shape), scores, points))
    return found


def _boxes(labelled: NDArray[np.int32], count: int, shape: Sequence[int]) -> Floats:
    found = ndimage.find_objects(labelled, max_label=count)
    corners = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    height, width = shape
    return np.array(corners, dtype=np.float64).reshape(-1, 4) / (width, height, width, height)
