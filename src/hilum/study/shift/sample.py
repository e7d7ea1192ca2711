"""Which images of a site are compared: those of its training patients, at most so many, of as many patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilum.errors import StudyError
from hilum.randomness import derive_seed
from hilum.sites.site import Site

FEWEST_PATIENTS = 5


@dataclass(frozen=True)
class Sample:
    """``rows``: images whose labels, ages and views are compared; ``drawn``: those of them that features are of.

    ``patients``: the number of each drawn image's patient (n,), from 0 in the order of the draw.
    """

    site: Site
    rows: NDArray[np.int64]
    drawn: NDArray[np.int64]
    patients: NDArray[np.int64]


def draw_sample(site: Site, limit: int) -> Sample:
    """Return the images of a site that are compared: of its training patients, or all of an outside site.

    Features are of at most ``limit`` images: of the first ``limit`` patients in the order of a hash of their ids, and
    of each of these at most ``limit`` // patients images in the order of a hash of the files. So no patient's images
    decide which images of another are drawn. Raises ``StudyError`` for too few patients to be divided in folds.
    """
    rows = site.indices("train") if site.plan.role == "training" else np.arange(len(site.split))
    ids = site.manifest.images["patientid"].astype(str).to_numpy()[rows]
    names, member = np.unique(ids, return_inverse=True)
    count = min(limit, len(names))
    if count < FEWEST_PATIENTS:
        raise StudyError(
            f"Site '{site.name}': expected at least {FEWEST_PATIENTS} patients to compare with other sites; found "
            f"{len(names)}, of whom {count} are drawn. Raise --images, or leave the site out."
        )
    rank = np.argsort(np.argsort([derive_seed("shift", name) for name in names]))[member]
    order = np.lexsort((site.content[rows], rank))
    turn = np.empty(len(rows), np.int64)
    turn[order] = np.arange(len(rows)) - np.searchsorted(rank[order], rank[order])
    kept = (rank < count) & (turn < limit // count)
    return Sample(site, rows, rows[kept], rank[kept])
