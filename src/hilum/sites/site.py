"""A site: one hospital's images, targets and splits, ready for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases import DATABASES
from hilum.databases.manifest import ABSENT, Card, Manifest
from hilum.errors import DataError, StudyError
from hilum.findings.policy import LabelPolicy, apply_policy
from hilum.findings.taxonomy import Closure, close_labels
from hilum.images.cache import CacheSpec, LeftOut, PixelCache, build_cache
from hilum.images.check import shared
from hilum.sites.splits import split_patients

Role = Literal["training", "outside"]
FRONTAL = ("PA", "AP", "FRONTAL", "unknown")


@dataclass(frozen=True)
class SitePlan:
    """How to make a site of a database: everything a study says of one hospital."""

    name: str
    database: str
    root: Path
    role: Role
    label_policy: LabelPolicy = field(default_factory=LabelPolicy)
    on_error: Literal["refuse", "leave_out"] = "refuse"
    views: tuple[str, ...] = FRONTAL
    closure: Closure = "none"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitPlan:
    """Seed and expected fractions of the patient split."""

    seed: int
    val: float
    test: float


@dataclass(frozen=True)
class Site:
    """One hospital. Rows of every field agree; C findings are those of the study, in its order.

    ``raw`` (N, C) in {1, 0, -1, NaN}; ``targets`` (N, C), closed over the taxonomy where the plan says so and under
    the label policy: {1, 0, NaN}, and for training also what 'soft' draws; ``split`` (N,) in 'train', 'val', 'test';
    ``rows`` (N,) of the pixel cache; ``content`` (N,) hashes. ``removed``: reason → images that the study does not
    use; ``contradictions``: (finding, ancestor or 'No Finding') → images.
    """

    plan: SitePlan
    card: Card
    manifest: Manifest
    findings: tuple[str, ...]
    raw: NDArray[np.float32]
    targets: NDArray[np.float32]
    split: NDArray[np.str_]
    pixels: PixelCache
    rows: NDArray[np.int64]
    left_out: tuple[LeftOut, ...]
    removed: Mapping[str, int] = field(default_factory=dict)
    contradictions: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the site in the study."""
        return self.plan.name

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """Rows in any of the splits."""
        return np.flatnonzero(np.isin(self.split, splits))

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels (n, S, S) of rows."""
        return self.pixels.gather(self.rows[indices])

    @property
    def frames(self) -> NDArray[np.float32]:
        """Part (x0, y0, x1, y1) in [0, 1] of the square that each image covers, (N, 4)."""
        return np.asarray(self.pixels.frames)[self.rows]

    @property
    def patients(self) -> NDArray[np.int64]:
        """A number for each patient (N,), which tells nothing of the id."""
        return pd.factorize(self.manifest.images["patientid"])[0].astype(np.int64)

    @property
    def content(self) -> NDArray[np.str_]:
        """SHA-256 of each image file (N,)."""
        return np.asarray(self.pixels.content)[self.rows]


def read_manifest(plan: SitePlan) -> tuple[Manifest, dict[str, int]]:
    """Read the images of a plan's views, and count those of other views; raises ``DataError`` and ``StudyError``."""
    manifest: Manifest = DATABASES.load(plan.database).read(plan.root, **plan.options)
    views = manifest.images["view"].fillna("unknown")
    wanted = views.isin(plan.views).to_numpy()
    if not wanted.any():
        counts = ", ".join(f"{n} {view}" for view, n in views.value_counts().items())
        raise StudyError(
            f"Site '{plan.name}': expected images of the views {', '.join(plan.views)}; found {counts}. "
            "Change 'views' of the site."
        )
    others = views[~wanted].value_counts()
    return keep_images(manifest, np.flatnonzero(wanted)), {f"view {view}": int(n) for view, n in others.items()}


def load_site(
    plan: SitePlan,
    manifest: Manifest,
    removed: Mapping[str, int],
    findings: Sequence[str],
    images: CacheSpec,
    cache: Path,
    split: SplitPlan,
    workers: int | None,
) -> Site:
    """Cache the pixels of a site's images, apply its label policy and split its patients.

    ``removed``: reason → images of the database that are not in ``manifest``.
    Raises ``DataError`` and ``ImageError`` as the cache does, ``DataError`` for listed images
    that are not on disk unless they are to be left out, and ``StudyError`` when nothing of the study's
    findings is labelled there or when patients of a training site share an image.
    """
    if plan.on_error == "refuse":
        _refuse_absent(plan, manifest)
    pixels = build_cache(
        manifest.paths(),
        images,
        cache,
        on_error=plan.on_error,
        workers=workers,
        label=f"{plan.name}: images",
        names=manifest.places(),
    )
    if plan.role == "training":
        _refuse_shared(plan, manifest, pixels.content)
    rows = np.flatnonzero(pixels.kept)
    if len(rows) == 0:
        raise StudyError(f"Site '{plan.name}': expected readable images; found none of {len(manifest)}.")
    manifest = keep_images(manifest, rows)
    raw = manifest.labels.reindex(columns=list(findings)).to_numpy(np.float32)
    closed, contradictions = _closed(manifest, findings, plan.closure)
    splits = _split(plan, manifest, split)
    targets = _targets(plan, manifest, closed, findings, splits)
    if plan.role == "training" and np.isnan(targets[splits == "train"]).all():
        raise StudyError(
            f"Site '{plan.name}': expected training images with labels of at least one finding of the study "
            f"({', '.join(findings)}); found labels of {', '.join(manifest.known_findings) or 'none'}. "
            "Change 'findings', or leave the site out."
        )
    return Site(
        plan,
        DATABASES.load(plan.database).card,
        manifest,
        tuple(findings),
        raw,
        targets,
        splits,
        pixels,
        rows,
        tuple(pixels.problems),
        dict(removed),
        contradictions,
    )


