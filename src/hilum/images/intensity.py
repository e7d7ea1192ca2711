"""Intensity: percentile normalization, so that exposure and bit depth do not tell the hospital."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.errors import ImageError

LEVELS = 65536


def normalize(image: NDArray[np.float32], low: float = 0.5, high: float = 99.5) -> NDArray[np.float32]:
    """Clip to the percentiles ``low`` and ``high`` and scale to [0, 1].

    image: (H, W) of any range; a value that is not finite becomes 0 and does not count. Where both
    percentiles fall on one value, the least and the greatest value take their place.
    Raises ``ImageError`` for a constant image.
    """
    finite = np.isfinite(image)
    values = image if finite.all() else image[finite]
    least, greatest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not greatest > least:
        raise ImageError("constant image: every pixel has the same value")
    bottom, top = percentiles(values, low, high, least, greatest)
    if not top > bottom:
        bottom, top = least, greatest
    scaled = image - np.float32(bottom)
    scaled *= np.float32(1 / (top - bottom))
    np.clip(scaled, 0, 1, out=scaled)
    if values is not image:
        scaled[~finite] = 0
    return scaled


def percentiles(
    values: NDArray[np.float32], low: float, high: float, least: float, greatest: float
) -> tuple[float, float]:
    """Return two percentiles from a histogram of 65536 levels between the least and the greatest value.

    Within (greatest - least) / 65535 of ``numpy.percentile``, many times faster on a whole radiograph.
    """
    step = (greatest - least) / (LEVELS - 1)
    levels = (values.ravel() - np.float32(least)) * np.float32(1 / step) + np.float32(0.5)
    below = np.bincount(np.minimum(levels, LEVELS - 1).astype(np.uint16), minlength=LEVELS).cumsum()
    positions = np.array([low, high]) / 100 * (values.size - 1)
    floor = np.floor(positions).astype(np.int64)
    left = np.searchsorted(below, floor, side="right")
    right = np.searchsorted(below, np.minimum(floor + 1, values.size - 1), side="right")
    bottom, top = least + step * (left + (right - left) * (positions - floor))
    return float(bottom), float(top)
