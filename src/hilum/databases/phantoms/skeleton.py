"""Bones: ribs with bright edges, clavicles, spine, scapulae and humeral heads."""

from __future__ import annotations

import numpy as np

from hilum.databases.phantoms.anatomy import Anatomy, lateral_edge
from hilum.databases.phantoms.raster import Plane, soft_step

_SAMPLES = 48  # of one rib's profile
_RIBS = 16


def _rib_table(rng: np.random.Generator, width: float, lower_edge: float) -> Plane:
    """Return the densities across ``_RIBS`` ribs (each its own brightness), one period after the other."""
    across = (np.arange(_SAMPLES) + 0.5) / _SAMPLES - 0.5
    body = np.clip((width / 2 - np.abs(across)) / 0.06, 0, 1)
    cortex = np.exp(-(((np.abs(across) - width / 2) / 0.06) ** 2)) * np.where(across > 0, lower_edge, 1.0)
    profile = 0.5 * body + 0.75 * cortex
    return (rng.uniform(0.8, 1.15, (_RIBS, 1)) * profile).astype(np.float32).ravel()


def _ribs(table: Plane, height: Plane, spacing: float, phase: float) -> Plane:
    index = (height + np.float32((2 + phase) * spacing)) * np.float32(_SAMPLES / spacing)
    return table[np.clip(index, 0, len(table) - 1).astype(np.int32)]


def ribs(anatomy: Anatomy, rng: np.random.Generator, u: Plane, y: Plane) -> Plane:
    """Return posterior ribs, falling laterally, and fainter anterior ones, falling to the sternum."""
    wall = lateral_edge(anatomy, y)
    across = np.minimum(u * (np.float32(1) / wall), np.float32(1.15))
    square = across * across
    fall = np.float32(anatomy.rib_slope) * (0.11 * square * square + 0.05 * square - 0.055 * across)
    posterior = _ribs(_rib_table(rng, 0.38, 1.25), y - fall, anatomy.rib_spacing, anatomy.rib_phase)
    rise = np.float32(0.17 * anatomy.rib_slope) * (np.float32(1) - across)
    anterior = _ribs(_rib_table(rng, 0.46, 1.0), y - rise, 1.16 * anatomy.rib_spacing, anatomy.rib_phase / 2)
    anterior *= soft_step(across - np.float32(0.62), 0.4)
    cage = soft_step(wall + np.float32(0.014) - u, 0.012) * soft_step(u - np.float32(0.035), 0.02)
    cage *= soft_step(y - np.float32(anatomy.apex - 0.02), 0.05) * soft_step(np.float32(0.86) - y, 0.2)
    return (posterior + np.float32(0.55) * anterior) * cage


def spine(rng: np.random.Generator, u: Plane, y: Plane) -> Plane:
    """Return the vertebral column: bodies with bright end plates, pedicles left implicit."""
    spacing = rng.uniform(0.058, 0.066)
    phase = (y * np.float32(1 / spacing) + np.float32(rng.uniform())) % 1
    discs = np.float32(1) - np.float32(0.45) * soft_step(np.float32(0.16) - np.abs(phase - np.float32(0.5)), 0.12)
    return soft_step(np.float32(0.040) - u, 0.02) * discs


def clavicles(anatomy: Anatomy, u: Plane, y: Plane) -> Plane:
    """Return both clavicles: S-shaped bars from the sternum up to the shoulders."""
    along = u - np.float32(0.035)
    centre = np.float32(anatomy.clavicle) - along * (np.float32(0.42) - np.float32(0.62) * along)
    distance = np.abs(y - centre)
    thickness = np.float32(0.0165) + np.float32(0.016) * np.maximum(np.float32(0.06) - along, 0) * np.float32(8)
    bar = np.float32(0.65) * soft_step(thickness - distance, 0.008)
    bar += np.float32(0.45) * soft_step(np.float32(0.004) - np.abs(distance - thickness), 0.008)
    return bar * soft_step(along, 0.02) * soft_step(np.float32(0.36) - along, 0.03)


def shoulders(anatomy: Anatomy, u: Plane, y: Plane) -> Plane:
    """Return scapular blades with a bright medial border, and the heads of the humeri."""
    medial = np.float32(0.345 - 0.055 * anatomy.scapula) + np.float32(0.22) * np.maximum(y - np.float32(0.15), 0)
    blade = soft_step(u - medial, 0.012) * soft_step(np.float32(0.47) - y, 0.10)
    blade *= soft_step(y - np.float32(0.13), 0.03)
    border = soft_step(np.float32(0.006) - np.abs(u - medial), 0.010) * blade
    du, dy = u - np.float32(0.465), y - np.float32(0.155)
    head = soft_step(np.float32(0.060) - np.sqrt(du * du + dy * dy), 0.015)
    return np.asarray(np.float32(0.45) * blade + np.float32(0.8) * border + head, np.float32)
