"""Which images of a site are compared: those of its training patients, at most so many, whole patients at a time."""

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
    """``rows``: images whose labels, ages and views are compared; ``drawn``: those of them that features are of."""

    site: Site
    rows: NDArray[np.int64]
    drawn: NDArray[np.int64]

    @property
    def patients(self) -> NDArray[np.int64]:
        """A number for each patient of the drawn images (n,), which tells nothing of the id."""
        return self.site.patients[self.drawn]


def draw_sample(site: Site, limit: int) -> Sample:
    """Return the images of a site that are compared: of its training patients, or all of an outside site.

    Features are of at most ``limit`` images: whole patients in the order of a hash of their ids, which does not
    depend on the other images. Raises ``StudyError`` for a site with too few patients to be divided in folds.
    """
    rows = site.indices("train") if site.plan.role == "training" else np.arange(len(site.split))
    ids = site.manifest.images["patientid"].astype(str).to_numpy()[rows]
    names, member, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    order = np.argsort([derive_seed("shift", name) for name in names])
    kept = np.zeros(len(names), bool)
    kept[order[np.cumsum(sizes[order]) <= limit]] = True
    if kept.sum() < FEWEST_PATIENTS:
        raise StudyError(
            f"Site '{site.name}': expected at least {FEWEST_PATIENTS} patients to compare with other sites; found "
            f"{len(names)}, of whom {kept.sum()} fit into {limit} images. Raise --images, or leave the site out."
        )
    return Sample(site, rows, rows[kept[member]])
