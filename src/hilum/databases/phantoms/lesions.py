"""Findings in the lungs: how much air each replaces, where, and its exact mask.

A painter takes a ``Field`` and draws one or more lesions on it. Lesions replace air by water (``opacity``)
or empty the lung of its vessels (``emptied``); they never touch noise, exposure or the rest of the body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hilum.databases.phantoms.anatomy import LEFT, RIGHT, Anatomy, diaphragm, lateral_edge, lung
from hilum.databases.phantoms.placement import CHOSEN_BOXES, NIH_BOXES, Spot, draw_side, draw_size, draw_spot
from hilum.databases.phantoms.raster import Plane, parabola, smooth_field, soft_step

VISIBLE_AIR = 0.2  # a lesion is annotated where at least this share of the beam's path was lung


@dataclass
class Field:
    """The lungs that lesions are painted on; planes are (size, size), y is (size, 1)."""

    anatomy: Anatomy
    x: Plane
    y: Plane
    u: Plane
    air: Plane
    opacity: Plane
    emptied: Plane
    pleura: Plane
    lesions: list[tuple[str, NDArray[np.bool_]]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Edge in pixels."""
        return len(self.y)

    def annotate(self, finding: str, region: NDArray[np.bool_], spot: Spot | None = None) -> None:
        """Record the visible part of a region; where nothing is visible, the pixel at ``spot``."""
        mask = region & (self.air > VISIBLE_AIR)
        if not mask.any():
            x = self.x - np.float32(0.5 + spot.side * spot.u if spot else 0.5)
            y = self.y - np.float32(spot.y if spot else 0.5)
            mask.flat[int(np.argmin(x * x + y * y))] = True
        self.lesions.append((finding, mask))

    def add(self, finding: str, alpha: Plane, strength: float, threshold: float, spot: Spot) -> None:
        """Replace ``strength`` · ``alpha`` of the air by water and annotate alpha > threshold."""
        self.opacity += np.float32(strength) * alpha
        self.annotate(finding, alpha > threshold, spot)

    def radius(self, spot: Spot, tilt: float = 0.0) -> Plane:
        """Return the distance from a spot in units of its half-width and half-height."""
        dx, dy = self.x - np.float32(0.5 + spot.side * spot.u), self.y - np.float32(spot.y)
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        long = (dx * cos + dy * sin) * np.float32(2 / spot.width)
        short = (dy * cos - dx * sin) * np.float32(2 / spot.height)
        return np.asarray(np.sqrt(long * long + short * short))


Painter = Callable[[np.random.Generator, Field, float], None]


