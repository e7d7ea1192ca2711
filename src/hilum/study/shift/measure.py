"""How far apart the hospitals of a study are, before any training: figures of every pair in one directory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import hilum
from hilum.errors import RunError, StudyError
from hilum.images.cache import CacheSpec
from hilum.shift.privacy import DELTA
from hilum.sites.site import Site
from hilum.study.directory import RunDirectory
from hilum.study.hospitals import cache_of, load_sites
from hilum.study.run import load_run_study
from hilum.study.shift.closeness import closeness
from hilum.study.shift.cohorts import demographic_figures, label_figures
from hilum.study.shift.cost import privacy_cost, private_content
from hilum.study.shift.damage import correlations, cross_site_losses, require_same_images, require_same_study
from hilum.study.shift.examples import choose_examples, embed, write_examples
from hilum.study.shift.features import Features, Kind, feature_kinds, features_of
from hilum.study.shift.pairs import (
    CLUSTERS,
    FOLDS,
    MEASURES,
    PERMUTATIONS,
    PairPlan,
    feature_flows,
    intensity_flows,
    matrix_of,
    pair_records,
)
from hilum.study.shift.sample import Sample, draw_sample
from hilum.study.spec import Study, dump_study
from hilum.training.state import write_atomically

FIGURES, PRIVATE_FIGURES = "shift.json", "shift.private.json"
OWN = {"study.yaml", FIGURES, PRIVATE_FIGURES, "shift.html", "features", "figures", "thumbnails"}


@dataclass(frozen=True)
class ShiftPlan:
    """``images``: a site at most; ``run``: a finished run of the study; ``pictures``: whether thumbnails may be shown;
    ``epsilon``: of the noisy figures, None for none."""

    images: int = 1000
    run: Path | None = None
    pictures: bool = True
    epsilon: float | None = None


def measure_shift(
    study: Study,
    out: Path,
    plan: ShiftPlan = ShiftPlan(),
    source: Path | None = None,
    noise: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Measure every pair of sites of a study, write ``out/shift.json`` and return it.

    With ``plan.epsilon`` also ``out/shift.private.json``, the noisy figures alone; ``noise`` is where theirs comes
    from, the system's entropy if not given.

    Features and figures are kept as they are done, so that a killed command goes on to the same result. Raises
    ``StudyError`` for fewer than two sites, a site of too few patients or an ε without meaning, ``RunError`` where
    ``out`` holds something else or ``plan.run`` is no finished run of the study, and what loading sites raises.
    """
    if plan.epsilon is not None and not 0 < plan.epsilon < math.inf:
        raise StudyError(f"Expected a finite --epsilon above 0; found {plan.epsilon}. Leave it out for no noise.")
    run = RunDirectory(plan.run) if plan.run else None
    if run:
        require_same_study(study, run)
    directory = _directory(study, out, source)
    sites = load_sites(study, cache_of(study))
    if len(sites) < 2:
        raise StudyError(f"Expected at least two sites to compare; found {len(sites)}. Add a site to the study.")
    if run:
        require_same_images(sites, run)
    samples = [draw_sample(site, plan.images) for site in sites]
    write_atomically(directory.study, dump_study(study).encode())
    content = _described(study, samples, plan) | _measured(study, samples, plan, run, directory, noise)
    directory.write_json(FIGURES, content)
    if plan.epsilon:
        directory.write_json(PRIVATE_FIGURES, private_content(content))
    else:
        (directory.root / PRIVATE_FIGURES).unlink(missing_ok=True)
    return content


def _directory(study: Study, out: Path, source: Path | None) -> RunDirectory:
    """Return the directory ``out``; raises ``RunError`` for one of something else or of another study."""
    directory = RunDirectory(out)
    if out.exists() and not out.is_dir():
        raise RunError(f"Expected a directory for the figures; {out} is a file. Give another --out.")
    if source is not None and directory.study.is_file() and directory.study.samefile(source):
        raise RunError(f"Expected another directory than that of the study file {source}. Give another --out.")
    directory.remove_unfinished()
    others = {path.name for path in out.iterdir()} - OWN if out.is_dir() else set()
    if others:
        raise RunError(
            f"Expected an empty directory or one of 'hilum shift'; {out} holds other files, such as {min(others)}. "
            "Give another --out."
        )
    if directory.study.is_file() and load_run_study(directory) != study:
        raise RunError(f"Expected the study that {out} was begun with; found another. Give another --out.")
    return directory


