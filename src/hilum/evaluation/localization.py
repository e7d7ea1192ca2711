"""Localization tables: every figure of every finding with its interval, beside its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError
from hilum.evaluation.bootstrap import (
    FEWEST,
    FEWEST_OF_CLASS,
    LEVEL,
    MACRO,
    Estimate,
    Figure,
    Resampled,
    few_patients,
    interval,
    macro,
    mean_of_known,
    patients_of,
    resample,
)
from hilum.evaluation.comparison import Difference, difference_of
from hilum.evaluation.controls import centre_prior_control, gaussian_prior_control, random_map_control
from hilum.evaluation.detection import DETECTION_FIGURES, detection_statistic
from hilum.evaluation.maps import ACCURACIES, THRESHOLD, Boxes, Floats, measure
from hilum.evaluation.rodeo import RODEO_FIGURES, rodeo_counts
from hilum.localization.components import Detections, Threshold

Controls = tuple[Mapping[str, ArrayLike], ...]
"""Of random maps, the average box of others, the middle: figure → of each image with boxes (n,), or their mean."""


@dataclass(frozen=True)
class LocalizationEstimate:
    """A localization figure over ``n`` images with boxes, its interval, and what blind maps reach.

    ``random_map``: maps of noise; ``centre_prior``: for each image the average box map of the finding's
    *other* patients; ``gaussian_prior``: one Gaussian in the middle of the image. A map that does not beat
    them has not looked at the image. ``excess_low``: low end of the interval of the value minus the highest of the
    three on the same images and resamples; NaN for figures that are none of single images. For a macro, ``n`` counts
    (image, finding) pairs over ``findings``: those whose figure has an interval, or all that exist where none has.
    """

    value: float
    low: float
    high: float
    n: int
    random_map: float
    centre_prior: float
    gaussian_prior: float
    excess_low: float = float("nan")
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
    called: ArrayLike | None = None,
) -> dict[str, dict[str, LocalizationEstimate]]:
    """Return ``evaluate_localization`` of each finding, and of ``'macro'``, their mean on the same resamples.

    ``maps`` (N, C, H, W) or (S, N, C, H, W); ``boxes`` names the C findings in order, each with the boxes of
    the N images; ``threshold`` one for all, or by finding; ``controls``: what ``measure_controls`` gave of the
    same boxes, so that many models of one test set share them. ``called`` (S, N, C): which findings the models call;
    then ``'iou_called'`` is the IoU where they do, CheXlocalize's slice of true positives. Raises ``DataError``.
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
    names, values = measure_findings(m, boxes, cuts, accuracies)
    if called is not None:
        slice_ = np.where(np.asarray(called, dtype=bool), values[:, :, names.index("iou")], np.nan)
        names, values = [*names, "iou_called"], np.concatenate([values, slice_[:, :, None]], axis=2)
    known = controls or {}
    beside = {
        f: known[f] if f in known else measure_controls(boxes[f], who, m.shape[3:], cuts[f], accuracies, seed)
        for f in boxes
    }
    beyond = values - _highest(beside, names, boxes)
    sample = resample(lambda weights: _weighted_means(weights, values), who, resamples, seed)
    excess = resample(lambda weights: _weighted_means(weights, beyond), who, resamples, seed)
    return _tabulate(sample, names, np.asarray((~np.isnan(values)).any(axis=0)), who, beside, level, excess)


def evaluate_detections(
    detections: Mapping[str, Sequence[Sequence[Detections]]],
    boxes: Mapping[str, Boxes],
    counted: ArrayLike,
    patients: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
    controls: Mapping[str, Controls] | None = None,
) -> dict[str, dict[str, LocalizationEstimate]]:
    """Return the ``DETECTION_FIGURES`` of each finding, and of ``'macro'``, with patient-bootstrap intervals.

    ``detections``: finding → what each of S seeds detects in each of N images; ``boxes`` of the same findings;
    ``counted`` (N, C): where it is known what there is to find: images with boxes, and negative ones, on which every
    detection is a false alarm. ``controls`` as in ``evaluate_findings``. Raises ``DataError``.
    """
    who, known = np.asarray(patients), np.asarray(counted, dtype=bool)
    if not boxes or known.shape != (len(who), len(boxes)) or list(detections) != list(boxes) or MACRO in boxes:
        raise DataError(
            f"Expected detections and boxes of the same findings, none of them '{MACRO}', and for each of {len(who)} "
            f"images and {len(boxes)} findings whether it counts; found {list(detections)} and {known.shape}."
        )
    statistics = [[detection_statistic(one, boxes[f]) for one in detections[f]] for f in boxes]

    def figures(weights: NDArray[np.generic]) -> Floats:
        per = [np.stack([one(weights * known[:, c]) for one in seeds], axis=1) for c, seeds in enumerate(statistics)]
        stacked = np.stack(per, axis=-1)
        return stacked.reshape(*stacked.shape[:2], -1)

    boxed = np.array([[len(np.asarray(b)) > 0 for b in boxes[f]] for f in boxes]).T & known
    sample = resample(figures, who, resamples, seed)
    beside = {f: (controls or {}).get(f, ({}, {}, {})) for f in boxes}
    return _tabulate(
        sample, DETECTION_FIGURES, np.repeat(boxed[:, None], len(DETECTION_FIGURES), axis=1), who, beside, level
    )


