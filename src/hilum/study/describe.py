"""What a run says of itself and of its sites: counts, never ids, file names or cells."""

from __future__ import annotations

import hashlib
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import hilum
from hilum.databases.manifest import ABSENT
from hilum.findings.policy import turned
from hilum.sites.site import Site
from hilum.sites.splits import SPLITS
from hilum.study.arms import choose_device, new_model
from hilum.study.spec import Study

PACKAGES = ("torch", "numpy", "scipy", "pandas", "pillow", "safetensors", "scikit-learn")


def describe_run(study: Study, sites: Sequence[Site], precision: str, started: str) -> dict[str, Any]:
    """Return run.json: versions, machine, budget and model."""
    synthetic = {site.card.synthetic for site in sites}
    model = new_model(study, study.seeds[0])
    spec = study.training
    return {
        "schema": 1,
        "hilum": hilum.__version__,
        "study": study.name,
        "started": started,
        "finished": None,
        "packages": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": choose_device(study).type},
        "precision": precision,
        "data": "mixed" if len(synthetic) > 1 else "phantom" if synthetic == {True} else "real",
        "seeds": study.seeds,
        "arms": study.arms,
        "findings": study.findings,
        "input_size": study.images.size,
        "updates": {
            "per_site": spec.updates * spec.rounds if spec.updates else None,
            "rounds": spec.rounds,
            "batch": spec.batch,
        },
        "model": {
            "backbone": study.model.backbone.name,
            "neck": study.model.neck.name,
            "pooling": study.model.pooling.name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "receptive_field": model.backbone.receptive_field,
            "stride": model.backbone.stride,
        },
        "adjust": study.evaluation.adjust,
    }


def images_digest(contents: Iterable[Iterable[str]]) -> str:
    """Return the hash of all image files of a run: the hashes of every site's files, sites in the run's order."""
    return hashlib.sha256("".join(h for content in contents for h in sorted(content)).encode()).hexdigest()


def describe_site(site: Site) -> dict[str, Any]:
    """Return one entry of sites.json: what the site holds, counted."""
    images = site.manifest.images
    age = images["age_years"].astype(float).dropna()
    test_ids = set(images["image_id"].to_numpy()[site.indices("test")])
    boxes = site.manifest.boxes
    shown = boxes[boxes["image_id"].isin(test_ids) & boxes["finding"].isin(site.findings)]
    return {
        "name": site.name,
        "database": site.plan.database,
        "options": {str(key): str(value) for key, value in site.plan.options.items() if value is not None},
        **{k: getattr(site.card, k) for k in ("title", "hospital", "licence", "citation", "url", "synthetic")},
        "role": site.plan.role,
        "images": len(images),
        "patients": int(images["patientid"].nunique()),
        "left_out": _counted(_left_out(site)),
        "problems": _counted({k: n for k, n in site.manifest.problem_counts().items() if k != ABSENT}),
        "removed": _counted(site.removed),
        "contradictions": [{"finding": f, "ancestor": a, "images": n} for (f, a), n in site.contradictions.items()],
        "label_policy": str(site.plan.label_policy),
        "closure": site.plan.closure,
        "views": {str(k): int(v) for k, v in images["view"].fillna("unknown").value_counts().items()},
        "age": _age(age),
        "sex": {"known": int(images["sex_male"].notna().sum()), "male": int((images["sex_male"] == 1).sum())},
        "splits": {name: _size(site, name) for name in SPLITS},
        "findings": {finding: _labels(site, k) for k, finding in enumerate(site.findings)},
        "boxes": {str(k): int(v) for k, v in shown["finding"].value_counts().items()},
    }


def _left_out(site: Site) -> Counter[str]:
    """Images by why they are left out: listed but not on disk, or on disk but not usable."""
    absent = site.manifest.problem_counts().get(ABSENT, 0)
    return Counter({ABSENT: absent} if absent else {}) + Counter(image.kind for image in site.left_out)


def _counted(kinds: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"reason": kind, "count": count} for kind, count in kinds.items()]


def _size(site: Site, split: str) -> dict[str, int]:
    rows = site.indices(split)
    return {"images": len(rows), "patients": len(np.unique(site.patients[rows]))}


def _labels(site: Site, k: int) -> dict[str, dict[str, Any]]:
    raw = site.raw[:, k]
    counted = {"positive": int((raw == 1).sum()), "negative": int((raw == 0).sum())}
    counted |= {"uncertain": int((raw == -1).sum()), "unknown": int(np.isnan(raw).sum())}
    return {
        "raw": counted,
        "turned": turned(site.raw[:, [k]], site.targets[:, [k]])[0],
        **{s: _targets(site.targets[site.indices(s), k]) for s in ("train", "test")},
    }


def _targets(column: NDArray[np.float32]) -> dict[str, int]:
    return {
        "positive": int((column == 1).sum()),
        "negative": int((column == 0).sum()),
        "soft": int(((column > 0) & (column < 1)).sum()),
        "unknown": int(np.isnan(column).sum()),
    }


def _age(age: pd.Series) -> dict[str, float] | None:
    if age.empty:
        return None
    q1, median, q3 = (float(age.quantile(q)) for q in (0.25, 0.5, 0.75))
    return {"known": len(age), "median": median, "q1": q1, "q3": q3}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
