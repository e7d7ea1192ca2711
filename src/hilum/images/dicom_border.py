"""Black borders: lines at the edge of a radiograph that hold nothing, burnt in by collimation, a shutter or padding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLACK = 0.02
LEAST_SIDE = 0.25


def inside_black_border(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which pixels of a radiograph (H, W) in [0, 1], NaN where there is no image, are inside its black borders.

    A line counts as border only if every pixel is at most 0.02, the line is at the edge or beside one that counts, so
    that no anatomy is cut; letters burnt into a border end it. All are inside where less than a quarter of a side
    would be left.
    """
    bright = pixels > BLACK
    rows, columns = _extent(bright, axis=1), _extent(bright, axis=0)
    inside = np.ones(pixels.shape, bool)
    if min((rows.stop - rows.start) / pixels.shape[0], (columns.stop - columns.start) / pixels.shape[1]) < LEAST_SIDE:
        return inside
    inside[:] = False
    inside[rows, columns] = True
    return inside


def _extent(bright: NDArray[np.bool_], axis: int) -> slice:
    """Return the lines from the first that holds something to the last."""
    lines = np.flatnonzero(bright.any(axis=axis))
    return slice(int(lines[0]), int(lines[-1]) + 1) if lines.size else slice(0, 0)
