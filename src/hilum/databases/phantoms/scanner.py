"""The scanner: exposure curve, blur, grain, collimation, vignette and a lead side marker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hilum.databases.phantoms.raster import Plane, pixel_centres, smooth_field, soft_step

_GLYPHS = {
    "L": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "R": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
}


@dataclass(frozen=True)
class Scanner:
    """The physics of one site; nothing here depends on what the radiograph shows.

    ``gamma``, ``latitude`` (slope), ``exposure`` ± ``exposure_sd``: the exposure curve. ``blur``: standard
    deviation as a fraction of the edge. ``sharpen``: weight of an unsharp mask. ``noise``: standard deviation
    in [0, 1]. ``collimation``: largest dark border as a fraction of the edge. ``vignette``: darkening of the
    corners. ``marker``: 'R', 'L' or '' at ``marker_y``, standing ``marker_gray`` above what lies beneath.
    """

    gamma: float = 1.0
    latitude: float = 1.0
    exposure: float = 0.0
    exposure_sd: float = 0.02
    blur: float = 0.004
    sharpen: float = 0.0
    noise: float = 0.025
    collimation: float = 0.0
    vignette: float = 0.0
    marker: str = ""
    marker_y: float = 0.05
    marker_gray: float = 0.5


def expose(scanner: Scanner, density: Plane, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the radiograph of a density plane, uint8 (size, size), denser is brighter."""
    size = len(density)
    image = density + np.float32(scanner.marker_gray) * _marker(scanner, rng, size)
    image = gaussian_filter(image, scanner.blur * size, truncate=2.5)
    if scanner.sharpen:
        image += np.float32(scanner.sharpen) * (image - gaussian_filter(image, 0.012 * size, truncate=2.0))
    image -= np.float32(0.5)
    image *= np.float32(scanner.latitude)
    image += np.float32(0.5 + scanner.exposure + scanner.exposure_sd * rng.normal())
    image -= np.float32(scanner.vignette) * _corners(size)
    borders = rng.uniform(-0.3, 1.0, 4)
    if scanner.collimation:
        image *= _collimated(scanner.collimation * borders, size)
    image = np.clip(image, 0, 1, out=image) ** np.float32(scanner.gamma)
    image += np.float32(scanner.noise) * _grain(rng, size)
    return np.asarray(np.clip(image * np.float32(255) + np.float32(0.5), 0, 255), np.uint8)


def _grain(rng: np.random.Generator, size: int) -> Plane:
    fine = rng.standard_normal((size, size), np.float32)
    return np.float32(0.85) * fine + np.float32(0.5) * smooth_field(rng, 48, size)


def _corners(size: int) -> Plane:
    square = (pixel_centres(size) - np.float32(0.5)) ** 2
    return np.asarray(np.float32(2) * (square[:, None] + square[None, :]))


def _collimated(borders: NDArray[np.float64], size: int) -> Plane:
    left, right, top, bottom = borders
    centres = pixel_centres(size)
    edge = 0.008
    across = soft_step(centres - np.float32(left), edge) * soft_step(np.float32(1 - right) - centres, edge)
    down = soft_step(centres - np.float32(top), edge) * soft_step(np.float32(1 - bottom) - centres, edge)
    return np.maximum(across[None, :] * down[:, None], np.float32(0.06))


def _marker(scanner: Scanner, rng: np.random.Generator, size: int) -> Plane:
    plane = np.zeros((size, size), np.float32)
    x, y = rng.normal(0.0, 0.012, 2)
    if not scanner.marker:
        return plane
    glyph = np.array([[c == "1" for c in row] for row in _GLYPHS[scanner.marker]], np.float32)
    height = max(7, round(0.055 * size))
    rows = np.arange(height) * 7 // height
    columns = np.arange(height * 5 // 7) * 5 // (height * 5 // 7)
    letter = glyph[rows][:, columns]
    middle = 0.075 if scanner.marker == "R" else 0.925
    left = int(np.clip((middle + x) * size - letter.shape[1] / 2, 0, size - letter.shape[1]))
    top = int(np.clip((scanner.marker_y + y) * size, 0, size - height))
    plane[top : top + height, left : left + letter.shape[1]] = letter
    return plane
