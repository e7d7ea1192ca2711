"""Patients and images that two sites share: a leak between training and test.

Every site makes a ``Fingerprint`` of itself: hashes of published names and ids, of file contents, and perceptual
hashes. Only fingerprints are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import StudyError
from hilum.images.fingerprint import BITS, CHUNK, NEAR, near_pairs, perceptual_hash
from hilum.sites.site import Site, keep_rows


@dataclass(frozen=True)
class Fingerprint:
    """What a site tells of its N images so that others can find theirs among them: hashes, nothing else.

    ``patients``, ``names``, ``content``: SHA-256 of the patient's id, of the image's published name and of the file
    (N,); ``look``: perceptual hashes (N, 2, 255), or none where they are not asked for.
    """

    patients: NDArray[np.str_]
    names: NDArray[np.str_]
    content: NDArray[np.str_]
    look: NDArray[np.bool_]

    def without(self, rows: set[int]) -> Fingerprint:
        """Return the fingerprint of the other images."""
        kept = np.setdiff1d(np.arange(len(self.names)), list(rows))
        look = self.look[kept] if len(self.look) else self.look
        return Fingerprint(self.patients[kept], self.names[kept], self.content[kept], look)


@dataclass(frozen=True)
class Shared:
    """What two sites share, counted, and the rows of the second site that share anything."""

    patients: int
    names: int
    files: int
    alike: int
    rows: NDArray[np.int64]

    def __str__(self) -> str:
        text = f"{self.patients} patients and {self.files} identical images"
        text += f", {self.names} images by their published names" if self.names else ""
        return text + (f", {self.alike} images that look the same" if self.alike else "")


def fingerprint(site: Site, near: int | None = NEAR) -> Fingerprint:
    """Return the fingerprint of a site; without perceptual hashes where ``near`` is None.

    Image names count where they are published: those of a hospital's own folder are its own.
    """
    images, database = site.manifest.images, site.plan.database
    place = database if site.card.url else f"{database} {site.name}"
    own_patient, own_name = f"{database}/" + images["patientid"], f"{place}/" + images["image_id"]
    return Fingerprint(
        _hashed(images["origin_patientid"].fillna(own_patient)),
        _hashed(images["origin"].fillna(own_name)),
        site.content,
        _look(site) if near is not None else np.empty((0, 2, BITS), bool),
    )


def shared(a: Fingerprint, b: Fingerprint, near: int | None = NEAR) -> Shared:
    """Return what ``b`` shares with ``a``; images within ``near`` bits of each other look the same."""
    patients, names, content = (np.isin(getattr(b, f), getattr(a, f)) for f in ("patients", "names", "content"))
    alike = np.zeros(len(b.names), bool)
    if near is not None:
        alike[near_pairs(a.look, b.look, near)[:, 1]] = True
    rows = np.flatnonzero(patients | names | content | alike)
    return Shared(len(np.unique(b.patients[patients])), int(names.sum()), int(content.sum()), int(alike.sum()), rows)


def resolve_overlap(
    sites: Sequence[Site], action: Literal["refuse", "remove"] = "refuse", near: int | None = NEAR
) -> list[Site]:
    """Refuse sites that share patients or images, or remove the shared patients from the later of the two.

    Patients are removed with all of their images. Raises ``StudyError`` where sites overlap and ``action`` is
    'refuse', and where nothing is left of a site.
    """
    prints = [fingerprint(site, near) for site in sites]
    drop: list[set[int]] = [set() for _ in sites]
    found = []
    for a, b in sorted(combinations(range(len(sites)), 2), key=lambda pair: pair[1]):
        common = shared(prints[a].without(drop[a]) if action == "remove" else prints[a], prints[b], near)
        if len(common.rows):
            found.append(f"  '{sites[a].name}' and '{sites[b].name}' share {common}")
            drop[b] |= set(_whole_patients(prints[b], common.rows).tolist())
    if found and action == "refuse":
        raise StudyError(
            "Expected sites without common patients and images, since training could see what is tested; found:\n"
            + "\n".join(found)
            + "\nRemove them from one site (`overlap: remove` in the study leaves the patients out of the site that is "
            "listed later), or make the patient ids of the two hospitals distinct if they are different people."
        )
    return [_without(site, rows) for site, rows in zip(sites, drop, strict=True)]


def _without(site: Site, rows: set[int]) -> Site:
    if not rows:
        return site
    kept = np.setdiff1d(np.arange(len(site.manifest)), list(rows))
    if len(kept) == 0:
        raise StudyError(
            f"Site '{site.name}': expected images that no site before it holds; found none. Remove it from the study."
        )
    left = keep_rows(site, kept, {"shared with another site": len(rows)})
    train = left.targets[left.indices("train")]
    if site.plan.role == "training" and np.isnan(train).all():
        raise StudyError(
            f"Site '{site.name}': expected training images with labels after those that a site before it holds were "
            f"removed; found none of {len(kept)} images. Remove the site from the study, or give it the role 'outside'."
        )
    return left


def _whole_patients(of: Fingerprint, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero(np.isin(of.patients, of.patients[rows]))


def _look(site: Site) -> NDArray[np.bool_]:
    """Return the perceptual hashes of a site, whose images are taken out of the cache a block at a time."""
    everything, frames = np.arange(len(site.manifest)), site.frames
    look = np.empty((len(everything), 2, BITS), bool)
    for start in range(0, len(everything), CHUNK):
        rows = everything[start : start + CHUNK]
        look[rows] = perceptual_hash(site.images(rows), frames[rows])
    return look


def _hashed(texts: Iterable[object]) -> NDArray[np.str_]:
    codes, unique = pd.factorize(pd.Series(list(texts), dtype=object))
    return np.array([hashlib.sha256(str(text).encode()).hexdigest() for text in unique], dtype="<U64")[codes]
