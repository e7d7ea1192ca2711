"""One phantom radiograph: body, lesions, scanner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hilum.databases.phantoms.anatomy import (
    LEFT,
    RIGHT,
    Anatomy,
    Pose,
    airways,
    draw_anatomy,
    draw_pose,
    gastric_bubble,
    great_vessels,
    heart,
    in_view,
    lung,
    patient_grid,
    soft_tissue,
)
from hilum.databases.phantoms.devices import central_line, chest_drain
from hilum.databases.phantoms.lesions import PAINTERS, Field
from hilum.databases.phantoms.raster import Plane, parabola, smooth_field
from hilum.databases.phantoms.scanner import Scanner, expose
from hilum.databases.phantoms.skeleton import clavicles, ribs, shoulders, spine
from hilum.databases.phantoms.vessels import HILUM, draw_vessels
from hilum.errors import DataError, UnknownName
from hilum.randomness import numpy_generator

PHANTOM_FINDINGS: tuple[str, ...] = ("Cardiomegaly", *PAINTERS, "Support Devices")
VIEWS = ("PA", "AP")

Mask = NDArray[np.bool_]
Box = tuple[str, float, float, float, float]


@dataclass(frozen=True)
class Lesion:
    """One drawn finding and its exact mask, bool (H, W)."""

    finding: str
    mask: Mask

    @property
    def box(self) -> Box:
        """Finding and the corners x0, y0, x1, y1 of the mask's extent, as fractions of the edge."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        height, width = self.mask.shape
        return (
            self.finding,
            float(columns[0] / width),
            float(rows[0] / height),
            float((columns[-1] + 1) / width),
            float((rows[-1] + 1) / height),
        )


@dataclass(frozen=True)
class Radiograph:
    """Pixels uint8 (H, W), denser is brighter, and every lesion that was drawn."""

    pixels: NDArray[np.uint8]
    lesions: tuple[Lesion, ...]

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box a lesion: (finding, x0, y0, x1, y1), corners as fractions in [0, 1]."""
        return tuple(lesion.box for lesion in self.lesions)

    @property
    def masks(self) -> dict[str, Mask]:
        """Per finding the union of its lesions' masks, bool (H, W)."""
        union: dict[str, Mask] = {}
        for lesion in self.lesions:
            union[lesion.finding] = union.get(lesion.finding, np.False_) | lesion.mask
        return union


def render(
    seed: int | np.random.Generator,
    findings: Iterable[str] | Mapping[str, float] = (),
    view: str = "PA",
    size: int = 128,
    contrast: float = 1.0,
    scanner: Scanner = Scanner(),  # noqa: B008  (frozen)
    patient: Anatomy | None = None,
) -> Radiograph:
    """Draw one radiograph with exact boxes and masks.

    ``findings``: names of ``PHANTOM_FINDINGS``, or a mapping from name to a factor on ``contrast``.
    ``contrast`` scales how much air every lesion replaces and how far the heart is enlarged: 1 is plain
    to see, 0.4 is hard; devices ignore it. ``size``: edge in pixels, at least 32. ``patient``: the build,
    drawn from the seed where absent. Anatomy, noise and every finding have streams of their own: with one
    seed, two sets of findings give the same body, exposure and noise. Raises ``DataError``, ``UnknownName``.
    """
    strength = _strengths(findings, view, size, contrast)
    key = int(seed.integers(2**62)) if isinstance(seed, np.random.Generator) else seed
    anatomy = patient or draw_anatomy(numpy_generator(key, "anatomy"))
    anatomy = in_view(anatomy, view)
    if "Cardiomegaly" in strength:
        anatomy = _enlarged(anatomy, numpy_generator(key, "Cardiomegaly"), strength["Cardiomegaly"])
    pose = draw_pose(numpy_generator(key, "pose"), view)
    density, lesions = _body(key, anatomy, pose, strength, size)
    pixels = expose(scanner, density, numpy_generator(key, "scanner"))
    return Radiograph(pixels, tuple(Lesion(finding, mask) for finding, mask in lesions))


def _strengths(
    findings: Iterable[str] | Mapping[str, float], view: str, size: int, contrast: float
) -> dict[str, float]:
    if view not in VIEWS:
        raise UnknownName("view", view, VIEWS)
    if size < 32 or contrast < 0:
        raise DataError(f"Expected size >= 32 and contrast >= 0; found size {size} and contrast {contrast}.")
    factors = findings if isinstance(findings, Mapping) else dict.fromkeys(findings, 1.0)
    for name in factors:
        if name not in PHANTOM_FINDINGS:
            raise UnknownName("phantom finding", name, PHANTOM_FINDINGS)
    return {name: contrast * factors[name] for name in PHANTOM_FINDINGS if name in factors}


