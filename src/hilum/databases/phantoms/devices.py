"""Support devices: chest drains, central lines and leads, all denser than what they cross."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hilum.databases.phantoms.anatomy import Pose, project
from hilum.databases.phantoms.raster import Plane, draw_strokes

_STEPS = 14
_ONE = np.ones(1, np.float32)


def _curve(points: list[tuple[float, float]], pose: Pose) -> Plane:
    """Return the quadratic Bézier curve of three control points in the image, (1, 2 · (_STEPS + 1))."""
    t = np.linspace(0, 1, _STEPS + 1)[:, None]
    start, pull, end = (np.array(p) for p in points)
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * pull + t**2 * end
    return project(pose, curve.reshape(1, -1).astype(np.float32))


def chest_drain(rng: np.random.Generator, side: int, pose: Pose, size: int) -> tuple[Plane, NDArray[np.bool_]]:
    """Return the density and the mask of a drain from the lateral wall up to the apex."""
    entry = (0.5 + side * 0.47, rng.uniform(0.52, 0.66))
    pull = (0.5 + side * rng.uniform(0.20, 0.30), rng.uniform(0.42, 0.62))
    tip = (0.5 + side * rng.uniform(0.13, 0.24), rng.uniform(0.17, 0.28))
    curve = _curve([entry, pull, tip], pose)
    tube = draw_strokes(curve, _ONE, size, 0.020)
    lumen = draw_strokes(curve, _ONE, size, 0.009)
    return np.float32(0.24) * tube - np.float32(0.12) * lumen, tube > 0.4


def central_line(rng: np.random.Generator, side: int, pose: Pose, size: int) -> tuple[Plane, NDArray[np.bool_]]:
    """Return the density and the mask of a thin catheter from the neck to the right atrium."""
    entry = (0.5 + side * rng.uniform(0.07, 0.12), 0.0)
    tip = (rng.uniform(0.445, 0.46), rng.uniform(0.42, 0.52))
    curve = _curve([entry, (0.455, rng.uniform(0.12, 0.24)), tip], pose)
    line = draw_strokes(curve, _ONE, size, 0.010)
    return np.float32(0.22) * line, line > 0.4
