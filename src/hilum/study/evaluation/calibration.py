"""How far probabilities of a run are from what happens: as they are, and corrected on validation patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hilum.evaluation.bootstrap import MACRO
from hilum.evaluation.calibration import evaluate_calibration, reliability
from hilum.study.directory import ModelKey
from hilum.study.evaluation.tuning import corrections
from hilum.study.outcomes import Outcomes

Record = dict[str, Any]


def calibrate(outcomes: Outcomes, keys: Sequence[ModelKey], site: str) -> Iterator[Record]:
    """Yield the calibration error of each finding at a site, and of ``'macro'``, raw and under each correction.

    A finding's record holds the points of its reliability plot, over all seeds.
    """
    study, said = outcomes.study, outcomes.scores(keys, site)
    raw = np.nan_to_num(said.scores)
    fitted = corrections(outcomes, keys, site)
    for name in ("raw", *fitted):
        made = raw.copy()
        for seed, row in enumerate(fitted.get(name, [])):
            for c, correction in enumerate(row):
                made[seed, :, c] = correction(raw[seed, :, c])
        table = evaluate_calibration(
            made,
            said.targets,
            said.patients,
            study.findings,
            resamples=study.evaluation.resamples,
            seed=study.split.seed,
        )
        for finding, estimate in table.items():
            if not estimate.n:
                continue
            record = {"finding": finding, "metric": "ece", "correction": name, **asdict(estimate)}
            if finding != MACRO:
                c = study.findings.index(finding)
                points = reliability(made[:, :, c].ravel(), np.tile(said.targets[:, c], len(made)))
                record["reliability"] = {k: v.tolist() for k, v in asdict(points).items()}
                if name != "raw":
                    record["slope"] = [row[c].slope for row in fitted[name]]
                    record["intercept"] = [row[c].intercept for row in fitted[name]]
            yield record
