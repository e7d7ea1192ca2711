"""The body that is radiographed: lungs, heart, mediastinum, diaphragm and soft tissue.

Patient coordinates: x to the image's right (the patient's left) and y downwards, both as fractions of
the image's edge. ``u`` is the distance from the midline, on side −1 (image left) or +1 (image right).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from hilum.databases.phantoms.raster import Plane, parabola, pixel_centres, soft_step

LEFT, RIGHT = 1, -1  # the patient's sides

Value = TypeVar("Value", float, Plane)


@dataclass(frozen=True)
class Anatomy:
    """The build of one patient; lengths are fractions of the image's edge."""

    lung_width: float
    apex: float
    dome: tuple[float, float]
    sulcus: float
    mediastinum: float
    heart: float
    heart_axis: float
    heart_drop: float
    knob: float
    rib_spacing: float
    rib_phase: float
    rib_slope: float
    clavicle: float
    scapula: float
    breast: float
    tissue: float
    tree: int


@dataclass(frozen=True)
class Pose:
    """How the patient stands before the detector: shifts and leaning, and a zoom near 1."""

    shift_x: float
    shift_y: float
    lean: float
    zoom: float


def draw_anatomy(rng: np.random.Generator, male: bool | None = None) -> Anatomy:
    """Return the build of a random patient; ``male`` None draws the sex as well."""
    sex = bool(rng.random() < 0.54)
    male = sex if male is None else male
    dome = rng.normal(0.668, 0.018)
    return Anatomy(
        lung_width=rng.normal(0.400 if male else 0.386, 0.011),
        apex=rng.normal(0.095, 0.010),
        dome=(dome, dome + rng.normal(0.022, 0.008)),
        sulcus=rng.normal(0.105, 0.010),
        mediastinum=rng.normal(0.056, 0.005),
        heart=float(np.clip(rng.normal(1.0, 0.055), 0.87, 1.14)),
        heart_axis=rng.normal(0.52, 0.07),
        heart_drop=rng.normal(0.0, 0.008),
        knob=float(np.clip(rng.normal(0.038, 0.006), 0.024, 0.054)),
        rib_spacing=rng.normal(0.067, 0.003),
        rib_phase=rng.uniform(0, 1),
        rib_slope=rng.normal(1.0, 0.12),
        clavicle=rng.normal(0.212, 0.010),
        scapula=rng.uniform(0.1, 0.5),
        breast=rng.uniform(0.0, 0.15) if male else rng.uniform(0.3, 1.0),
        tissue=rng.normal(0.0, 0.025),
        tree=int(rng.integers(2**31)),
    )


def in_view(anatomy: Anatomy, view: str) -> Anatomy:
    """Return the build as a view shows it: a larger heart, a higher diaphragm, scapulae in AP."""
    if view == "PA":
        return anatomy
    lifted = (anatomy.dome[0] - 0.030, anatomy.dome[1] - 0.030)
    return replace(
        anatomy,
        dome=lifted,
        heart=anatomy.heart * 1.12,
        heart_drop=anatomy.heart_drop - 0.020,
        mediastinum=anatomy.mediastinum * 1.15,
        clavicle=anatomy.clavicle - 0.035,
        scapula=anatomy.scapula + 0.5,
    )


def draw_pose(rng: np.random.Generator, view: str) -> Pose:
    """Return a random position before the detector; portable AP radiographs are less well centred."""
    spread = 1.0 if view == "PA" else 1.6
    return Pose(
        shift_x=spread * rng.normal(0, 0.012),
        shift_y=spread * rng.normal(0, 0.012),
        lean=spread * rng.normal(0, 0.022),
        zoom=rng.normal(1.0, 0.025),
    )


def patient_grid(pose: Pose, size: int) -> tuple[Plane, Plane]:
    """Return patient coordinates at the pixel centres: x (size, size) and y (size, 1)."""
    centres = pixel_centres(size)
    y = ((centres - 0.5 - pose.shift_y) / pose.zoom + 0.5).astype(np.float32)[:, None]
    x = ((centres - 0.5 - pose.shift_x) / pose.zoom + 0.5).astype(np.float32)[None, :]
    return x + np.float32(pose.lean) * (y - np.float32(0.5)), y


def project(pose: Pose, lines: Plane) -> Plane:
    """Return polylines (n, 2 · points) in patient coordinates, x and y in turn, in those of the image."""
    x, y = lines[:, 0::2], lines[:, 1::2]
    placed = np.empty_like(lines)
    placed[:, 0::2] = (x - pose.lean * (y - 0.5) - 0.5) * pose.zoom + 0.5 + pose.shift_x
    placed[:, 1::2] = (y - 0.5) * pose.zoom + 0.5 + pose.shift_y
    return placed


def lateral_edge(anatomy: Anatomy, y: Value) -> Value:
    """Return u of the chest wall at height ``y``: a quarter of an ellipse from the apex to the widest rib."""
    t = np.clip((y - anatomy.apex) / (0.60 - anatomy.apex), 0, 1)
    taper = 0.02 * np.maximum(y - 0.60, 0)
    return 0.155 + (anatomy.lung_width - 0.155) * np.sqrt(1 - (1 - t) ** 2) - taper


def medial_edge(anatomy: Anatomy, y: Value) -> Value:
    """Return u of the mediastinum at height ``y``."""
    t = np.clip((y - anatomy.apex) / 0.13, 0, 1)
    hilum = 0.09 * np.clip(y - 0.25, 0, 0.2)
    return anatomy.mediastinum + hilum + (0.155 - anatomy.mediastinum) * (1 - np.sqrt(1 - (1 - t) ** 2))


