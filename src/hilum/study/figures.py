"""Figures of a run: from its prediction tables and maps to metrics.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.evaluation.bootstrap import Estimate, Table, evaluate_sites
from hilum.evaluation.comparison import paired_difference
from hilum.evaluation.localization import Controls, evaluate_findings, measure_controls
from hilum.evaluation.maps import Boxes
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.predictions import GRID, read_table
from hilum.study.spec import Study

LOCALIZATION_METRICS = ("pointing_game", "iou", "iobb", "box_energy")
Record = dict[str, Any]


class Figures:
    """Reads what a run has predicted and computes its figures; every seed's, and the mean over seeds."""

    def __init__(self, study: Study, run: RunDirectory, keys: Sequence[ModelKey]) -> None:
        self.study, self.run = study, run
        self.keys = list(keys)
        self._measured: dict[tuple[str, str], Controls] = {}
        self.roles = run.roles()
        self.sites = [name for name in self.roles if len(read_table(run.table("labels", name)))]

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
        options: dict[str, Any] = {"resamples": self.study.evaluation.resamples, "seed": self.study.split.seed}
        training = [name for name in self.sites if self.roles[name] == "training"]
        for head, keys in self._groups():
            tables: dict[str, Table] = {}
            for group in (training, [name for name in self.sites if name not in training]):
                if not group:
                    continue
                scores, targets, patients = zip(*(self._predictions(keys, site) for site in group), strict=True)
                where = np.repeat(group, [len(t) for t in targets])
                every = evaluate_sites(
                    np.concatenate(scores, 1),
                    np.concatenate(targets),
                    np.concatenate(patients),
                    where,
                    self.study.findings,
                    **options,
                )
                tables |= every if group is training else {site: every[site] for site in group}
            for site, table in tables.items():
                for finding, metrics in table.items():
                    for metric, estimate in metrics.items():
                        yield {**head, "site": site, "finding": finding, "metric": metric, **_fields(estimate)}

    def _localization(self) -> Iterator[Record]:
        spec = self.study.evaluation
        for head, keys in self._groups():
            for site in self.sites:
                boxes = read_table(self.run.table("boxes", site))
                found = self._maps(keys, site)
                if boxes.empty or found is None:
                    continue
                ids, patients, maps, taught = found
                columns = [k for k, f in enumerate(self.study.findings) if taught[k] and f in set(boxes["finding"])]
                if not columns:
                    continue
                by_finding = {f: _boxes_of(boxes, f, ids) for f in (self.study.findings[k] for k in columns)}
                table = evaluate_findings(
                    maps[:, :, columns],
                    by_finding,
                    patients,
                    resamples=spec.resamples,
                    seed=self.study.split.seed,
                    threshold=spec.threshold,
                    controls={f: self._controls(site, f, b, patients) for f, b in by_finding.items()},
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
                boxes, patients, GRID, self.study.evaluation.threshold, seed=self.study.split.seed
            )
        return self._measured[site, finding]

    def _comparisons(self) -> Iterator[Record]:
        options: dict[str, Any] = {"resamples": self.study.evaluation.resamples, "seed": self.study.split.seed}
        federated = [k for k in self.keys if k.arm == "federated"]
        others = dict.fromkeys((k.arm, k.model) for k in self.keys if k.arm != "federated")
        for arm, model in others if federated else []:
            against = [k for k in self.keys if (k.arm, k.model) == (arm, model)]
            for site in self.sites:
                ours, targets, patients = self._predictions(federated, site)
                theirs, their_targets, _ = self._predictions(against, site)
                both = np.where(np.isnan(their_targets), np.nan, targets)
                table = paired_difference(ours, theirs, both, patients, self.study.findings, **options)
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

    def _predictions(
        self, keys: Sequence[ModelKey], site: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return scores (S, N, C), targets (N, C) with NaN also where the model was never taught, patients (N,)."""
        names = self.study.findings
        labels = read_table(self.run.table("labels", site))
        targets = labels[names].to_numpy(np.float64)
        scores = np.stack([read_table(self.run.predictions(k, site))[names].to_numpy(np.float64) for k in keys])
        taught = ~np.isnan(scores).all((0, 1))
        return np.nan_to_num(scores), np.where(taught, targets, np.nan), labels["patient"].to_numpy(np.int64)

    def _maps(
        self, keys: Sequence[ModelKey], site: str
    ) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]] | None:
        paths = [self.run.maps(key, site) for key in keys]
        if not all(path.is_file() for path in paths):
            return None
        stacked = []
        for path in paths:
            with np.load(path) as stored:
                ids, maps = stored["image_id"], stored["maps"].astype(np.float32)
            stacked.append(maps)
        labels = read_table(self.run.table("labels", site)).set_index("image_id")
        taught = read_table(self.run.predictions(keys[0], site))[self.study.findings].notna().any().to_numpy()
        return ids, labels.loc[ids, "patient"].to_numpy(np.int64), np.stack(stacked), taught


def _boxes_of(boxes: pd.DataFrame, finding: str, ids: NDArray[np.str_]) -> list[NDArray[np.float64]]:
    chosen = boxes[boxes["finding"] == finding]
    grouped = {str(i): g[["x0", "y0", "x1", "y1"]].to_numpy(np.float64) for i, g in chosen.groupby("image_id")}
    return [grouped.get(str(i), np.empty((0, 4))) for i in ids]


def _fields(estimate: Estimate) -> Record:
    fields = asdict(estimate)
    return fields if fields["findings"] != 1 else {k: v for k, v in fields.items() if k != "findings"}
