"""Boxes as fractions of the image: checks, exact cover of a grid's cells, overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError

Floats = NDArray[np.float64]
EDGE = 1e-6


def check_boxes(boxes: Iterable[ArrayLike]) -> list[Floats]:
    """Return each image's boxes as a float64 (n_b, 4) array of x0, y0, x1, y1 in [0, 1].

    An image may have none. Raises ``DataError`` for another shape, a box without area or beyond the image.
    """
    checked = []
    for image, given in enumerate(boxes):
        b = np.asarray(given, dtype=np.float64)
        b = b.reshape(0, 4) if b.size == 0 else b
        if b.ndim != 2 or b.shape[1] != 4:
            raise DataError(f"Expected boxes of shape (boxes, 4) in row {image}; found {b.shape}.")
        inside = (b >= -EDGE) & (b <= 1 + EDGE)
        if not (inside.all() and (b[:, :2] < b[:, 2:]).all()):
            raise DataError(
                f"Expected boxes x0 < x1, y0 < y1 as fractions of the image in [0, 1] in row {image}; "
                f"found {b.tolist()}. Divide pixels by the image's width and height and clip at its border."
            )
        checked.append(b.clip(0, 1))
    return checked


def cover(boxes: Floats, shape: tuple[int, int]) -> Floats:
    """Return the share of each cell of an (H, W) grid over the whole image that the union of boxes covers.

    Exact for any number of overlapping boxes: the plane is cut at every edge of a box or cell.
    """
    height, width = shape
    x, y = _cuts(boxes[:, [0, 2]], width), _cuts(boxes[:, [1, 3]], height)
    mid_x, mid_y = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
    in_x = (boxes[:, :1] < mid_x) & (mid_x < boxes[:, 2:3])
    in_y = (boxes[:, 1:2] < mid_y) & (mid_y < boxes[:, 3:])
    inside = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    area = inside * np.diff(y)[:, None] * np.diff(x)[None, :]
    rows = np.add.reduceat(area, np.searchsorted(y, np.arange(height) / height), axis=0)
    cells = np.add.reduceat(rows, np.searchsorted(x, np.arange(width) / width), axis=1)
    return np.asarray(cells * height * width, dtype=np.float64).clip(0, 1)


def covers(boxes: Sequence[Floats], shape: tuple[int, int]) -> Floats:
    """Return ``cover`` of every image, (N, H, W)."""
    return np.array([cover(b, shape) for b in boxes]).reshape(len(boxes), *shape)


def overlaps(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Return IoU and intersection / area of the first box, both (n, m), of n boxes against m."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (opposite - corner).clip(0).prod(axis=2)
    area, other = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (first, second))
    return shared / (area[:, None] + other[None] - shared), shared / area[:, None]


def _cuts(edges: Floats, cells: int) -> Floats:
    return np.unique(np.concatenate([np.arange(cells + 1) / cells, edges.ravel()]))