def diaphragm(anatomy: Anatomy, side: int, u: Value) -> Value:
    """Return y of the diaphragm at ``u``: a dome that falls steeply to the costophrenic sulcus."""
    top = anatomy.dome[0 if side == RIGHT else 1]
    lateral = np.maximum(u - 0.17, 0) / (anatomy.lung_width - 0.17)
    medial = np.maximum(0.17 - u, 0)
    inner = 1.6 * medial * medial if side == RIGHT else -0.45 * medial  # the heart rests on the left dome
    return top + anatomy.sulcus * lateral * lateral * (0.55 + 0.45 * lateral) + inner


def lung(anatomy: Anatomy, side: int, u: Plane, y: Plane, edge: float = 0.012) -> Plane:
    """Return the lung of one side, 1 inside and 0 outside, before heart and vessels cover it."""
    inside = soft_step(lateral_edge(anatomy, y) - u, edge)
    inside *= soft_step(u - medial_edge(anatomy, y), 1.6 * edge)
    inside *= soft_step(diaphragm(anatomy, side, u) - y, edge)
    inside *= soft_step(y - anatomy.apex, edge)
    return inside


def in_lung(anatomy: Anatomy, side: int, u: float, y: float, margin: float) -> bool:
    """Return whether a point lies in the lung of a side, ``margin`` from its walls, outside the heart."""
    walls = medial_edge(anatomy, y) + margin < u < lateral_edge(anatomy, y) - margin
    floor = anatomy.apex + margin < y < diaphragm(anatomy, side, u)
    x = np.full((1, 1), 0.5 + side * u, np.float32)
    return bool(walls and floor and heart(anatomy, x, np.full((1, 1), y, np.float32))[0, 0] < 0.5)


def heart(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Return the cardiac silhouette: an ellipse whose axis points down to the patient's left."""
    scale = anatomy.heart
    cos, sin = np.cos(anatomy.heart_axis), np.sin(anatomy.heart_axis)
    dx, dy = x - (0.552 + 0.045 * (scale - 0.7)), y - (0.575 + anatomy.heart_drop - 0.03 * (scale - 1))
    long = (dx * np.float32(cos) + dy * np.float32(sin)) * np.float32(1 / (0.187 * scale))
    short = (dy * np.float32(cos) - dx * np.float32(sin)) * np.float32(1 / (0.138 * scale**0.7))
    distance = np.float32(1) - np.sqrt(long * long + short * short)
    return soft_step(distance, 0.09)


def great_vessels(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Return what bulges out of the upper mediastinum: aortic knob, pulmonary trunk, superior vena cava."""
    knob = _disc(x, y, 0.5 + anatomy.mediastinum - 0.006, 0.315, anatomy.knob)
    trunk = _disc(x, y, 0.5 + anatomy.mediastinum - 0.004, 0.405, 0.036)
    cava = soft_step(np.float32(anatomy.mediastinum + 0.004) - np.abs(x - np.float32(0.485)), 0.03)
    cava *= soft_step(y - np.float32(0.2), 0.1) * soft_step(np.float32(0.6) - y, 0.1)
    return np.maximum(np.maximum(knob, trunk), cava)


def _disc(x: Plane, y: Plane, cx: float, cy: float, radius: float) -> Plane:
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    return soft_step(np.float32(radius) - np.sqrt(dx * dx + dy * dy), 0.02)


def airways(x: Plane, y: Plane) -> Plane:
    """Return the air column of the trachea and the two main bronchi below the carina."""
    offset = x - np.float32(0.497)
    below = np.maximum(y - np.float32(0.375), 0)
    spread = np.abs(offset) - np.float32(1.2) * below
    column = soft_step(np.float32(0.019) - np.abs(spread), 0.014)
    return column * soft_step(np.float32(0.42) - y, 0.06) * (np.float32(1) - np.float32(9) * below)


def soft_tissue(anatomy: Anatomy, x: Plane, y: Plane, u: Plane) -> Plane:
    """Return the density of body wall, mediastinum, abdomen, breasts and shoulders, without bone or lung."""
    shoulder = np.float32(0.045) + np.float32(1.15) * np.maximum(u - np.float32(0.14), 0) ** 2
    neck = soft_step(np.float32(0.135) - u, 0.05) * soft_step(np.float32(0.2) - y, 0.1)
    trunk = soft_step(y - shoulder, 0.05)
    flank = soft_step(np.float32(0.488) + np.float32(0.10) * np.abs(y - np.float32(0.5)) - u, 0.03)
    body = np.maximum(trunk, neck) * flank
    density = np.float32(0.57 + anatomy.tissue) + np.float32(0.12) * parabola(u, 0.13)
    density = density + np.float32(0.13) * soft_step(y - np.float32(0.70), 0.35)
    density = density + np.float32(0.10 * anatomy.breast) * _breasts(u, y)
    return np.asarray(density * body)


def _breasts(u: Plane, y: Plane) -> Plane:
    du, dy = (u - np.float32(0.235)) * np.float32(1 / 0.19), (y - np.float32(0.56)) * np.float32(1 / 0.19)
    return soft_step(np.float32(1) - (du * du + dy * dy), 0.5)


def gastric_bubble(anatomy: Anatomy, x: Plane, y: Plane) -> Plane:
    """Return the air in the stomach under the left dome."""
    dx, dy = x - np.float32(0.66), y - np.float32(anatomy.dome[1] + 0.075)
    return soft_step(np.float32(0.05) - np.sqrt(dx * dx * np.float32(0.5) + dy * dy), 0.03)
