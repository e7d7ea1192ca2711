"""Features that need no network: what a site's images look like before any model has seen them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError

CHUNK = 128


def intensity_histogram(squares: NDArray[np.uint8], frames: ArrayLike, bins: int = 32) -> NDArray[np.float32]:
    """Return the shares (N, bins) of the image's pixels in equal bins of the 256 grey levels.

    squares: (N, S, S) uint8; frames: (N, 4) the part (x0, y0, x1, y1) in [0, 1] of the square that the image
    covers; the padding does not count. Each row sums to 1. Raises ``DataError``.
    """
    corners = _corners(squares, frames)
    if not 1 <= bins <= 256:
        raise DataError(f"Expected 1 to 256 bins; found {bins}.")
    levels = np.arange(256) * bins // 256
    shares = np.empty((len(squares), bins), np.float32)
    for row, (square, (x0, y0, x1, y1)) in enumerate(zip(squares, corners, strict=True)):
        pixels = np.bincount(square[y0:y1, x0:x1].ravel(), minlength=256)
        shares[row] = np.bincount(levels, pixels, bins) / pixels.sum()
    return shares


def downsampled_pixels(squares: NDArray[np.uint8], frames: ArrayLike, side: int = 16) -> NDArray[np.float32]:
    """Return the image on a grid of side × side cells, (N, side · side) in [0, 1], rows first.

    Each cell is the mean of the pixels it covers (a pixel on its edge counts by the part inside); the image
    fills the grid whatever its aspect. Arguments and errors as in ``intensity_histogram``.
    """
    corners = _corners(squares, frames)
    if side < 1:
        raise DataError(f"Expected a side of at least 1 cell; found {side}.")
    size = squares.shape[1]
    small = np.empty((len(squares), side, side), np.float32)
    for start in range(0, len(squares), CHUNK):
        part = slice(start, start + CHUNK)
        down = _overlap(corners[part, 1], corners[part, 3], side, size)
        across = _overlap(corners[part, 0], corners[part, 2], side, size)
        small[part] = down @ squares[part].astype(np.float32) @ across.swapaxes(1, 2)
    return small.reshape(len(squares), -1) / np.float32(255)


def _corners(squares: NDArray[np.uint8], frames: ArrayLike) -> NDArray[np.int64]:
    """Return the frames in whole pixels (N, 4), at least one pixel wide and high."""
    frames = np.asarray(frames, np.float64)
    shape = squares.shape
    if squares.dtype != np.uint8 or len(shape) != 3 or shape[1] != shape[2] or frames.shape != (shape[0], 4):
        raise DataError(
            f"Expected squares (N, S, S) uint8 and frames (N, 4); found {shape} {squares.dtype} and {frames.shape}."
        )
    corners = np.rint(frames * shape[1]).astype(np.int64)
    if (corners[:, :2] < 0).any() or (corners[:, 2:] > shape[1]).any() or (corners[:, 2:] <= corners[:, :2]).any():
        raise DataError("Expected frames x0 < x1, y0 < y1 in [0, 1] that cover at least a pixel; found others.")
    return corners


def _overlap(start: NDArray[np.int64], stop: NDArray[np.int64], cells: int, size: int) -> NDArray[np.float32]:
    """Return the weights (N, cells, size) with which pixels enter cells; each cell's sum to 1."""
    edges = start[:, None] + (stop - start)[:, None] * np.arange(cells + 1) / cells
    pixel = np.arange(size)
    inside = np.minimum(edges[:, 1:, None], pixel + 1) - np.maximum(edges[:, :-1, None], pixel)
    inside = np.maximum(inside, 0)
    return (inside / inside.sum(axis=2, keepdims=True)).astype(np.float32)
