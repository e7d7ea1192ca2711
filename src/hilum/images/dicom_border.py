"""Black borders: lines at the edge of a radiograph that hold nothing, burnt in by collimation, a shutter or padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.images.letterbox import Frame

BLACK = 0.02
LEAST_SIDE = 0.25


def black_border(pixels: NDArray[np.float32]) -> Frame:
    """Return the part of a radiograph (H, W) in [0, 1] inside its black borders, as fractions of width and height.

    A line counts as border only if every pixel is at most 0.02, the line is at the edge or beside one that counts, so
    that no anatomy is cut; letters burnt into a border end it. The whole image is returned where less than a quarter
    of a side would be left.
    """
    bright = pixels > BLACK
    height, width = pixels.shape
    top, bottom = _extent(bright, axis=1)
    left, right = _extent(bright, axis=0)
    if bottom - top < LEAST_SIDE * height or right - left < LEAST_SIDE * width:
        return Frame(0.0, 0.0, 1.0, 1.0)
    return Frame(left / width, top / height, right / width, bottom / height)


def _extent(bright: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """Return the first line that holds something and the one after the last."""
    lines = np.flatnonzero(bright.any(axis=axis))
    return (int(lines[0]), int(lines[-1]) + 1) if lines.size else (0, 0)
