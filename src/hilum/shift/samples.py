"""Features of a site with the patients they are of: checks, subsamples, folds, halves and a common scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def check(x: ArrayLike, patients: ArrayLike) -> tuple[Floats, Ints]:
    """Return features (n, d) and a number for each patient (n,) from 0 up; raises ``DataError``.

    Ids are those of one site: the same id at two sites is taken for two patients.
    """
    values = np.asarray(x, dtype=np.float64)
    who = np.asarray(patients)
    if values.ndim != 2 or not values.size or who.shape != values.shape[:1]:
        raise DataError(f"Expected features (n, d) and n patients, n ≥ 1; found {values.shape} and {who.shape}.")
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise DataError(f"Expected finite features; found {len(rows)} images without (the first is row {rows[0]}).")
    return values, np.unique(who, return_inverse=True)[1].astype(np.int64)


def same_width(a: Floats, b: Floats) -> None:
    """Raise ``DataError`` unless both sites have the same features."""
    if a.shape[1] != b.shape[1]:
        raise DataError(f"Expected the same features at both sites; found {a.shape[1]} and {b.shape[1]}.")


def subsample(count: int, wanted: int, rng: np.random.Generator) -> Ints:
    """Return ``wanted`` of ``count`` rows at random, in order; all where they are no more."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(rng.choice(count, wanted, replace=False))


def patient_folds(patients: Ints, folds: int, rng: np.random.Generator) -> Ints:
    """Return the fold of each image, 0 … folds − 1: whole patients, as many patients in each fold as in another."""
    names, member = np.unique(patients, return_inverse=True)
    if folds < 2 or len(names) < folds:
        raise DataError(
            f"Expected at least 2 folds and as many patients; found {folds} folds and {len(names)} patients."
        )
    fold = np.empty(len(names), np.int64)
    fold[rng.permutation(len(names))] = np.arange(len(names)) % folds
    return fold[member]


def halves(patients: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the rows of two random halves of the patients; raises ``DataError`` for one patient."""
    half = patient_folds(patients, 2, rng)
    return np.flatnonzero(half == 0), np.flatnonzero(half == 1)


def standardize(arrays: Sequence[ArrayLike]) -> list[Floats]:
    """Shift and scale features (n, d) of several sites by the mean and deviation of all their images together.

    A feature that is constant everywhere becomes 0.
    """
    parts = [np.asarray(a, dtype=np.float64) for a in arrays]
    everything = np.concatenate(parts)
    mean, sd = everything.mean(axis=0), everything.std(axis=0)
    scale = positive_scale(mean, sd)
    return [(part - mean) / scale for part in parts]


def positive_scale(mean: Floats, sd: Floats) -> Floats:
    """Return the deviations, with 1 for those that are rounding error beside the mean."""
    return np.where(sd > 1e-9 * np.maximum(1e-9, np.abs(mean)), sd, 1.0)