def evaluate_rodeo(
    predicted: Sequence[Mapping[str, Boxes]],
    boxes: Mapping[str, Boxes],
    patients: ArrayLike,
    *,
    blind: Sequence[Mapping[str, Boxes]] = (),
    resamples: int = 1000,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, dict[str, LocalizationEstimate]]:
    """Return the ``RODEO_FIGURES`` of each finding, and under ``'macro'`` of all boxes at once, as the paper has them.

    ``predicted``: what each of S seeds predicts in N images, by finding; ``boxes`` of the same findings; ``blind``:
    what the three controls predict; a finding that a control lacks has no figure of it. Raises ``DataError``.
    """
    counts = [rodeo_counts(one, boxes) for one in predicted]
    flat = len(RODEO_FIGURES) * (len(boxes) + 1)
    sample = resample(
        lambda weights: np.stack([one.figures(weights).reshape(len(weights), flat) for one in counts], axis=1),
        patients,
        resamples,
        seed,
    )
    beside = np.full((3, len(RODEO_FIGURES), len(boxes) + 1), np.nan)
    for k, one in enumerate(blind):
        held = [c for c, f in enumerate(boxes) if f in one]
        if held:
            nothing = [np.empty((0, 4))] * len(np.asarray(patients))
            columns = [*held, len(boxes)]
            beside[k][:, columns] = rodeo_counts({f: one.get(f, nothing) for f in boxes}, boxes).figures()[0][
                :, columns
            ]
    boxed = np.array([[len(np.asarray(b)) > 0 for b in one] for one in boxes.values()]).T
    boxed = np.concatenate([boxed, boxed.any(axis=1, keepdims=True)], axis=1)
    sample = sample.without(np.tile(few_patients(boxed, patients), len(RODEO_FIGURES)))
    shown = [*boxed[:, :-1].sum(axis=0), boxed[:, :-1].sum()]
    table: dict[str, dict[str, LocalizationEstimate]] = {name: {} for name in (*boxes, MACRO)}
    for k, figure in enumerate(RODEO_FIGURES):
        for c, (name, n, findings) in enumerate(zip(table, shown, [*[1] * len(boxes), len(boxes)], strict=True)):
            part = _columns(sample, k * (len(boxes) + 1) + c, 1)
            table[name][figure] = _estimate(part, int(n), beside[:, k, c], findings, level)
    return table


def evaluate_per_image(
    values: ArrayLike, patients: ArrayLike, *, resamples: int = 1000, seed: int = 0, level: float = LEVEL
) -> Estimate:
    """Return the mean of a figure of each image, (N,) or (S, N) for S seeds, NaN where an image has none."""
    v = np.atleast_2d(np.asarray(values, dtype=np.float64))
    sample = resample(lambda weights: _weighted_means(weights, v), patients, resamples, seed)
    known = np.asarray((~np.isnan(v)).any(axis=0))
    return Figure(sample.without(few_patients(known, patients)), int(known.sum()), 0).estimate(level)


def paired_localization(
    first: Floats, second: Floats, patients: ArrayLike, *, resamples: int = 1000, seed: int = 0, level: float = LEVEL
) -> list[list[Difference]]:
    """Return first - second of each of K figures, of each of C findings and last of their mean, on the same patients.

    Both are values (S, N, K, C) of ``measure_findings`` on the same images; seeds are averaged within an image first.
    A finding with fewer than ``FEWEST`` images has no p value and no part in the mean: so few resample to anything.
    One with images of fewer than ``FEWEST_OF_CLASS`` patients has no interval either.
    """
    difference = (first.mean(axis=0) - second.mean(axis=0))[None]
    sample = resample(lambda weights: _weighted_means(weights, difference), patients, resamples, seed)
    shown, findings = ~np.isnan(difference[0]), difference.shape[3]
    counts, witnesses = shown.sum(axis=0), patients_of(shown, patients)
    few = witnesses < FEWEST_OF_CLASS
    sample = sample.without(few.ravel())
    table = []
    for k in range(difference.shape[2]):
        part = _columns(sample, k * findings, findings)
        proves = (counts[k] >= FEWEST) & ~few[k]
        enough = np.flatnonzero(proves & ~np.isnan(part.values))
        mean = macro(Resampled(part.seeds[:, enough], part.resamples[:, enough]))
        figures = [
            Figure(_columns(part, c, 1), int(counts[k, c]), 0, witnesses=int(witnesses[k, c])) for c in range(findings)
        ]
        row = [difference_of(figure, level) for figure in figures]
        row = [one if yes else replace(one, p=np.nan) for one, yes in zip(row, proves, strict=True)]
        fewest = int(witnesses[k, enough].min(initial=witnesses.max(initial=0)))
        of_mean = Figure(mean, int(counts[k, enough].sum()), 0, len(enough), fewest)
        table.append([*row, difference_of(of_mean, level)])
    return table


