"""Drawing in normalised coordinates: grids, soft edges, smooth random fields and tapered strokes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Plane = NDArray[np.float32]

SUPERSAMPLING = 2


@lru_cache(maxsize=8)
def pixel_centres(size: int) -> Plane:
    """Return the centres of ``size`` pixels as fractions of the edge, float32 (size,)."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    centres.setflags(write=False)
    return centres


def soft_step(distance: Plane, width: float) -> Plane:
    """Return 0 where ``distance`` < −width/2, 1 where it is > width/2, and a ramp between."""
    ramp = distance * np.float32(1.0 / width)
    ramp += np.float32(0.5)
    np.maximum(ramp, 0, out=ramp)
    return np.minimum(ramp, 1, out=ramp)


def parabola(distance: Plane, radius: float) -> Plane:
    """Return a bump that is 1 at distance 0 and falls to 0 at ``radius``."""
    bump = distance * np.float32(1.0 / radius)
    bump *= bump
    np.subtract(np.float32(1), bump, out=bump)
    return np.maximum(bump, 0, out=bump)


@lru_cache(maxsize=32)
def _spline_basis(knots: int, size: int) -> Plane:
    """Uniform cubic B-splines at the pixel centres (size, knots), scaled to a field of unit variance."""
    position = pixel_centres(size).astype(np.float64) * (knots - 3)
    first = np.minimum(position.astype(int), knots - 4)
    t = position - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    basis = np.zeros((size, knots))
    np.put_along_axis(basis, first[:, None] + np.arange(4), weights, axis=1)
    basis /= np.sqrt((basis**2).sum(1).mean())
    return basis.astype(np.float32)


def smooth_field(rng: np.random.Generator, knots: int, size: int) -> Plane:
    """Return a band-limited random field (size, size), zero mean and about unit variance.

    ``knots`` control points an edge: the same generator gives the same field at every ``size``.
    """
    basis = _spline_basis(knots, size)
    return np.asarray(basis @ rng.standard_normal((knots, knots), np.float32) @ basis.T)


def draw_strokes(lines: Plane, weights: Plane, size: int, width: float = 0.0) -> Plane:
    """Return strokes as a (size, size) plane in [0, 1].

    ``lines``: (n, 2 · points), x and y in turn, as fractions of the edge. ``weights``: (n,) in (0, 1]. A
    stroke is ``weight`` ** 0.7 bright, and ``width``, or 0.012 · weight where ``width`` is 0, thick.
    """
    fine = size * SUPERSAMPLING
    canvas = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(canvas)
    thickness = np.full(len(weights), width * fine) if width else 0.012 * fine * weights
    thickness = np.maximum(np.rint(thickness), 1).astype(int)
    bright = (255 * weights**0.7).astype(int)
    for line, gray, pixels in zip((lines * fine).tolist(), bright.tolist(), thickness.tolist(), strict=True):
        pen.line(line, gray, pixels)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) * np.float32(1 / 255)