def _enlarged(anatomy: Anatomy, rng: np.random.Generator, strength: float) -> Anatomy:
    growth = 1 + strength * np.clip(rng.normal(0.27, 0.06), 0.16, 0.42)
    return replace(anatomy, heart=anatomy.heart * growth)


def _body(
    key: int, anatomy: Anatomy, pose: Pose, strength: dict[str, float], size: int
) -> tuple[Plane, list[tuple[str, Mask]]]:
    """Return the density of body and lesions, and the lesions' masks."""
    x, y = patient_grid(pose, size)
    u = np.abs(x - np.float32(0.5))
    rng = numpy_generator(key, "body")
    cardiac = heart(anatomy, x, y)
    left = x > 0.5
    lungs = np.where(left, lung(anatomy, LEFT, u, y), lung(anatomy, RIGHT, u, y))
    covered = np.maximum(cardiac, great_vessels(anatomy, x, y))
    depth = np.float32(0.80) + np.float32(0.20) * parabola(u - np.float32(0.23), 0.22)
    air = lungs * (np.float32(1) - np.float32(0.94) * covered) * depth
    cage = np.float32(0.135) * ribs(anatomy, rng, u, y)
    bones = np.float32(0.045) * spine(rng, u, y) + np.float32(0.16) * clavicles(anatomy, u, y)
    bones += np.float32(0.10) * shoulders(anatomy, u, y)
    tissue = soft_tissue(anatomy, x, y, u) + np.float32(0.035) * smooth_field(rng, 6, size)
    tissue += np.float32(0.045) * covered - np.float32(0.10) * airways(x, y)
    tissue -= np.float32(0.14 * max(rng.normal(0.3, 0.5), 0)) * gastric_bubble(anatomy, x, y)
    vessels = _lung_markings(anatomy, rng, pose, x, y)
    field = Field(anatomy, x, y, u, air, *(np.zeros_like(air) for _ in range(3)))
    for name in strength:
        if name in PAINTERS:
            PAINTERS[name](numpy_generator(key, name), field, strength[name])
    cage *= np.float32(0.25) + np.float32(0.75) * air * (np.float32(1) - np.float32(0.55) * field.opacity)
    density = tissue + bones + cage + _aerated(field, vessels)
    lesions = field.lesions
    if "Cardiomegaly" in strength:
        lesions.insert(0, ("Cardiomegaly", cardiac > 0.5))
    if "Support Devices" in strength:
        device, mask = _device(numpy_generator(key, "Support Devices"), lesions, pose, size)
        density += device
        lesions.append(("Support Devices", mask))
    return density, lesions


def _lung_markings(anatomy: Anatomy, rng: np.random.Generator, pose: Pose, x: Plane, y: Plane) -> Plane:
    """Return vessels, hilar shadows and fine texture, as a share of the lung's air."""
    size = len(y)
    markings = np.float32(0.55) * draw_vessels(anatomy.tree, pose, size)
    for side, (u, height) in HILUM.items():
        dx, dy = x - np.float32(0.5 + side * u), (y - np.float32(height)) * np.float32(0.7)
        markings += np.float32(0.26) * parabola(np.sqrt(dx * dx + dy * dy), 0.065)
    markings += np.float32(0.03) * smooth_field(rng, 60, size)
    return markings + np.float32(0.05) * smooth_field(rng, 12, size)


def _aerated(field: Field, markings: Plane) -> Plane:
    """Return the (negative) density of the lungs: air, less what markings and lesions fill."""
    emptied = np.minimum(field.emptied, 1)
    filled = markings * (np.float32(1) - emptied) - np.float32(0.26) * emptied
    filled += np.float32(0.30) * field.pleura
    filled = filled + (np.float32(1) - np.clip(filled, 0, 1)) * np.minimum(field.opacity, 1)
    return np.asarray(np.float32(-0.43) * field.air * (np.float32(1) - filled))


def _device(rng: np.random.Generator, lesions: list[tuple[str, Mask]], pose: Pose, size: int) -> tuple[Plane, Mask]:
    """Draw a drain on the side of a pleural finding, or else a central line or a drain."""
    pleural = [mask for finding, mask in lesions if finding in ("Pneumothorax", "Effusion")]
    side = RIGHT if rng.random() < 0.5 else LEFT
    if pleural:
        middle = size // 2
        side = LEFT if pleural[-1][:, middle:].sum() > pleural[-1][:, :middle].sum() else RIGHT
    drain = bool(pleural) or rng.random() < 0.35
    return (chest_drain if drain else central_line)(rng, side, pose, size)
