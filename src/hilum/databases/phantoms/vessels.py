"""Pulmonary vessels: trees that leave the hila, branch and taper towards the pleura."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hilum.databases.phantoms.anatomy import Pose, project
from hilum.databases.phantoms.raster import Plane, draw_strokes

HILUM = {-1: (0.095, 0.425), 1: (0.100, 0.405)}
_GENERATIONS = 5


@lru_cache(maxsize=256)
def vessel_tree(seed: int) -> Plane:
    """Return the vessels of a patient: (n, 7), three points x, y of each branch and its calibre in (0, 1]."""
    rng = np.random.default_rng(seed)
    return np.concatenate([_side(rng, side) for side in (-1, 1)]).astype(np.float32)


def _side(rng: np.random.Generator, side: int) -> NDArray[np.float64]:
    u, y = HILUM[side]
    trunks = np.array([-1.35, -0.85, -0.35, 0.15, 0.55, 0.9, 1.25])  # radians below the horizontal
    angle = trunks + rng.normal(0, 0.12, len(trunks))
    start = np.tile([u, y], (len(trunks), 1)) + rng.normal(0, 0.010, (len(trunks), 2))
    calibre = np.where(trunks > 0, 1.0, 0.75) * rng.uniform(0.85, 1.1, len(trunks))
    branches: list[NDArray[np.float64]] = []
    for generation in range(_GENERATIONS):
        length = (0.072 if generation == 0 else 0.066 * 0.90**generation) * rng.uniform(0.7, 1.25, len(angle))
        middle = start + 0.5 * length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        angle = angle + rng.normal(0, 0.14, len(angle))
        end = middle + 0.5 * length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        branches.append(np.column_stack([start, middle, end, calibre]))
        turn = rng.uniform(0.18, 0.55, (len(angle), 2)) * [1, -1]
        angle = (angle[:, None] + turn).ravel()
        start = np.repeat(end, 2, axis=0)
        calibre = (calibre[:, None] * rng.uniform(0.58, 0.90, (len(calibre), 2))).ravel()
    tree = np.concatenate(branches)
    across, down = tree[:, 2], tree[:, 3]
    tree = tree[(across > 0.04) & (across < 0.42) & (down > 0.07) & (down < 0.78)]
    tree[:, 0:6:2] = 0.5 + side * tree[:, 0:6:2]
    tree[:, 6] = np.minimum(tree[:, 6], 1.0)
    return tree


def draw_vessels(seed: int, pose: Pose, size: int) -> Plane:
    """Return the vessels in the image, (size, size) in [0, 1]."""
    tree = vessel_tree(seed)
    return draw_strokes(project(pose, tree[:, :6]), tree[:, 6], size)
