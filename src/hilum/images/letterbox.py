"""The letterbox: a radiograph of any shape centred in a square, and the way back for boxes and maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image


class Frame(NamedTuple):
    """Part of the square that the image covers, as fractions [0, 1] of the side of the square."""

    x0: float
    y0: float
    x1: float
    y1: float


def fit(width: int, height: int, size: int) -> Frame:
    """Return where an image (px) lies in a square of ``size`` px: centred, in whole pixels."""
    left, top, right, bottom = _pixels(width, height, size)
    return Frame(left / size, top / size, right / size, bottom / size)


def letterbox(image: NDArray[np.float32], size: int) -> tuple[NDArray[np.uint8], Frame]:
    """Resize with antialiasing, keep the aspect, centre in a square of 0 and round to uint8.

    image: (H, W) in [0, 1]. Returns the square (size, size) in 0 … 255 and the part the image covers.
    """
    height, width = image.shape
    left, top, right, bottom = _pixels(width, height, size)
    grey = Image.fromarray(np.ascontiguousarray(image, np.float32))
    resized = np.asarray(grey.resize((right - left, bottom - top), Image.Resampling.BILINEAR))
    square = np.zeros((size, size), np.uint8)
    square[top:bottom, left:right] = np.rint(np.clip(resized, 0, 1) * 255)
    return square, fit(width, height, size)


def sample_map_on_image(maps: NDArray[np.floating], frames: ArrayLike, grid: tuple[int, int]) -> NDArray[np.floating]:
    """Resample maps that cover the square onto a grid that covers the image alone (bilinear, edges clamped).

    maps: (..., h, w), cell centres at (i + 0.5) / h of the square; frames: (4,) or the first axes of
    ``maps`` then 4; grid: (gh, gw), pixel centres at (i + 0.5) / gh of the image. Returns (..., gh, gw).
    """
    h, w = maps.shape[-2:]
    frames = np.asarray(frames, np.float64)
    frames = frames.reshape(*frames.shape[:-1], *(1,) * (maps.ndim - 1 - frames.ndim), 4)
    rows = _interpolation(frames[..., 1], frames[..., 3], grid[0], h).astype(maps.dtype)
    columns = _interpolation(frames[..., 0], frames[..., 2], grid[1], w).astype(maps.dtype)
    sampled: NDArray[np.floating] = rows @ maps @ np.swapaxes(columns, -1, -2)
    return sampled


def _pixels(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    scale = size / max(width, height)
    columns, rows = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (size - columns) // 2, (size - rows) // 2
    return left, top, left + columns, top + rows


def _interpolation(
    start: NDArray[np.float64], stop: NDArray[np.float64], points: int, cells: int
) -> NDArray[np.float64]:
    """Return the weights (..., points, cells) of linear interpolation between cell centres."""
    centres = (np.arange(points) + 0.5) / points
    at = start[..., None] + centres * (stop - start)[..., None]
    position = np.clip(at * cells - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(position[..., None] - np.arange(cells)))