def atelectasis(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint one or two plate-like bands."""
    spot = draw_spot(rng, lungs.anatomy, NIH_BOXES["Atelectasis"], fill=1.12)
    tilt = float(np.arctan2(spot.height * 0.5, spot.width)) * (1 if rng.random() < 0.5 else -1)
    length = float(np.hypot(spot.width, spot.height * 0.5))
    thickness = 0.26 * min(spot.height, spot.width) + 0.012
    alpha = np.zeros_like(lungs.air)
    for offset in (-0.5, 0.6) if rng.random() < 0.6 else (0.0,):
        y = spot.y + offset * 1.5 * thickness
        band = Spot(spot.side, spot.u, y, length * rng.uniform(0.85, 1.0), thickness)
        alpha = np.maximum(alpha, soft_step(np.float32(1) - lungs.radius(band, tilt), 0.9))
    haze = parabola(lungs.radius(spot), 1.0) * np.float32(0.25)
    lungs.opacity += np.float32(0.55 * contrast) * haze
    lungs.add("Atelectasis", alpha, 0.52 * contrast, 0.35, spot)


def infiltration(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint an ill-defined patchy haze."""
    spot = draw_spot(rng, lungs.anatomy, NIH_BOXES["Infiltration"], fill=1.12)
    patches = soft_step(smooth_field(rng, 26, lungs.size) + np.float32(0.35), 2.4)
    envelope = soft_step(np.float32(0.85) - lungs.radius(spot), 0.8)
    alpha = envelope * (np.float32(0.30) + np.float32(0.70) * patches)
    lungs.opacity += np.float32(0.50 * contrast) * alpha
    lungs.annotate("Infiltration", envelope > 0.35, spot)


def pneumonia(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint a dense consolidation with an irregular border and air bronchograms."""
    spot = draw_spot(rng, lungs.anatomy, NIH_BOXES["Pneumonia"], fill=1.08)
    border = np.float32(0.22) * smooth_field(rng, 14, lungs.size)
    envelope = soft_step(np.float32(0.92) + border - lungs.radius(spot), 0.55)
    mottle = soft_step(smooth_field(rng, 34, lungs.size) + np.float32(1.1), 2.2)
    lungs.opacity += np.float32(0.62 * contrast) * envelope * (np.float32(0.55) + np.float32(0.45) * mottle)
    lungs.annotate("Pneumonia", envelope > 0.4, spot)


def mass(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint a lobulated, dense mass of more than 3 cm."""
    spot = draw_spot(rng, lungs.anatomy, NIH_BOXES["Mass"], fill=1.03)
    lobes = np.float32(0.12) * smooth_field(rng, 22, lungs.size)
    alpha = soft_step(np.float32(0.97) + lobes - lungs.radius(spot), 0.28)
    lungs.add("Mass", alpha, 0.52 * contrast, 0.5, spot)


def nodule(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint one to three small round opacities."""
    for _ in range(int(rng.choice([1, 2, 3], p=[0.75, 0.18, 0.07]))):
        spot = draw_spot(rng, lungs.anatomy, NIH_BOXES["Nodule"])
        diameter = float(np.sqrt(spot.width * spot.height))
        spot = spot._replace(width=diameter * rng.uniform(0.9, 1.1), height=diameter)
        alpha = soft_step(np.float32(1) - lungs.radius(spot), 0.45)
        lungs.add("Nodule", alpha, 0.62 * contrast, 0.5, spot)


def effusion(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint fluid with a concave upper edge in one costophrenic angle, or now and then in both."""
    box = NIH_BOXES["Effusion"]
    first = draw_side(rng, box)
    for side in (first, -first) if rng.random() < 0.22 else (first,):
        width, height = draw_size(rng, box)
        anatomy = lungs.anatomy
        wall = lateral_edge(anatomy, lungs.y)
        sulcus = anatomy.dome[0 if side == RIGHT else 1] + anatomy.sulcus
        medial = max(anatomy.lung_width - 1.33 * width, 0.06)
        climb = np.clip((lungs.u - np.float32(medial)) / (wall - np.float32(medial)), 0, 1)
        floor = float(diaphragm(anatomy, side, medial + 0.02))
        level = np.float32(floor) - np.float32(floor - (sulcus - 1.05 * height)) * climb**2
        alpha = soft_step(lungs.y - level, 0.05) * _half(lungs.x, side) * soft_step(climb, 0.1)
        spot = Spot(side, 0.9 * anatomy.lung_width, sulcus - 0.06, width, height)
        lungs.add("Effusion", alpha, rng.uniform(0.38, 0.70) * contrast, 0.5, spot)


def _half(x: Plane, side: int) -> Plane:
    return (x > 0.5 if side == LEFT else x < 0.5).astype(np.float32)


def pneumothorax(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint air without vessels between the chest wall and the visceral pleura."""
    box = NIH_BOXES["Pneumothorax"]
    anatomy, side = lungs.anatomy, draw_side(rng, box)
    width, height = draw_size(rng, box)
    depth = float(np.clip(0.40 * width, 0.035, 0.14))
    apical = rng.random() < 0.6
    middle = anatomy.apex if apical else rng.uniform(0.32, 0.64)
    reach = height if apical else 0.65 * height
    fade = np.asarray(np.sqrt(parabola(lungs.y - np.float32(middle), reach)), np.float32)
    shift = np.float32(0.6 * depth if apical else 0.0) * fade
    inner = lung(anatomy, side, np.asarray(lungs.u + np.float32(depth) * fade), np.asarray(lungs.y - shift))
    outer = lung(anatomy, side, lungs.u, lungs.y) * _half(lungs.x, side)
    alpha = outer * (np.float32(1) - inner) * (fade > 0)
    alpha *= soft_step(lungs.u - np.float32(0.09 if apical else 0.2), 0.03)
    lungs.emptied += np.float32(contrast) * alpha
    line = np.float32(4) * inner * (np.float32(1) - inner) * outer * (fade > 0)
    lungs.pleura += np.float32(contrast) * line
    spot = Spot(side, 0.19, middle + 0.03, width, height)
    lungs.annotate("Pneumothorax", alpha > 0.5, spot)


def edema(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint a perihilar haze on both sides, the bat's wings."""
    width, height = draw_size(rng, CHOSEN_BOXES["Edema"])
    du = (lungs.u - np.float32(0.13)) * np.float32(3.4 / width)
    dy = (lungs.y - np.float32(rng.normal(0.46, 0.02))) * np.float32(1.9 / height)
    wings = soft_step(np.float32(1) - np.sqrt(du * du + dy * dy), 0.9)
    mottle = soft_step(smooth_field(rng, 30, lungs.size) + np.float32(0.8), 2.4)
    lungs.opacity += np.float32(0.42 * contrast) * wings * (np.float32(0.45) + np.float32(0.55) * mottle)
    lungs.annotate("Edema", wings > 0.4)


def fibrosis(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint a net of fine lines at the periphery."""
    spot = draw_spot(rng, lungs.anatomy, CHOSEN_BOXES["Fibrosis"], fill=1.25)
    envelope = soft_step(np.float32(0.85) - lungs.radius(spot), 0.7)
    net = parabola(smooth_field(rng, 40, lungs.size), 0.75)
    lungs.opacity += np.float32(0.62 * contrast) * envelope * (np.float32(0.12) + np.float32(0.88) * net)
    lungs.annotate("Fibrosis", envelope > 0.4, spot)


def tuberculosis(rng: np.random.Generator, lungs: Field, contrast: float) -> None:
    """Paint upper-lobe patches, a thick-walled cavity in most, and satellites."""
    spot = draw_spot(rng, lungs.anatomy, CHOSEN_BOXES["Tuberculosis"], fill=1.15)
    patches = soft_step(smooth_field(rng, 30, lungs.size) + np.float32(0.2), 2.0)
    radius = lungs.radius(spot)
    envelope = soft_step(np.float32(0.85) - radius, 0.6)
    alpha = envelope * (np.float32(0.25) + np.float32(0.75) * patches)
    if rng.random() < 0.7:
        ring = np.abs(lungs.radius(spot._replace(width=0.5 * spot.width, height=0.5 * spot.height)) - 1)
        hollow = soft_step(np.float32(0.5) - radius, 0.3)
        alpha = np.maximum(alpha * (np.float32(1) - np.float32(0.85) * hollow), parabola(ring, 0.5))
    lungs.opacity += np.float32(0.50 * contrast) * alpha
    lungs.annotate("Tuberculosis", envelope > 0.4, spot)


PAINTERS: dict[str, Painter] = {
    "Atelectasis": atelectasis,
    "Effusion": effusion,
    "Infiltration": infiltration,
    "Mass": mass,
    "Nodule": nodule,
    "Pneumonia": pneumonia,
    "Pneumothorax": pneumothorax,
    "Edema": edema,
    "Fibrosis": fibrosis,
    "Tuberculosis": tuberculosis,
}
