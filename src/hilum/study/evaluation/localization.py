"""Maps of a run against boxes: figures with their controls, detections, and whether maps depend on what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.evaluation.agreement import other_findings, rank_correlation
from hilum.evaluation.bootstrap import MACRO, mean_of_known
from hilum.evaluation.controls import average_box_prior, gaussian_prior, random_maps
from hilum.evaluation.detection import DETECTION_FIGURES, detection_statistic
from hilum.evaluation.localization import (
    Controls,
    LocalizationEstimate,
    evaluate_detections,
    evaluate_findings,
    evaluate_per_image,
    evaluate_rodeo,
    measure_controls,
    measure_findings,
)
from hilum.evaluation.maps import Boxes
from hilum.evaluation.rodeo import RODEO_FIGURES, rodeo_counts
from hilum.localization.components import Detections, Threshold, detect
from hilum.randomness import numpy_generator
from hilum.study.evaluation.tuning import Tuned, counted
from hilum.study.outcomes import Localized, Maps, Outcomes
from hilum.study.predictions import GRID

Record = dict[str, Any]
Floats = NDArray[np.float64]
Table = dict[str, dict[str, LocalizationEstimate]]
Means = dict[str, dict[str, float]]
NO_BOX = np.empty((0, 4))
UNTUNED: Threshold = "otsu"


class Localization:
    """Figures of the maps of a run; controls of the same boxes are measured once.

    The model's threshold fits the model's maps: controls, and maps of shuffled weights, are cut by Otsu's instead.
    """

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        spec = outcomes.study
        self.options: dict[str, Any] = {"resamples": spec.evaluation.resamples, "seed": spec.split.seed}
        self._controls: dict[Any, Controls] = {}

    def figures(
        self, found: Localized, shuffled: Maps | None, site: str, tuned: Mapping[str, Tuned]
    ) -> Iterator[Record]:
        """Yield every figure of each finding with boxes at a site, and of ``'macro'``, beside its controls."""
        boxed = found.with_boxes()
        blind = {} if shuffled is None else self._of_shuffled(boxed, shuffled)
        table = evaluate_findings(
            boxed.maps,
            boxed.boxes,
            boxed.patients,
            threshold={f: tuned[f].threshold for f in boxed.boxes},
            controls={f: self._measured(site, f, b, boxed.patients) for f, b in boxed.boxes.items()},
            called=np.broadcast_to(_called(boxed, tuned), boxed.scores.shape),
            **self.options,
        )
        yield from _records(table, blind)
        for table, blind in self._detections(found, shuffled, tuned):
            yield from _records(table, blind)

    def checks(self, found: Localized, shuffled: Maps | None) -> Iterator[Record]:
        """Yield whether the maps of a finding on its images depend on the weights, and on the finding."""
        boxed = found.with_boxes()
        others = np.stack([other_findings(one) for one in boxed.every], axis=1)
        for (finding, boxes), column in zip(boxed.boxes.items(), boxed.columns, strict=True):
            rows = np.flatnonzero([len(b) > 0 for b in boxes])
            if not len(rows):
                continue
            values = dict(zip(("other_findings", "same_peak"), others[:, :, rows, column], strict=True))
            if shuffled is not None:
                blind = shuffled.chosen(boxed.ids[rows])[:, :, self.outcomes.study.findings.index(finding)]
                pairs = zip(boxed.maps_of(finding)[:, rows], blind, strict=True)
                values["shuffled"] = np.stack([rank_correlation(a, b) for a, b in pairs])
            for check, value in values.items():
                estimate = asdict(evaluate_per_image(value, boxed.patients[rows], **self.options))
                yield {"finding": finding, "check": check, **{k: estimate[k] for k in ("value", "low", "high", "n")}}

    def _of_shuffled(self, boxed: Localized, shuffled: Maps) -> Means:
        """Return finding → figure → its mean for maps of the models with shuffled weights."""
        maps = self._chosen(boxed, shuffled).astype(np.float64)
        names, values = measure_findings(maps, boxed.boxes, dict.fromkeys(boxed.boxes, UNTUNED))
        return {
            f: {name: float(mean_of_known(values[:, :, k, c])) for k, name in enumerate(names)}
            for c, f in enumerate(boxed.boxes)
        }

    def _chosen(self, found: Localized, shuffled: Maps) -> NDArray[np.float32]:
        """Return the shuffled maps (S, n, C, H, W) of the same images and findings."""
        return shuffled.chosen(found.ids)[:, :, [self.outcomes.study.findings.index(f) for f in found.boxes]]

    def _measured(self, site: str, finding: str, boxes: Boxes, patients: NDArray[np.int64]) -> Controls:
        key = (site, finding)
        if key not in self._controls:
            self._controls[key] = measure_controls(boxes, patients, GRID, UNTUNED, seed=self.options["seed"])
        return self._controls[key]

    def _detections(
        self, found: Localized, shuffled: Maps | None, tuned: Mapping[str, Tuned]
    ) -> Iterator[tuple[Table, Means]]:
        """Yield the tables of ranked detections, and of those that are called, each with the figures of shuffled maps.

        These are scored with the same probabilities; there are none where an older hilum kept no shuffled maps of
        negative images. An image is called by the mean probability of the seeds, as 'hilum predict' does.
        """
        known = np.stack([counted(found, f) for f in found.boxes], axis=1)
        mean = found.scores.mean(axis=0)
        detections, blind = _detected(found, found.maps, {f: tuned[f].threshold for f in found.boxes}), {}
        for c, finding in enumerate(found.boxes):
            blind[finding] = self._blind(found, finding, mean[:, c])
        controls = {
            f: tuple(_figures(one, found.boxes[f], known[:, c]) for one in blind[f]) for c, f in enumerate(found.boxes)
        }
        unlearnt = None
        if shuffled is not None and np.isin(found.ids, shuffled.ids).all():
            unlearnt = _detected(found, self._chosen(found, shuffled), dict.fromkeys(found.boxes, UNTUNED))
        ranked = evaluate_detections(detections, found.boxes, known, found.patients, controls=controls, **self.options)
        yield ranked, {} if unlearnt is None else _ranked_means(unlearnt, found, known)
        asked = dict(zip(found.boxes, (known & _called(found, tuned)).T, strict=True))

        def called(every: Mapping[str, Sequence[Detections]]) -> dict[str, Boxes]:
            return {
                f: [one.boxes if yes else NO_BOX for one, yes in zip(each, asked[f], strict=True)]
                for f, each in every.items()
            }

        def of_seeds(every: Mapping[str, Sequence[Sequence[Detections]]]) -> list[dict[str, Boxes]]:
            return [called({f: d[k] for f, d in every.items()}) for k in range(len(found.scores))]

        table = evaluate_rodeo(
            of_seeds(detections),
            found.boxes,
            found.patients,
            blind=[called({f: one for f, b in blind.items() if (one := b[k]) is not None}) for k in range(3)],
            **self.options,
        )
        yield table, {} if unlearnt is None else _rodeo_means(of_seeds(unlearnt), found.boxes)

    def _blind(self, found: Localized, finding: str, scores: Floats) -> tuple[list[Detections] | None, ...]:
        """Return what maps that never saw the image detect, with the model's probabilities of each image.

        None for the centre prior where there are no boxes of other patients.
        """
        boxes, shape = found.boxes[finding], (len(found.ids), *GRID)
        rng = numpy_generator(self.options["seed"], "random maps", "detection")
        alone = len(np.unique(found.patients[[len(np.asarray(b)) > 0 for b in boxes]])) < 2
        noise, middle = random_maps(len(boxes), GRID, rng), np.broadcast_to(gaussian_prior(GRID), shape)
        prior = None if alone else detect(average_box_prior(boxes, found.patients, GRID), scores, UNTUNED)
        return detect(noise, scores, UNTUNED), prior, detect(middle, scores, UNTUNED)


def _called(found: Localized, tuned: Mapping[str, Tuned]) -> NDArray[np.bool_]:
    """Return which images are called with each of the findings with boxes, by the mean of the seeds: (n, F)."""
    return np.asarray(found.scores.mean(axis=0) >= [tuned[f].called_from for f in found.boxes])


def _detected(
    found: Localized, maps: NDArray[np.float32], thresholds: Mapping[str, Threshold]
) -> dict[str, list[list[Detections]]]:
    """Return finding → what maps (S, n, C, H, W) detect, a seed each, with the models' probabilities of each image."""
    return {
        f: [detect(one[:, c], s[:, c], thresholds[f]) for one, s in zip(maps, found.scores, strict=True)]
        for c, f in enumerate(found.boxes)
    }


