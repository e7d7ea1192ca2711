"""The sites of a study, loaded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hilum.errors import StudyError
from hilum.images.cache import CacheSpec
from hilum.sites.overlap import refuse_overlap
from hilum.sites.site import Site, SitePlan, SplitPlan, load_site
from hilum.study.spec import Study


def load_sites(study: Study, cache: Path) -> list[Site]:
    """Load every site of a study, in its order; raises ``StudyError``, ``DataError`` and ``ImageError``."""
    images = CacheSpec(study.images.size, study.images.low, study.images.high)
    split = SplitPlan(study.split.seed, study.split.val, study.split.test)
    sites = []
    for name, spec in study.sites.items():
        plan = SitePlan(
            name,
            spec.database,
            spec.root,
            spec.role,
            spec.label_policy or study.label_policy,
            spec.on_error or study.images.on_error,
        )
        sites.append(load_site(plan, study.findings, images, cache, split, study.images.workers))
    refuse_overlap(sites)
    _require_both_classes(study.findings, training_sites(sites))
    return sites


def training_sites(sites: Sequence[Site]) -> list[Site]:
    """Return the sites that take part in training."""
    return [site for site in sites if site.plan.role == "training"]


def _require_both_classes(findings: Sequence[str], sites: Sequence[Site]) -> None:
    """A site may hold one class only, the federation may not: nothing can be learned of such a finding."""
    targets = np.concatenate([site.targets[site.indices("train")] for site in sites])
    for k, finding in enumerate(findings):
        positive, negative = int((targets[:, k] == 1).sum()), int((targets[:, k] == 0).sum())
        if positive == 0 or negative == 0:
            raise StudyError(
                f"Expected positive and negative training images of '{finding}' over all sites; found {positive} "
                f"positive and {negative} negative. Remove it from 'findings', or add a site that has the other class."
            )
