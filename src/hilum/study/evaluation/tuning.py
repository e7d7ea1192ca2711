"""What is fitted before the test: on validation patients of the hospitals that taught a model, and on nobody else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hilum.evaluation.bootstrap import too_few
from hilum.evaluation.calibration import Correction, fit_platt, fit_prior_shift, fit_temperature
from hilum.evaluation.detection import OVERLAPS, match_boxes
from hilum.evaluation.maps import Boxes
from hilum.evaluation.thresholds import tune_threshold, youden_cut
from hilum.localization.components import Threshold, detect
from hilum.study.directory import ModelKey
from hilum.study.outcomes import Localized, Outcomes, Scores

Corrections = list[list[Correction]]


@dataclass(frozen=True)
class Tuned:
    """Of one finding: where maps are cut, from how many images with boxes; from which probability it is called.

    ``box_score`` turns the score of a detection into the chance that it overlaps a true box. The defaults: nothing was
    tuned.
    """

    threshold: Threshold = "otsu"
    images: int = 0
    call: float = float("nan")
    box_score: Correction = field(default_factory=Correction)

    @property
    def called_from(self) -> float:
        """The probability from which the finding is called: 0.5 where nothing was tuned."""
        return 0.5 if math.isnan(self.call) else self.call


def teachers(outcomes: Outcomes, keys: Sequence[ModelKey]) -> list[str]:
    """Return the hospitals that taught the models of an arm and that keep validation predictions of them."""
    taught = (
        [keys[0].model] if keys[0].arm == "local" else [s for s, role in outcomes.roles.items() if role == "training"]
    )
    return [site for site in taught if outcomes.holds(keys, site, "val")]


def tune(outcomes: Outcomes, keys: Sequence[ModelKey]) -> dict[str, Tuned]:
    """Return finding → what validation patients say of its maps.

    The call is tuned over the same hospitals as a temperature: see ``corrections``.
    """
    sites = teachers(outcomes, keys)
    found = [one for site in sites if (one := outcomes.localized(keys, site, "val")) is not None]
    said = [outcomes.scores(keys, site, "val") for site in sites]
    calls = [float("nan")] * len(outcomes.study.findings)
    if said:
        means = np.concatenate([one.scores.mean(axis=0) for one in said])
        calls = [youden_cut(p, t) for p, t in zip(means.T, _of_both_classes(said).T, strict=True)]
    tuned = {}
    for finding, call in zip(outcomes.study.findings, calls, strict=True):
        parts = [_of(one, finding) for one in found if finding in one.boxes]
        boxes = [b for part in parts for b in part[1]]
        images = sum(len(b) > 0 for b in boxes)
        if not images:
            tuned[finding] = Tuned(call=call)
            continue
        maps, scores = (np.concatenate([part[k] for part in parts], axis=1) for k in (0, 2))
        counts = np.concatenate([part[3] for part in parts])
        threshold = tune_threshold(maps, boxes)
        tuned[finding] = Tuned(threshold, images, call, _box_score(maps, boxes, scores, counts, threshold))
    return tuned


def corrections(outcomes: Outcomes, keys: Sequence[ModelKey], site: str) -> dict[str, Corrections]:
    """Return 'temperature' and, where the site has validation patients, 'prior': a correction of each seed and finding.

    The temperature is fitted over the hospitals that taught the model and hold ``FEWEST_OF_CLASS`` patients or more of
    both classes of the finding: one that holds positives alone would make every model look too modest. The prior is
    fitted on top of it at the site itself.
    """
    said = [outcomes.scores(keys, name, "val") for name in teachers(outcomes, keys)]
    if not said:
        return {}
    scores, targets = np.concatenate([s.scores for s in said], axis=1), _of_both_classes(said)
    columns = range(targets.shape[1])
    warm = [[fit_temperature(one[:, c], targets[:, c]) for c in columns] for one in scores]
    found = {"temperature": warm}
    if outcomes.holds(keys, site, "val"):
        own = outcomes.scores(keys, site, "val")
        found["prior"] = [
            [_then(first, fit_prior_shift(first(one[:, c]), own.targets[:, c])) for c, first in enumerate(row)]
            for one, row in zip(own.scores, warm, strict=True)
        ]
    return found


def counted(found: Localized, finding: str) -> NDArray[np.bool_]:
    """Return where it is known what a finding's map should show: images with its boxes, and negative ones.

    A positive image without a box shows the finding somewhere that nobody marked.
    """
    boxed = np.array([len(b) > 0 for b in found.boxes[finding]], dtype=bool)
    return np.asarray(boxed | (found.targets[:, [*found.boxes].index(finding)] == 0))


def _of_both_classes(said: Sequence[Scores]) -> NDArray[np.float64]:
    """Return the labels (N, C) of hospitals, unknown where one of them has too few patients of a class."""
    return np.concatenate([np.where(too_few(one.targets, one.patients), np.nan, one.targets) for one in said])


def _of(
    found: Localized, finding: str
) -> tuple[NDArray[np.float32], list[NDArray[np.float64]], NDArray[np.float64], NDArray[np.bool_]]:
    c = [*found.boxes].index(finding)
    return found.maps_of(finding), found.boxes[finding], found.scores[:, :, c], counted(found, finding)


def _box_score(
    maps: NDArray[np.float32],
    boxes: Boxes,
    scores: NDArray[np.float64],
    counts: NDArray[np.bool_],
    threshold: Threshold,
) -> Correction:
    chosen = [b for b, known in zip(boxes, counts, strict=True) if known]
    marks = [
        match_boxes(detect(one[counts], s[counts], threshold), chosen, OVERLAPS[0])
        for one, s in zip(maps, scores, strict=True)
    ]
    return fit_platt(np.concatenate([m.scores for m in marks]), np.concatenate([m.hits for m in marks]))


def _then(first: Correction, second: Correction) -> Correction:
    return Correction(first.slope * second.slope, first.intercept * second.slope + second.intercept)
