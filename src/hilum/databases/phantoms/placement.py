"""Where findings lie and how large they are: the statistics of the 984 boxes of NIH ChestX-ray14.

Wang et al., ChestX-Ray8, CVPR 2017, ``BBox_List_2017.csv``: median width and height, mean and standard
deviation of the centre, as fractions of the 1024-pixel edge. Edema, Fibrosis and Tuberculosis have no
boxes there; theirs are chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hilum.databases.phantoms.anatomy import LEFT, RIGHT, Anatomy, in_lung


class BoxStatistics(NamedTuple):
    """Median box size, and mean ± standard deviation of its centre, as fractions of the edge."""

    width: float
    height: float
    x: float
    x_sd: float
    y: float
    y_sd: float


NIH_BOXES: dict[str, BoxStatistics] = {
    name: BoxStatistics(*(value / 1024 for value in row))
    for name, row in {
        "Atelectasis": (171, 118, 521, 218, 582, 118),
        "Cardiomegaly": (478, 382, 588, 50, 583, 66),
        "Effusion": (208, 277, 507, 285, 575, 122),
        "Infiltration": (228, 265, 541, 180, 538, 119),
        "Mass": (120, 141, 519, 210, 462, 119),
        "Nodule": (70, 68, 538, 256, 494, 158),
        "Pneumonia": (229, 275, 517, 193, 569, 107),
        "Pneumothorax": (201, 206, 469, 226, 332, 192),
    }.items()
}

CHOSEN_BOXES: dict[str, BoxStatistics] = {
    "Edema": BoxStatistics(0.55, 0.36, 0.50, 0.02, 0.46, 0.03),
    "Fibrosis": BoxStatistics(0.20, 0.20, 0.50, 0.25, 0.58, 0.08),
    "Tuberculosis": BoxStatistics(0.17, 0.17, 0.48, 0.20, 0.27, 0.05),
}

_SPREAD = 0.28  # standard deviation of the logarithm of a box's edge
_TRIES = 24


class Spot(NamedTuple):
    """A place in a lung: side, distance from the midline, height, and a size, as fractions of the edge."""

    side: int
    u: float
    y: float
    width: float
    height: float


def draw_side(rng: np.random.Generator, box: BoxStatistics) -> int:
    """Return the side of a lesion, so that the mean centre lies where the statistics put it."""
    lateral = max(box.x_sd, 0.15)
    return RIGHT if rng.random() < 0.5 - (box.x - 0.5) / (2 * lateral) else LEFT


def draw_size(rng: np.random.Generator, box: BoxStatistics) -> tuple[float, float]:
    """Return width and height, log-normal about the medians and correlated."""
    common, own = rng.normal(0, _SPREAD, 2)
    limit = 1.9
    width = np.clip(np.exp(common), 1 / limit, limit)
    height = np.clip(np.exp(0.6 * common + 0.8 * own), 1 / limit, limit)
    return float(box.width * width), float(box.height * height)


def draw_spot(
    rng: np.random.Generator, anatomy: Anatomy, box: BoxStatistics, side: int | None = None, fill: float = 1.0
) -> Spot:
    """Return a place in aerated lung, drawn from the statistics and rejected until it lies there.

    ``fill`` is the ratio of the drawn size to the box that is left of it once the lung's edge cuts it.
    """
    side = draw_side(rng, box) if side is None else side
    width, height = draw_size(rng, box)
    margin = min(0.25 * min(width, height), 0.035)
    lateral = max(box.x_sd - 0.04, 0.10)
    drop = max(0.0, 0.065 + 0.5 * (box.y - 0.45))  # heart and diaphragm refuse or cut the lowest
    for _ in range(_TRIES):
        u, y = rng.normal(lateral, 0.06), rng.normal(box.y + drop, box.y_sd)
        if in_lung(anatomy, side, u, y, margin):
            return Spot(side, u, y, fill * width, fill * height)
    return Spot(side, 0.24, float(np.clip(box.y, 0.25, 0.50)), fill * width, fill * height)
