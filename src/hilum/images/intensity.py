"""Intensity: percentile normalization, so that exposure and bit depth do not tell the hospital."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.errors import ImageError

SAMPLE = 16_384
MARGIN = 0.01


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
    bottom, top = percentile(values, low), -percentile(-values, 100 - high)
    if not top > bottom:
        bottom, top = least, greatest
    scaled = image - np.float32(bottom)
    scaled *= np.float32(1 / (top - bottom))
    np.clip(scaled, 0, 1, out=scaled)
    if values is not image:
        scaled[~finite] = 0
    return scaled


def percentile(values: NDArray[np.float32], percent: float) -> float:
    """Return ``numpy.percentile(values, percent)``, some times faster for a low percentile.

    A sample bounds the tail below it, and only the tail is searched.
    """
    values = values.ravel()
    position = percent / 100 * (values.size - 1)
    rank = int(position)
    sample = values[:: values.size // SAMPLE | 1]
    bound = np.quantile(sample, min(1, percent / 100 + MARGIN))
    tail = values[values <= bound]
    if tail.size < rank + 2:
        tail = values
    following = min(rank + 1, tail.size - 1)
    lower, upper = np.partition(tail, (rank, following))[[rank, following]].astype(np.float64)
    return float(lower + (upper - lower) * (position - rank))