def measure_findings(
    maps: Floats,
    boxes: Mapping[str, Boxes],
    thresholds: Mapping[str, Threshold],
    accuracies: Sequence[float] = ACCURACIES,
) -> tuple[list[str], Floats]:
    """Return the names of the K figures of ``measure``, and their values (S, N, K, C) of maps (S, N, C, H, W)."""
    per = [[measure(one[:, c], boxes[f], thresholds[f], accuracies) for one in maps] for c, f in enumerate(boxes)]
    values = [np.stack([np.stack(list(one.values()), axis=-1) for one in seeds]) for seeds in per]
    return list(per[0][0]), np.stack(values, axis=-1)


def _tabulate(
    sample: Resampled,
    names: Sequence[str],
    shown: NDArray[np.bool_],
    patients: NDArray[np.generic],
    beside: Mapping[str, Controls],
    level: float,
    excess: Resampled | None = None,
) -> dict[str, dict[str, LocalizationEstimate]]:
    # Figures lie in the sample as (name, finding); ``shown`` (N, names, findings): images that have one.
    counts, few = shown.sum(axis=0), few_patients(shown, patients)
    sample = sample.without(few.ravel())
    over = None if excess is None else excess.without(few.ravel())
    table: dict[str, dict[str, LocalizationEstimate]] = {name: {} for name in (*beside, MACRO)}
    for k, name in enumerate(names):
        part = _columns(sample, k * len(beside), len(beside))
        beyond = None if over is None else _columns(over, k * len(beside), len(beside))
        controls = np.array([[_mean(control, name) for control in three] for three in beside.values()])
        for c, finding in enumerate(beside):
            one = _estimate(_columns(part, c, 1), int(counts[k, c]), controls[c], 1, level)
            low = np.nan if beyond is None else interval(beyond.resamples[:, c], level)[0]
            table[finding][name] = replace(one, excess_low=low)
        taken = part.averaged
        means = mean_of_known(controls[taken], axis=0)
        n, findings = int(counts[k, taken].sum()), int(taken.sum())
        low = np.nan if beyond is None else interval(macro(beyond).resamples[:, 0], level)[0]
        table[MACRO][name] = replace(_estimate(macro(part), n, means, findings, level), excess_low=low)
    return table


def measure_controls(
    boxes: Boxes,
    patients: NDArray[np.generic],
    shape: tuple[int, int],
    threshold: Threshold = THRESHOLD,
    accuracies: Sequence[float] = ACCURACIES,
    seed: int = 0,
) -> Controls:
    """Return every figure of each image with boxes: random maps, the average box of others, a central Gaussian."""
    grid = (boxes, shape, threshold, accuracies)
    return (
        random_map_control(*grid, seed=seed),
        centre_prior_control(*grid, patients=patients),
        gaussian_prior_control(*grid),
    )


def _mean(control: Mapping[str, ArrayLike], name: str) -> float:
    return float(mean_of_known(np.asarray(control.get(name, np.nan), dtype=np.float64)))


def _highest(beside: Mapping[str, Controls], names: Sequence[str], boxes: Mapping[str, Boxes]) -> Floats:
    """Return of each image, figure and finding (N, K, C) what the control with the highest mean reaches."""
    held = np.array([[len(np.asarray(b)) > 0 for b in boxes[f]] for f in beside], dtype=bool)
    highest = np.full((held.shape[1], len(names), len(beside)), np.nan)
    for c, three in enumerate(beside.values()):
        for k, name in enumerate(names):
            known = [control for control in three if not np.isnan(_mean(control, name))]
            means = [_mean(control, name) for control in known]
            if known and not name.startswith("false_boxes"):
                highest[held[c], k, c] = known[int(np.argmax(means))][name]
    return highest


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
    return LocalizationEstimate(value, low, high, n, random_map, centre, gaussian, sd=sample.spread, findings=findings)
