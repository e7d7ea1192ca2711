"""Localization tables: every figure of every finding with its interval, beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.evaluation.bootstrap import LEVEL, MACRO, Resampled, interval, macro, resample
from hilum.evaluation.controls import centre_prior_control, gaussian_prior_control, random_map_control
from hilum.evaluation.maps import ACCURACIES, THRESHOLD, Boxes, Floats, mean_known, measure
from hilum.localization.components import Threshold

Controls = tuple[dict[str, float], ...]


@dataclass(frozen=True)
class LocalizationEstimate:
    """A localization figure over ``n`` images with boxes, its interval, and what blind maps reach.

    ``random_map``: maps of noise; ``centre_prior``: for each image the average box map of the finding's
    *other* patients; ``gaussian_prior``: one Gaussian in the middle of the image. A map that does not beat
    them has not looked at the image. For a macro, ``n`` counts (image, finding) pairs over ``findings``.
    """

    value: float
    low: float
    high: float
    n: int
    random_map: float
    centre_prior: float
    gaussian_prior: float
    sd: float = float("nan")
    findings: int = 1


def evaluate_localization(
    maps: ArrayLike,
    boxes: Boxes,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    level: float = LEVEL,
) -> dict[str, LocalizationEstimate]:
    """Return every figure of ``measure`` for one finding, with patient-bootstrap intervals and controls.

    ``maps`` (N, H, W) or, for S training seeds, (S, N, H, W); ``boxes`` of the finding per image, images
    without any are left out; ``patients`` (N,); the controls use the same grid and threshold as the maps.
    Raises ``DataError``.
    """
    found = evaluate_findings(
        np.asarray(maps)[..., None, :, :],
        {"": boxes},
        patients,
        resamples=resamples,
        seed=seed,
        threshold=threshold,
        accuracies=accuracies,
        level=level,
    )
    return found[""]


def evaluate_findings(
    maps: ArrayLike,
    boxes: Mapping[str, Boxes],
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    threshold: Threshold | Mapping[str, Threshold] = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    level: float = LEVEL,
    controls: Mapping[str, Controls] | None = None,
) -> dict[str, dict[str, LocalizationEstimate]]:
    """Return ``evaluate_localization`` of each finding, and of ``'macro'``, their mean on the same resamples.

    ``maps`` (N, C, H, W) or (S, N, C, H, W); ``boxes`` names the C findings in order, each with the boxes of
    the N images; ``threshold`` one for all, or by finding; ``controls``: what ``measure_controls`` gave of the
    same boxes, so that many models of one test set share them. Raises ``DataError``.
    """
    m = np.asarray(maps, dtype=np.float64)
    m = m[None] if m.ndim == 4 else m
    who = np.asarray(patients)
    if m.ndim != 5 or m.shape[2] != len(boxes) or who.shape != m.shape[1:2] or not boxes or MACRO in boxes:
        raise DataError(
            f"Expected maps (images, {len(boxes)} findings, height, width), a patient for each image and no "
            f"finding named '{MACRO}'; found maps {m.shape} and patients {who.shape}."
        )
    cuts = {f: threshold[f] if isinstance(threshold, Mapping) else threshold for f in boxes}
    values = np.stack([_values(m[:, :, c], boxes[f], cuts[f], accuracies) for c, f in enumerate(boxes)], axis=-1)
    sample = resample(lambda weights: _weighted_means(weights, values), who, resamples, seed)
    counts = (~np.isnan(values)).any(axis=0).sum(axis=0)
    known = controls or {}
    beside_maps = [
        known[f] if f in known else measure_controls(boxes[f], who, m.shape[3:], cuts[f], accuracies, seed)
        for f in boxes
    ]
    table: dict[str, dict[str, LocalizationEstimate]] = {name: {} for name in (*boxes, MACRO)}
    for k, name in enumerate(beside_maps[0][0]):
        part = _columns(sample, k * len(boxes), len(boxes))
        beside = np.array([[control[name] for control in three] for three in beside_maps])
        for c, finding in enumerate(boxes):
            table[finding][name] = _estimate(_columns(part, c, 1), int(counts[k, c]), beside[c], 1, level)
        exists = ~np.isnan(part.values)
        means = np.array([mean_known(column) for column in beside[exists].T])
        table[MACRO][name] = _estimate(macro(part), int(counts[k].sum()), means, int(exists.sum()), level)
    return table


def _values(maps: Floats, boxes: Boxes, threshold: Threshold, accuracies: Sequence[float]) -> Floats:
    measured = [measure(one, boxes, threshold, accuracies) for one in maps]
    return np.stack([np.stack(list(figures.values()), axis=-1) for figures in measured])


def measure_controls(
    boxes: Boxes,
    patients: NDArray[np.generic],
    shape: tuple[int, int],
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    seed: int = 0,
) -> Controls:
    """Return every figure of random maps, of the average box of other patients, and of a central Gaussian."""
    grid = (boxes, shape, threshold, accuracies)
    return (
        random_map_control(*grid, seed=seed),
        centre_prior_control(*grid, patients=patients),
        gaussian_prior_control(*grid),
    )


def _columns(sample: Resampled, start: int, count: int) -> Resampled:
    chosen = slice(start, start + count)
    return Resampled(sample.seeds[:, chosen], sample.resamples[:, chosen])


def _weighted_means(weights: NDArray[np.generic], values: Floats) -> Floats:
    # (R, N) and (S, N, ...) to (R, S, K): K trailing figures, NaN images left out.
    flat = values.reshape(*values.shape[:2], -1)
    known = ~np.isnan(flat)
    w = weights.astype(np.float64)
    total = np.stack([w @ np.where(k, v, 0) for k, v in zip(known, flat, strict=True)], axis=1)
    count = np.stack([w @ k.astype(np.float64) for k in known], axis=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _estimate(sample: Resampled, n: int, controls: Floats, findings: int, level: float) -> LocalizationEstimate:
    low, high = interval(sample.resamples[:, 0], level)
    random_map, centre, gaussian = (float(c) for c in controls)
    value = float(sample.values[0])
    return LocalizationEstimate(value, low, high, n, random_map, centre, gaussian, sample.spread, findings)