def _described(study: Study, samples: Sequence[Sample], plan: ShiftPlan) -> dict[str, Any]:
    synthetic = {sample.site.card.synthetic for sample in samples}
    return {
        "schema": 1,
        "hilum": hilum.__version__,
        "study": study.name,
        "data": "mixed" if len(synthetic) > 1 else "phantom" if synthetic == {True} else "real",
        "findings": study.findings,
        "settings": {
            "images": plan.images,
            "seed": study.seeds[0],
            "folds": FOLDS,
            "permutations": PERMUTATIONS,
            "clusters": CLUSTERS,
            "epsilon": plan.epsilon,
            "delta": DELTA if plan.epsilon else None,
            "pictures": plan.pictures,
            "run": plan.run is not None,
        },
        "sites": [_site(sample) for sample in samples],
    }


def _site(sample: Sample) -> dict[str, Any]:
    site: Site = sample.site
    return {
        "name": site.name,
        "title": site.card.title,
        "hospital": site.card.hospital,
        "licence": site.card.licence,
        "role": site.plan.role,
        "images": len(sample.rows),
        "patients": len(np.unique(site.patients[sample.rows])),
        "drawn_images": len(sample.drawn),
        "drawn_patients": len(np.unique(sample.patients)),
    }


def _measured(
    study: Study,
    samples: Sequence[Sample],
    plan: ShiftPlan,
    run: RunDirectory | None,
    directory: RunDirectory,
    noise: np.random.Generator | None,
) -> dict[str, Any]:
    seed, names = study.seeds[0], [sample.site.name for sample in samples]
    kinds, absent = feature_kinds(study, run)
    spec = CacheSpec(study.images.size, study.images.low, study.images.high)
    pairs = PairPlan(plan.images, seed, plan.epsilon)
    records: list[dict[str, Any]] = []
    features: list[Features] = []
    flows, places = [], []
    for kind in kinds:
        features, digests = features_of(kind, samples, spec, directory.root / "features")
        records += pair_records(kind.name, features, samples, digests, pairs, directory, noise)
        if kind.name == "histogram":
            histograms = [x.mean(axis=0, dtype=np.float64).tolist() for x in features]
            flows += intensity_flows(features, samples)
        flows += feature_flows(kind.name, features, samples, seed)
        places.append(embed(kind.name, features, samples, matrix_of(records, kind.name, "emd", names), seed))
    labels = label_figures(samples, study.findings)
    chosen = choose_examples(features, samples, seed)
    return {
        "kinds": [{"name": kind.name, "source": kind.source} for kind in kinds],
        "absent": absent,
        "pairs": records,
        "privacy": privacy_cost(records, names, plan.epsilon) if plan.epsilon else None,
        "closeness": closeness(records, [kind.name for kind in kinds]),
        "flows": flows,
        "intensities": dict(zip(names, histograms, strict=True)),
        "labels": labels,
        "demographics": demographic_figures(samples),
        "embedding": places,
        "examples": write_examples(chosen, samples, directory, plan.pictures),
        "damage": _damage(run, records, labels, kinds, names, seed) if run else None,
    }


def _damage(
    run: RunDirectory,
    records: list[dict[str, Any]],
    labels: dict[str, Any],
    kinds: Sequence[Kind],
    names: list[str],
    seed: int,
) -> dict[str, Any]:
    losses = cross_site_losses(run)
    distances = {(k.name, m): matrix_of(records, k.name, m, names) for k, m in product(kinds, MEASURES)}
    for measure in ("bernoulli", "label_emd"):
        distances["labels", measure] = np.array(labels[measure], np.float64)
    return {"losses": losses, "correlations": correlations(losses, distances, names, seed)}
