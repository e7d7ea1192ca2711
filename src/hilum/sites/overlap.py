"""Patients and images that two sites share: a leak between training and test."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hilum.errors import StudyError
from hilum.sites.site import Site


def refuse_overlap(sites: Sequence[Site]) -> None:
    """Raise ``StudyError`` when two sites hold the same image file, or the same patient of one database.

    Patient ids are compared between sites of the same database, images between all.
    """
    for a, b in combinations(sites, 2):
        images = len(set(a.content) & set(b.content))
        patients = 0
        if a.plan.database == b.plan.database:
            patients = len(set(a.manifest.images["patientid"]) & set(b.manifest.images["patientid"]))
        if images or patients:
            raise StudyError(
                f"Expected sites without common patients; '{a.name}' and '{b.name}' share {patients} patients and "
                f"{images} identical images. Remove them from one site, or make the patient ids of the two "
                "hospitals distinct if they are different people."
            )
