"""What maps that never saw the image reach: noise, the average of the other patients, the middle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from hilum.evaluation.boxes import Floats, check_boxes, covers
from hilum.evaluation.maps import ACCURACIES, THRESHOLD, Boxes, measure
from hilum.localization.components import Threshold, normalise
from hilum.randomness import numpy_generator

DRAWS = 16


def random_maps(count: int, shape: tuple[int, int], rng: np.random.Generator, scale: float = 1 / 8) -> Floats:
    """Return smooth random maps (count, H, W) in [0, 1]: white noise blurred by ``scale`` image sides.

    Smooth because a model's maps are; the noise wraps around, so that no place of the image is preferred.
    """
    noise = rng.normal(size=(count, *shape))
    return normalise(ndimage.gaussian_filter(noise, (0, scale * shape[0], scale * shape[1]), mode="wrap"))


def gaussian_prior(shape: tuple[int, int], scale: float = 0.25) -> Floats:
    """Return a Gaussian (H, W) in the middle of the image, its standard deviation in image sides."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    return np.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * scale**2))


def average_box_prior(boxes: Boxes, patients: ArrayLike, shape: tuple[int, int]) -> Floats:
    """Return for each image the average box map of all images of *other* patients, (N, H, W) in [0, 1].

    Leaving the patient out keeps the control from knowing the answer; NaN where there is no other patient.
    """
    covered = covers(check_boxes(boxes), shape)
    _, member = np.unique(np.asarray(patients), return_inverse=True)
    own = np.zeros((member.max(initial=-1) + 1, *shape))
    np.add.at(own, member, covered)
    others = len(member) - np.bincount(member)[member]
    rest = covered.sum(axis=0) - own[member]
    return np.where(others[:, None, None] > 0, rest, np.nan) / np.maximum(others, 1)[:, None, None]


def random_map_control(
    boxes: Boxes,
    shape: tuple[int, int],
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    *,
    seed: int = 0,
) -> dict[str, Floats]:
    """Return what random maps reach on each of the n images with boxes, (n,).

    Pointing game and box energy are exact: a uniform point hits with the area of the union of the boxes, and
    that is the mean share of mass of maps that prefer no place. The others are means over 16 seeded
    ``random_maps`` an image.
    """
    b = [box for box in check_boxes(boxes) if len(box)]
    rng = numpy_generator(seed, "random maps")
    covered = covers(b, shape)
    noise = (random_maps(len(b), shape, rng) for _ in range(DRAWS))
    draws = [measure(maps, b, threshold, accuracies, covered=covered) for maps in noise]
    values = {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}
    area = covered.mean(axis=(1, 2))
    return {**values, "pointing_game": area, "box_energy": area}


def centre_prior_control(
    boxes: Boxes,
    shape: tuple[int, int],
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    *,
    patients: ArrayLike,
) -> dict[str, Floats]:
    """Return what the average box map of the other patients reaches on each of the n images with boxes, (n,).

    All are NaN where fewer than two patients have boxes.
    """
    checked = check_boxes(boxes)
    kept = np.array([len(box) > 0 for box in checked], dtype=bool)
    b, who = [box for box in checked if len(box)], np.asarray(patients)[kept]
    alone = len(np.unique(who)) < 2
    maps = np.zeros((len(b), *shape)) if alone else average_box_prior(b, who, shape)
    values = measure(maps, b, threshold, accuracies)
    return {name: np.full(len(b), np.nan) if alone else value for name, value in values.items()}


def gaussian_prior_control(
    boxes: Boxes,
    shape: tuple[int, int],
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
) -> dict[str, Floats]:
    """Return what one Gaussian in the middle reaches on each of the n images with boxes, (n,)."""
    b = [box for box in check_boxes(boxes) if len(box)]
    return measure(np.broadcast_to(gaussian_prior(shape), (len(b), *shape)), b, threshold, accuracies)
