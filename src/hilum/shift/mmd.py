"""Maximum mean discrepancy of two sites, with a p value that moves whole patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.randomness import numpy_generator
from hilum.shift.samples import Floats, Ints, check, same_width, subsample


@dataclass(frozen=True)
class Mmd:
    """``value``: unbiased MMD², 0 on average for equal distributions (so that it may be negative), at most 2.

    ``p_value``: of as large a value if the patients of both sites came from one population; NaN without
    ``permutations``. ``bandwidth``: σ of the kernel, in units of the features.
    """

    value: float
    p_value: float
    permutations: int
    bandwidth: float


def mmd(
    a: ArrayLike,
    b: ArrayLike,
    patients_a: ArrayLike,
    patients_b: ArrayLike,
    *,
    permutations: int = 500,
    seed: int = 0,
    bandwidth: float | None = None,
    max_images: int = 1000,
) -> Mmd:
    """Compare features (n1, d) and (n2, d) by the unbiased MMD² (Gretton et al. 2012, eq. 3).

    Kernel exp(−‖x − y‖² / 2σ²); σ is the median distance between different images of both sites unless given.
    Within a site only pairs of images of *different* patients count, so that many films of one patient do not
    look like a shift; with one film each that is the usual estimate. The p value is (1 + #{permuted ≥ found}) /
    (1 + permutations), where whole patients change sites. At most ``max_images`` random images of a site.
    Raises ``DataError``.
    """
    rng = numpy_generator(seed, "mmd")
    sides = [_chosen(*check(x, who), max_images, rng) for x, who in ((a, patients_a), (b, patients_b))]
    same_width(sides[0][0], sides[1][0])
    count_a, count = sides[0][1].max() + 1, sides[0][1].max() + sides[1][1].max() + 2
    patients = np.concatenate([sides[0][1], sides[1][1] + count_a])
    squared = _squared_distances(np.concatenate([x for x, _ in sides]))
    sigma = bandwidth if bandwidth is not None else _median(squared)
    between = _between_patients(np.exp(-squared / (2 * sigma**2)), patients)
    at_a = np.zeros((count, permutations + 1))
    at_a[:count_a, 0] = 1
    for column in range(1, permutations + 1):
        at_a[rng.permutation(count)[:count_a], column] = 1
    values = _estimates(between, np.bincount(patients).astype(np.float64), at_a)
    beyond = (values[1:] >= values[0] - 1e-12).sum()
    p = (1 + beyond) / (1 + permutations) if permutations else float("nan")
    return Mmd(float(values[0]), float(p), permutations, float(sigma))


def _chosen(x: Floats, patients: Ints, limit: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    rows = subsample(len(x), limit, rng)
    who = np.unique(patients[rows], return_inverse=True)[1].astype(np.int64)
    if who.max() == 0:
        raise DataError("Expected at least 2 patients a site; found 1.")
    return x[rows], who


def _squared_distances(x: Floats) -> Floats:
    x = x - x.mean(axis=0)
    norms = np.einsum("nd,nd->n", x, x)
    squared = norms[:, None] + norms - 2 * (x @ x.T)
    np.fill_diagonal(squared, 0)
    return np.maximum(squared, 0, out=squared)


def _median(squared: Floats) -> float:
    """Return the median distance of different images; 1 where most are alike."""
    return float(np.sqrt(np.median(squared[np.triu_indices(len(squared), 1)]))) or 1.0


def _between_patients(kernel: Floats, patients: Ints) -> Floats:
    """Return the kernel summed over the images of two patients, (patients, patients), 0 for one with himself."""
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
    sums = kernel
    if len(starts) < len(patients):
        sums = np.add.reduceat(np.add.reduceat(kernel[order][:, order], starts, axis=0), starts, axis=1)
    np.fill_diagonal(sums, 0)
    return sums


def _estimates(between: Floats, images: Floats, at_a: Floats) -> Floats:
    """Return MMD² for each column of ``at_a`` (patients, R), which says who is at the first site."""
    with_a = between @ at_a
    total, everyone = between.sum(), between.sum(axis=1)
    aa = np.einsum("pr,pr->r", at_a, with_a)
    ab = everyone @ at_a - aa
    bb = total - aa - 2 * ab
    n_a, squares = images @ at_a, images**2
    n_b, squares_a = images.sum() - n_a, squares @ at_a
    pairs_a, pairs_b = n_a**2 - squares_a, n_b**2 - (squares.sum() - squares_a)
    estimates: Floats = aa / pairs_a + bb / pairs_b - 2 * ab / (n_a * n_b)
    return estimates
