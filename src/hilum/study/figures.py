"""Figures of a run: from its prediction tables and maps to metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.evaluation.bootstrap import Estimate, Table, evaluate_sites
from hilum.evaluation.comparison import Difference, paired_difference
from hilum.evaluation.localization import Controls, evaluate_findings, measure_controls
from hilum.evaluation.maps import Boxes
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.outcomes import Outcomes, Scores
from hilum.study.predictions import GRID
from hilum.study.spec import Study

LOCALIZATION_METRICS = ("pointing_game", "iou", "iobb", "box_energy")
Record = dict[str, Any]


class Figures:
    """Reads what a run has predicted and computes its figures; every seed's, and the mean over seeds."""

    def __init__(self, study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> None:
        self.study, self.run = study, run
        self.keys = list(keys)
        self._measured: dict[tuple[str, str], Controls] = {}
        self.outcomes = Outcomes(study, run)

    def records(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        return {
            "schema": 1,
            "classification": list(self._classification()),
            "localization": list(self._localization()),
            "comparisons": list(self._comparisons()),
        }

    def _groups(self) -> Iterator[tuple[Record, list[ModelKey]]]:
        """Yield single models, then the models of one arm over all seeds."""
        for key in self.keys:
            yield {"seed": key.seed, "arm": key.arm, "model": key.model}, [key]
        for arm, model in dict.fromkeys((k.arm, k.model) for k in self.keys):
            group = [k for k in self.keys if (k.arm, k.model) == (arm, model)]
            yield {"seed": "all", "seeds": len(group), "arm": arm, "model": model}, group

    def _classification(self) -> Iterator[Record]:
        """Yield the figures of each site, and of ``'macro'``: the mean over the sites that train."""
        for head, keys in self._groups():
            tables = classify(self.outcomes, keys)
            for site, table in tables.items():
                for finding, metrics in table.items():
                    for metric, estimate in metrics.items():
                        yield {**head, "site": site, "finding": finding, "metric": metric, **_fields(estimate)}

    def _localization(self) -> Iterator[Record]:
        spec = self.study.evaluation
        for head, keys in self._groups():
            for site in self.outcomes.sites:
                found = self.outcomes.localized(keys, site)
                if found is None:
                    continue
                found = found.with_boxes()
                table = evaluate_findings(
                    found.maps,
                    found.boxes,
                    found.patients,
                    resamples=spec.resamples,
                    seed=self.study.split.seed,
                    threshold=spec.threshold,
                    accuracies=(),
                    controls={f: self._controls(site, f, b, found.patients) for f, b in found.boxes.items()},
                )
                for finding, metrics in table.items():
                    for metric in (m for m in LOCALIZATION_METRICS if m in metrics and metrics[m].n):
                        yield {
                            **head,
                            "site": site,
                            "finding": finding,
                            "metric": metric,
                            **asdict(metrics[metric]),
                        }

    def _controls(self, site: str, finding: str, boxes: Boxes, patients: NDArray[np.int64]) -> Controls:
        """Measure the controls of a site's boxes once: they are the same for every model."""
        if (site, finding) not in self._measured:
            self._measured[site, finding] = measure_controls(
                boxes, patients, GRID, self.study.evaluation.threshold, (), seed=self.study.split.seed
            )
        return self._measured[site, finding]

    def _comparisons(self) -> Iterator[Record]:
        federated = [k for k in self.keys if k.arm == "federated"]
        others = dict.fromkeys((k.arm, k.model) for k in self.keys if k.arm != "federated")
        for arm, model in others if federated else []:
            against = [k for k in self.keys if (k.arm, k.model) == (arm, model)]
            for site in self.outcomes.sites:
                table = paired(self.study, self.outcomes.scores(federated, site), self.outcomes.scores(against, site))
                for finding, metrics in table.items():
                    for metric, difference in metrics.items():
                        head = {"seed": "all", "arm": "federated", "against": arm, "against_model": model}
                        yield {
                            **head,
                            "site": site,
                            "finding": finding,
                            "metric": metric,
                            **_fields(difference),
                        }


def classify(
    outcomes: Outcomes, keys: Sequence[ModelKey], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Table]:
    """Return site → the figures of the models of one arm, a seed each; ``'macro'``: the mean over the sites that train.

    ``groups``: name → findings of further means.
    """
    study = outcomes.study
    tables: dict[str, Table] = {}
    for sites in (outcomes.training, [name for name in outcomes.sites if name not in outcomes.training]):
        if not sites:
            continue
        said = [outcomes.scores(keys, site) for site in sites]
        every = evaluate_sites(
            np.nan_to_num(np.concatenate([one.scores for one in said], 1)),
            np.concatenate([one.targets for one in said]),
            np.concatenate([one.patients for one in said]),
            np.repeat(sites, [len(one.targets) for one in said]),
            study.findings,
            resamples=study.evaluation.resamples,
            seed=study.split.seed,
            groups=groups,
        )
        tables |= every if sites == outcomes.training else {site: every[site] for site in sites}
    return tables


def paired(study: Study, ours: Scores, theirs: Scores) -> dict[str, dict[str, Difference]]:
    """Return the differences of two arms at a site, of the findings that both were taught."""
    both = np.where(np.isnan(theirs.targets), np.nan, ours.targets)
    return paired_difference(
        np.nan_to_num(ours.scores),
        np.nan_to_num(theirs.scores),
        both,
        ours.patients,
        study.findings,
        resamples=study.evaluation.resamples,
        seed=study.split.seed,
    )


def _fields(estimate: Estimate) -> Record:
    fields = asdict(estimate)
    return fields if fields["findings"] != 1 else {k: v for k, v in fields.items() if k != "findings"}
