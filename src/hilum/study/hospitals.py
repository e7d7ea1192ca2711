"""The sites of a study, loaded and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilum.databases.manifest import Manifest
from hilum.errors import DataError, StudyError
from hilum.images.cache import CacheSpec
from hilum.sites.overlap import resolve_overlap
from hilum.sites.partitioners import PARTITIONERS
from hilum.sites.site import Site, SitePlan, SplitPlan, keep_images, load_site, read_manifest
from hilum.study.spec import SiteSpec, Study

DEFAULT_CACHE = Path.home() / ".cache" / "hilum"


def cache_of(study: Study) -> Path:
    """Return the folder of the pixels."""
    return study.images.cache or DEFAULT_CACHE


def load_sites(study: Study, cache: Path) -> list[Site]:
    """Load every site of a study, in its order; raises ``StudyError``, ``DataError`` and ``ImageError``."""
    sites = [
        _load(study, cache, *part)
        for name, spec in study.sites.items()
        for part in _parts(spec, plan_of(study, name, spec), study.split.seed)
    ]
    sites = resolve_overlap(sites, study.overlap.action, study.overlap.near)
    targets = np.concatenate([site.targets[site.indices("train")] for site in training_sites(sites)])
    negative = targets == 0 if study.training.unknown == "masked" else targets != 1
    require_both_classes(study.findings, (targets == 1).sum(0), negative.sum(0))
    return sites


def load_own_site(study: Study, name: str, cache: Path) -> Site:
    """Load one site as a hospital does that sees no other; raises as ``load_sites`` does, and for links elsewhere."""
    for among, spec in study.sites.items():
        whole = plan_of(study, among, spec)
        _refuse_links_elsewhere(whole)
        for plan, manifest, removed in _parts(spec, whole, study.split.seed):
            if plan.name == name:
                return _load(study, cache, plan, manifest, removed)
    raise StudyError(f"Expected '{name}' among the sites of the study; found {', '.join(study.sites)}.")


def _load(study: Study, cache: Path, plan: SitePlan, manifest: Manifest, removed: Mapping[str, int]) -> Site:
    images = CacheSpec(study.images.size, study.images.low, study.images.high)
    split = SplitPlan(study.split.seed, study.split.val, study.split.test)
    return load_site(plan, manifest, removed, study.findings, images, cache, split, study.images.workers)


def _refuse_links_elsewhere(plan: SitePlan) -> None:
    """Refuse a root in which a symbolic link leads out of it (``DataError``); the root may be a link itself.

    Nothing is opened. A folder that cannot be listed is passed over.
    """
    root = plan.root.resolve()
    folders, elsewhere = [root], 0
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    elsewhere += not Path(os.path.realpath(entry)).is_relative_to(root)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry))
    if elsewhere:
        raise DataError(
            f"Site '{plan.name}': expected every symbolic link under {root} to stay in there; found {elsewhere} that "
            f"lead out of it ('find {root} -type l' lists all). Move there what they lead to, or remove them."
        )


def plan_of(study: Study, name: str, spec: SiteSpec) -> SitePlan:
    """Return all that the study says of one of its sites."""
    return SitePlan(
        name,
        spec.database.name,
        spec.root,
        spec.role,
        (spec.label_policy or study.label_policy).policy(),
        spec.on_error or study.images.on_error,
        tuple(spec.views),
        spec.closure or study.closure,
        dict(spec.database.model_extra or {}),
    )


def training_sites(sites: Sequence[Site]) -> list[Site]:
    """Return the sites that take part in training."""
    return [site for site in sites if site.plan.role == "training"]


def _parts(spec: SiteSpec, plan: SitePlan, seed: int) -> Iterator[tuple[SitePlan, Manifest, dict[str, int]]]:
    """Yield what becomes a site: the whole database, or every part that the partitioner cuts it into."""
    manifest, removed = read_manifest(plan)
    if spec.partition is None:
        yield plan, manifest, removed
        return
    partitioner = PARTITIONERS.load(spec.partition.name)(**(spec.partition.model_extra or {}))
    parts = partitioner.partition(manifest, seed)
    rest = len(manifest) - sum(len(rows) for rows in parts.values())
    for part, rows in parts.items():
        told = removed | ({"in no part of the database": rest} if rest else {})
        yield replace(plan, name=f"{plan.name}-{part}"), keep_images(manifest, rows), told


def require_both_classes(findings: Sequence[str], positive: NDArray[np.int64], negative: NDArray[np.int64]) -> None:
    """Refuse a finding that all sites together hold one class of; label counts (C,) (``StudyError``).

    A site may hold one class only, the federation may not: nothing can be learned of such a finding.
    """
    for finding, shown, absent in zip(findings, positive.tolist(), negative.tolist(), strict=True):
        if shown == 0 or absent == 0:
            raise StudyError(
                f"Expected positive and negative training images of '{finding}' over all sites; found {shown} "
                f"positive and {absent} negative. Remove it from 'findings', or add a site that has the other class."
            )
