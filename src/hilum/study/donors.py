"""What the donor of a study's first weights has seen: none of the patients that the study tests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilum.errors import HilumError, RunError, StudyError
from hilum.sites.site import Site
from hilum.study.directory import RunDirectory
from hilum.study.predictions import read_table
from hilum.study.spec import Study, parse_study, read_mapping

WEIGHTS_OF_A_RUN = ("models", "rounds")


@dataclass(frozen=True)
class Seen:
    """Names of the images of a site that a donor was trained or validated on, and where they lay."""

    site: str
    database: str
    root: Path
    images: frozenset[str]

    def among(self, site: Site) -> NDArray[np.bool_]:
        """Tell which images (N,) of a site are of these.

        Names count where they are published; else in the same folder, or at a hospital of the same name.
        """
        images, plan = site.manifest.images, site.plan
        found = images["origin"].isin({f"{self.database}/{name}" for name in self.images})
        same = plan.root == self.root or (plan.name == self.site and not site.card.synthetic)
        if plan.database == self.database and (site.card.url or same):
            found |= images["image_id"].isin(self.images)
        return found.to_numpy(bool)


def check_donor(study: Study, sites: Sequence[Site]) -> Literal["checked", "unknown"] | None:
    """Refuse a donor that was trained or validated on patients whom the study tests (``StudyError``).

    So is one whose own donor was. 'unknown', which is told: where no run has kept all that it was trained on. None: the
    study has no donor.
    """
    donor, visited = _donor_of(study), set[str]()
    if donor is None:
        return None
    while donor is not None and donor not in visited:
        visited.add(donor)
        try:
            theirs, seen = _seen_by(Path(donor))
        except (HilumError, OSError, ValueError, KeyError):
            print(
                f"hilum: no run tells all that {donor} was trained on; whether it has seen patients whom "
                "this study tests is not known.",
                file=sys.stderr,
            )
            return "unknown"
        _refuse_tested(donor, theirs, seen, sites)
        donor = _donor_of(theirs)
    return "checked"


def _refuse_tested(donor: str, theirs: Study, seen: Sequence[Seen], sites: Sequence[Site]) -> None:
    found = []
    for site in sites:
        tested = np.unique(site.patients[site.indices("test")])
        images = np.any([one.among(site) for one in seen], axis=0)
        known = np.isin(tested, site.patients[images])
        if known.any():
            found.append(f"  '{site.name}': {known.sum()} of {len(tested)} test patients")
    if found:
        split = theirs.split
        raise StudyError(
            f"Expected a donor that has not seen the patients whom this study tests; {donor} was trained or validated "
            "on some:\n" + "\n".join(found) + f"\nSplit as its study does (split.seed: {split.seed}, split.val: "
            f"{split.val:g}, split.test: {split.test:g}), or give another donor, or other sites."
        )


def _seen_by(weights: Path) -> tuple[Study, list[Seen]]:
    """Return the study that has trained weights, and the images it took for that; raises where it is not known."""
    folders = [p for p in weights.parents if p.name in WEIGHTS_OF_A_RUN]
    if not folders:
        raise RunError(f"Expected {weights} in a run directory.")
    root = folders[0].parent
    run = RunDirectory(root)
    study = parse_study(read_mapping(run.study), str(run.study))
    _, _, arm, model, *_ = weights.relative_to(root).parts
    if study.federations.get(arm, study.federation).shared is not None and arm not in ("local", "pooled"):
        raise RunError(f"Expected weights of an arm without a shared set, whose images {root} does not name.")
    training = [name for name, role in run.roles().items() if role == "training"]
    seen = []
    for name in [model] if arm == "local" else training:
        spec, splits = study.sites[study.source_of(name)], read_table(run.table("splits", name))
        images = splits.loc[splits["split"] != "test", "image_id"]
        seen.append(Seen(name, spec.database.name, spec.root, frozenset(images)))
    return study, seen


def _donor_of(study: Study) -> str | None:
    return (study.model.initialization.model_extra or {}).get("donor")