def _ranked_means(
    detections: Mapping[str, Sequence[Sequence[Detections]]], found: Localized, known: NDArray[np.bool_]
) -> Means:
    means = {}
    for c, finding in enumerate(found.boxes):
        figures = [_figures(one, found.boxes[finding], known[:, c]) for one in detections[finding]]
        means[finding] = {
            name: float(mean_of_known(np.array([one[name] for one in figures]))) for name in DETECTION_FIGURES
        }
    return means


def _rodeo_means(predicted: Sequence[Mapping[str, Boxes]], boxes: Mapping[str, Boxes]) -> Means:
    """Return the figures of each finding and, under ``'macro'``, of all boxes at once."""
    values = np.stack([rodeo_counts(one, boxes).figures()[0] for one in predicted])
    return {
        name: {figure: float(mean_of_known(values[:, k, c])) for k, figure in enumerate(RODEO_FIGURES)}
        for c, name in enumerate((*boxes, MACRO))
    }


def _figures(detections: Sequence[Detections] | None, boxes: Boxes, known: NDArray[np.bool_]) -> dict[str, float]:
    if detections is None:
        return dict.fromkeys(DETECTION_FIGURES, float("nan"))
    values = detection_statistic(detections, boxes)(known[None].astype(float))[0]
    return dict(zip(DETECTION_FIGURES, map(float, values), strict=True))


def _records(table: Mapping[str, Mapping[str, Any]], shuffled: Means) -> Iterator[Record]:
    for finding, metrics in table.items():
        for metric, estimate in metrics.items():
            if not estimate.n:
                continue
            names = [finding] if finding != MACRO or MACRO in shuffled else _averaged(table, metric)
            known = [shuffled[name][metric] for name in names if metric in shuffled.get(name, {})]
            blind = float(mean_of_known(np.array(known)))
            yield {"finding": finding, "metric": metric, **asdict(estimate), "shuffled": blind}


def _averaged(table: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Return the findings that the macro of a metric is the mean of."""
    exist = {f: metrics[metric] for f, metrics in table.items() if f != MACRO and not np.isnan(metrics[metric].value)}
    return [finding for finding, estimate in exist.items() if not np.isnan(estimate.low)] or list(exist)
