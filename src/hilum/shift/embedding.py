"""Sites and images on a plane, and the images that are most and least like their own site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hilum.errors import DataError
from hilum.randomness import numpy_generator
from hilum.shift.samples import Floats, Ints, check, patient_folds, same_width

PENALTY = 0.01


@dataclass(frozen=True)
class Example:
    """An image: its ``row`` at its site, the site it looks as if it came from, and the probability of that."""

    row: int
    site: str
    probability: float


@dataclass(frozen=True)
class SiteExamples:
    """``typical``: images that are most surely of their own site; ``foreign``: that seem to be of another."""

    typical: tuple[Example, ...]
    foreign: tuple[Example, ...]


def site_embedding(distances: ArrayLike) -> Floats:
    """Return points (K, 2) whose distances are as near the given ones (K, K) as a plane allows (classical MDS).

    Exact where the sites lie in a plane (Torgerson 1952); in units of the distances. Of each axis the
    coordinate farthest from 0 is positive. Raises ``DataError``.
    """
    d = np.asarray(distances, np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1] or not len(d) or not np.isfinite(d).all() or (d < 0).any():
        raise DataError(f"Expected finite distances (K, K) ≥ 0; found shape {d.shape} or others.")
    if not np.allclose(d, d.T) or not np.allclose(np.diag(d), 0):
        raise DataError("Expected symmetric distances that are 0 on the diagonal; found others.")
    centred = d**2 - (d**2).mean(axis=0)
    values, vectors = np.linalg.eigh(-0.5 * (centred - centred.mean(axis=1, keepdims=True)))
    points = np.zeros((len(d), 2))
    count = min(2, len(d))
    points[:, :count] = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :count]
    return _signed(points)


def sample_embedding(x: ArrayLike) -> Floats:
    """Return the first two principal components (N, 2) of features (N, d); signs as in ``site_embedding``."""
    values = check(x, np.arange(len(np.asarray(x))))[0]
    u, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    points = np.zeros((len(values), 2))
    count = min(2, len(s))
    points[:, :count] = u[:, :count] * s[:count]
    return _signed(points)


def typical_and_foreign(
    features: Mapping[str, ArrayLike],
    patients: Mapping[str, ArrayLike],
    *,
    count: int = 8,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, SiteExamples]:
    """Return, for each site, its ``count`` most typical images and those that seem to come from elsewhere.

    A multinomial logistic model guesses the site of each image from features (n, d), trained on the folds in
    which its patient is not; sites weigh alike. Foreign images are those for which another site is likelier
    than their own, the surest first, and may be fewer. Raises ``DataError``.
    """
    names = sorted(features)
    if len(names) < 2:
        raise DataError(f"Expected at least 2 sites; found {len(names)}.")
    parts = [check(features[name], patients[name]) for name in names]
    for x, _ in parts[1:]:
        same_width(parts[0][0], x)
    fold = [
        patient_folds(who, folds, numpy_generator(seed, "typical", n)) for n, (_, who) in zip(names, parts, strict=True)
    ]
    label = np.repeat(np.arange(len(names)), [len(x) for x, _ in parts])
    probability = _out_of_fold(np.concatenate([x for x, _ in parts]), label, np.concatenate(fold))
    return {name: _examples(probability[label == k], k, names, count) for k, name in enumerate(names)}


def _out_of_fold(x: Floats, label: Ints, fold: Ints) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    probability = np.empty((len(x), label.max() + 1))
    for held_out in np.unique(fold):
        train = fold != held_out
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(C=1 / (PENALTY * train.sum()), class_weight="balanced", max_iter=1000, tol=1e-3)
        model.fit(scaler.transform(x[train]), label[train])
        probability[~train] = model.predict_proba(scaler.transform(x[~train]))
    return probability


def _examples(probability: Floats, own: int, names: list[str], count: int) -> SiteExamples:
    mine, others = probability[:, own], probability.copy()
    others[:, own] = -1
    other = others.argmax(axis=1)
    theirs = others.max(axis=1)
    first = np.argsort(-mine, kind="stable")[:count]
    strange = [r for r in np.argsort(-theirs, kind="stable") if theirs[r] > mine[r]][:count]
    typical = tuple(Example(int(r), names[own], float(mine[r])) for r in first if mine[r] >= theirs[r])
    return SiteExamples(typical, tuple(Example(int(r), names[other[r]], float(theirs[r])) for r in strange))


def _signed(points: Floats) -> Floats:
    farthest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    return points * np.where(farthest < 0, -1, 1)
