"""The set that an arm's sites mix with their own images, loaded and checked like a site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hilum.errors import StudyError
from hilum.images.cache import CacheSpec
from hilum.randomness import numpy_generator
from hilum.sites.examples import Examples
from hilum.sites.overlap import resolve_overlap
from hilum.sites.shared import balanced_rows, shared_examples
from hilum.sites.site import Site, SitePlan, SplitPlan, load_site, read_manifest
from hilum.study.federations import federation_spec
from hilum.study.spec import Study
from hilum.study.spec_federation import SharedSpec

NAME = "federation.shared"  # in messages, where a site has its name


def load_shared(study: Study, sites: Sequence[Site], cache: Path, arms: Iterable[str]) -> dict[str, Site]:
    """Return the shared set of each of the arms that has one; raises as ``load_sites`` does.

    ``sites``: all of the study; none may hold a patient or an image of the set. All of its images are for training,
    but for those that its database keeps for validation or test.
    """
    loaded: dict[str, Site] = {}
    found: dict[str, Site] = {}
    for arm in arms:
        spec = federation_spec(study, arm).shared
        if spec is None:
            continue
        source = f"{spec.database.model_dump_json()} {spec.root}"
        if source not in loaded:
            loaded[source] = resolve_overlap(
                [*sites, _load(study, spec, cache)], study.overlap.action, study.overlap.near
            )[-1]
        found[arm] = loaded[source]
        _require_enough(spec, found[arm], sites)
    return found


def shared_of_sites(
    study: Study, arm: str, seed: int, sites: Sequence[Site], shared: Mapping[str, Site]
) -> dict[str, Examples]:
    """Return what each site gets of the arm's shared set, drawn with a seed; nothing where the arm has none."""
    spec = federation_spec(study, arm).shared
    if spec is None:
        return {}
    if arm not in shared:
        raise StudyError(
            f"Expected no {NAME} in the arm '{arm}' between hospitals, where nobody holds all images; found one. "
            "Run the study with 'hilum study', or remove the key."
        )
    site = shared[arm]
    rows = site.indices("train")
    chosen = rows[balanced_rows(site.targets[rows], _size(spec, sites), numpy_generator(seed, "shared"))]
    return {s.name: shared_examples(site, chosen, spec.portion, seed, s.name) for s in sites}


def describe_shared(site: Site) -> dict[str, Any]:
    """Return what run.json says of a shared set, counted."""
    train = site.targets[site.indices("train")]
    return {
        "database": site.plan.database,
        **{key: getattr(site.card, key) for key in ("title", "licence", "citation", "url", "synthetic")},
        "images": len(train),
        "positive": {finding: int((train[:, k] == 1).sum()) for k, finding in enumerate(site.findings)},
    }


def lacking(site: Site) -> list[str]:
    """Return the findings of which the set has no positive image."""
    return [finding for finding, count in describe_shared(site)["positive"].items() if count == 0]


def _load(study: Study, spec: SharedSpec, cache: Path) -> Site:
    plan = SitePlan(
        NAME,
        spec.database.name,
        spec.root,
        "training",
        study.label_policy.policy(),
        study.images.on_error,
        closure=study.closure,
        options=dict(spec.database.model_extra or {}),
    )
    images = CacheSpec(study.images.size, study.images.low, study.images.high)
    everything = SplitPlan(study.split.seed, 0.0, 0.0)
    manifest, removed = read_manifest(plan)
    return load_site(plan, manifest, removed, study.findings, images, cache, everything, study.images.workers)


def _size(spec: SharedSpec, sites: Sequence[Site]) -> int:
    """Return β times the training images of all sites."""
    return max(1, round(spec.share * sum(len(site.indices("train")) for site in sites)))


def _require_enough(spec: SharedSpec, site: Site, sites: Sequence[Site]) -> None:
    labelled = ~np.isnan(site.targets[site.indices("train")])
    wanted, found = _size(spec, sites), int(np.count_nonzero(labelled.any(1)))
    if found < wanted:
        raise StudyError(
            f"Expected {wanted} labelled images in {NAME}, {spec.share:g} of the training images of all sites; found "
            f"{found}. Give a larger database, or lower '{NAME}.share'."
        )