def keep_rows(site: Site, rows: NDArray[np.int64], removed: Mapping[str, int]) -> Site:
    """Return the site with some of its images; ``removed``: reason → images that are left out."""
    manifest = keep_images(site.manifest, rows)
    return replace(
        site,
        manifest=manifest,
        raw=site.raw[rows],
        targets=site.targets[rows],
        split=site.split[rows],
        rows=site.rows[rows],
        removed={**site.removed, **removed},
        contradictions=_closed(manifest, site.findings, site.plan.closure)[1],
    )


def _closed(
    manifest: Manifest, findings: Sequence[str], closure: Closure
) -> tuple[NDArray[np.float32], dict[tuple[str, str], int]]:
    """Close labels over all that the database speaks of, and return those of ``findings`` and the contradictions.

    Contradictions are counted where either side bears on a finding of the study.
    """
    every = list(dict.fromkeys([*findings, *map(str, manifest.labels)]))
    closed = close_labels(manifest.labels.reindex(columns=every).to_numpy(np.float32), every, closure)
    counted = {pair: n for pair, n in closed.contradictions.items() if set(pair) & set(findings)}
    return closed.labels[:, : len(findings)], counted


def _targets(
    plan: SitePlan, manifest: Manifest, raw: NDArray[np.float32], findings: Sequence[str], splits: NDArray[np.str_]
) -> NDArray[np.float32]:
    """Apply the policy; a soft label is for training, and unknown elsewhere."""
    spoken = [finding in manifest.labels for finding in findings]
    targets = apply_policy(plan.label_policy, raw, findings, spoken, list(manifest.images["image_id"]))
    soft = (targets > 0) & (targets < 1)
    targets[soft & (splits != "train")[:, None]] = np.nan
    return targets


def _refuse_absent(plan: SitePlan, manifest: Manifest) -> None:
    absent = [problem for problem in manifest.problems if problem.kind == ABSENT]
    if not absent:
        return
    total = manifest.problem_counts()[ABSENT]
    shown = [problem for problem in absent if problem.count <= 1][:5]
    listed = "\n".join(f"  {p.where}: {p.reason.partition(';')[0]}" for p in shown)
    more = f"\n  and {total - len(shown)} more" if total > len(shown) else ""
    raise DataError(
        f"Site '{plan.name}': expected every listed image on disk; found {total} that are not:\n{listed}{more}\n"
        f"Restore them, or set `on_error: leave_out` (of the site, or under 'images') to use the other {len(manifest)}."
    )


def _refuse_shared(plan: SitePlan, manifest: Manifest, content: Sequence[str]) -> None:
    """One image under two patients may be trained on and tested on."""
    groups = shared(content, list(manifest.images["patientid"]))
    if not groups:
        return
    places = manifest.places()
    listed = "\n".join(f"  {', '.join(places[row] for row in group)}" for group in groups[:5])
    more = f"\n  and {len(groups) - 5} more" if len(groups) > 5 else ""
    raise StudyError(
        f"Site '{plan.name}': expected every image to be of one patient; found {len(groups)} that several patients "
        f"have, so that training could see what is tested:\n{listed}{more}\n"
        "Keep one of each, or give them the same patient if it is one."
    )


def _split(plan: SitePlan, manifest: Manifest, split: SplitPlan) -> NDArray[np.str_]:
    if plan.role == "outside":
        return np.full(len(manifest), "test")
    patients = [str(p) for p in manifest.images["patientid"]]
    splits = split_patients(patients, split.seed, split.val, split.test, list(manifest.images["official_split"]))
    if not (splits == "train").any():
        raise StudyError(
            f"Site '{plan.name}': expected at least one training patient; found {len(set(patients))} patients "
            f"({len(manifest)} images), all drawn into validation or test. Add patients, lower 'split.test', "
            "or give the site the role 'outside'."
        )
    return splits


def keep_images(manifest: Manifest, rows: NDArray[np.int64]) -> Manifest:
    """Return the manifest of some of its images."""
    images = manifest.images.iloc[rows].reset_index(drop=True)
    inside = set(images["image_id"])
    return replace(
        manifest,
        images=images,
        labels=manifest.labels.iloc[rows].reset_index(drop=True),
        boxes=manifest.boxes[manifest.boxes["image_id"].isin(inside)].reset_index(drop=True),
        masks=manifest.masks[manifest.masks["image_id"].isin(inside)].reset_index(drop=True),
        rows=tuple(np.array(manifest.rows)[rows].tolist()) if manifest.rows else (),
        extra=manifest.extra.iloc[rows].reset_index(drop=True) if len(manifest.extra.columns) else manifest.extra,
    )
