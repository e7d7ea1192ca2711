"""Labels, ages, sexes and views of every pair of sites: counts of patients, no image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from hilum.shift.demographics import compare
from hilum.shift.labels import bernoulli_matrix, label_emd, label_emd_matrix, patient_counts, prevalence_ratio
from hilum.shift.proportions import wilson
from hilum.study.shift.sample import Sample


def label_figures(samples: Sequence[Sample], findings: Sequence[str]) -> dict[str, Any]:
    """Return prevalences by patient, ratios of them, and label distances, each over the findings both sites know.

    ``label_emd`` and ``bernoulli`` (K, K) in the order of ``samples``, ``shared`` (K, K) counts the findings;
    ``mixture`` (K,): each site from all that know its findings. NaN where no finding is shared; of one alone, the label
    EMD is 0 by its scaling, and NaN here.
    """
    counts = [_counts(sample) for sample in samples]
    positive, known = (np.array([count[k] for count in counts], np.float64) for k in (0, 1))
    priors = np.divide(positive, known, out=np.full(known.shape, np.nan), where=known > 0)
    labelled = (known > 0).astype(int)
    shared = labelled @ labelled.T
    able = (shared == np.diag(shared)[:, None]).sum(axis=1)
    patients = [len(np.unique(sample.site.patients[sample.rows])) for sample in samples]
    names = [sample.site.name for sample in samples]
    return {
        "prevalence": [
            _prevalence(names[k], finding, counts[k], c)
            for k in range(len(names))
            for c, finding in enumerate(findings)
        ],
        "ratios": [
            {"a": names[i], "b": names[j], "finding": finding, **_ratio(counts[i], counts[j], c)}
            for i, j in combinations(range(len(names)), 2)
            for c, finding in enumerate(findings)
            if labelled[i, c] and labelled[j, c]
        ],
        "label_emd": np.where(shared > 1, label_emd_matrix(priors), np.nan).tolist(),
        "bernoulli": bernoulli_matrix(priors).tolist(),
        "shared": shared.tolist(),
        "mixture": np.where((able > 1) & (np.diag(shared) > 1), label_emd(priors, np.array(patients)), np.nan).tolist(),
    }


def demographic_figures(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return age, sex and view of every pair of sites, differences with intervals."""
    tables = [sample.site.manifest.images.iloc[sample.rows] for sample in samples]
    return [
        {
            "a": samples[i].site.name,
            "b": samples[j].site.name,
            **compare(tables[i], tables[j]).to_dict(),
        }
        for i, j in combinations(range(len(samples)), 2)
    ]


def _counts(sample: Sample) -> tuple[Any, Any]:
    """Return patients with each finding, and with a known label of it; a soft label is none."""
    targets = sample.site.targets[sample.rows].astype(np.float64)
    targets[(targets > 0) & (targets < 1)] = np.nan
    return patient_counts(targets, sample.site.patients[sample.rows])


def _prevalence(site: str, finding: str, counts: tuple[Any, Any], c: int) -> dict[str, Any]:
    positive, known = int(counts[0][c]), int(counts[1][c])
    value = positive / known if known else math.nan
    low, high = wilson(value, known)
    return {
        "site": site,
        "finding": finding,
        "positive": positive,
        "known": known,
        "value": value,
        "low": low,
        "high": high,
    }


def _ratio(a: tuple[Any, Any], b: tuple[Any, Any], c: int) -> dict[str, Any]:
    found = asdict(prevalence_ratio(int(a[0][c]), int(a[1][c]), int(b[0][c]), int(b[1][c])))
    return {**found, "unbounded": math.isinf(found["high"])}
