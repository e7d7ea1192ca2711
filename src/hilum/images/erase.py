"""Parts of a film taken away: rectangles filled from their own borders, and equal rectangles in the other lung."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError

MIDDLE = (0.1, 0.1, 0.9, 0.9)
STEPS = 64

Floats = NDArray[np.float64]


def erase(square: NDArray[np.uint8], boxes: ArrayLike, frame: ArrayLike = (0, 0, 1, 1)) -> NDArray[np.uint8]:
    """Return a copy of a square (S, S) with boxes filled smoothly from the pixels around them, one after the other.

    ``boxes`` (k, 4): x0, y0, x1, y1 as fractions of the image, which covers the part ``frame`` of the square. A box is
    filled by the bilinearly blended Coons patch of the pixels just outside its four sides (Coons 1967); where a side
    lies on the border of the image, the opposite one stands in for it, and where both do, neither counts. Raises
    ``DataError`` for a box as large as the image.
    """
    size = len(square)
    left, top, right, bottom = np.asarray(frame, dtype=np.float64) * size
    limits = tuple(round(v) for v in (left, top, right, bottom))
    filled = square.astype(np.float64)
    for x0, y0, x1, y1 in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
        xs = left + np.array([x0, x1]) * (right - left)
        ys = top + np.array([y0, y1]) * (bottom - top)
        columns = _pixels(xs[0], xs[1], limits[0], limits[2])
        rows = _pixels(ys[0], ys[1], limits[1], limits[3])
        _fill(filled, rows, columns, limits)
    return np.asarray(np.rint(filled.clip(0, 255)), dtype=np.uint8)


def mirrored(boxes: ArrayLike, avoid: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Return for each box (k, 4) an equal one at the mirrored place, and for which of them (k,) there is one.

    Where the mirrored place overlaps a box of ``avoid`` (m, 4) or one placed before, the nearest place above or below
    that does not is taken, between 10 % and 90 % of the height. Boxes without such a place keep their own.
    """
    given, taken = (np.asarray(b, dtype=np.float64).reshape(-1, 4) for b in (boxes, avoid))
    placed, found = given.copy(), np.zeros(len(given), dtype=bool)
    shifts = np.array(sorted(np.arange(-STEPS, STEPS + 1) / STEPS, key=lambda s: (abs(s), s)))
    for k, (x0, y0, x1, y1) in enumerate(given):
        low, high = min(MIDDLE[1], y0), max(MIDDLE[3], y1)
        inside = shifts[(y0 + shifts >= low - 1e-9) & (y1 + shifts <= high + 1e-9)]
        places = np.column_stack(np.broadcast_arrays(1 - x1, y0 + inside, 1 - x0, y1 + inside))
        free = np.flatnonzero(~_overlap(places, taken).any(axis=1))
        if len(free):
            placed[k], found[k] = places[free[0]], True
            taken = np.concatenate([taken, placed[k : k + 1]])
    return placed, found


def _pixels(start: float, stop: float, low: int, high: int) -> slice:
    first = min(max(round(start), low), high - 1)
    return slice(first, max(min(round(stop), high), first + 1))


def _fill(image: Floats, rows: slice, columns: slice, limits: tuple[int, ...]) -> None:
    left, top, right, bottom = limits
    xs, ys = _sides(columns, left, right), _sides(rows, top, bottom)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    v = (np.arange(height)[:, None] + 1) / (height + 1)
    u = (np.arange(width)[None, :] + 1) / (width + 1)
    across = down = corners = np.zeros((1, 1))
    if xs:
        across = (1 - u) * image[rows, xs[0]][:, None] + u * image[rows, xs[1]][:, None]
    if ys:
        down = (1 - v) * image[ys[0], columns][None, :] + v * image[ys[1], columns][None, :]
    if xs and ys:
        ends = [(1 - u) * image[y, xs[0]] + u * image[y, xs[1]] for y in ys]
        corners = (1 - v) * ends[0] + v * ends[1]
    if not (xs or ys):
        raise DataError("Expected a box smaller than the image, so that there are pixels to fill it from.")
    image[rows, columns] = across + down - corners


def _sides(span: slice, low: int, high: int) -> tuple[int, ...]:
    """Return the pixels just before and after a span, twice the same where one is beyond the image; none for both."""
    inside = [side for side in (span.start - 1, span.stop) if low <= side < high]
    return (inside[0], inside[-1]) if inside else ()


def _overlap(first: Floats, second: Floats) -> NDArray[np.bool_]:
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.asarray((opposite - corner > 1e-9).all(axis=2))
