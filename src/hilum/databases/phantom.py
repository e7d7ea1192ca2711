"""Phantom hospitals as a database: what ``write_hospital`` wrote, read as a hospital's own folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hilum.databases.folder import read_folder
from hilum.databases.manifest import Card, Manifest
from hilum.databases.phantoms.hospitals import OUTSIDE
from hilum.databases.phantoms.writing import PARAMETERS, write_hospital
from hilum.errors import DataError


class Phantom:
    """Phantom hospitals: synthetic radiographs with exact boxes and masks."""

    card = Card(
        name="phantom",
        title="Phantom hospitals",
        hospital="none: harbour, northgate, summit, meadow and outside are invented",
        licence="Apache-2.0",
        citation="hilum",
        url="",
        images=None,
        patients=None,
        labels="up to 12 findings, a label space for each hospital",
        notes="Drawn, not acquired: no figure measured on them says anything about patients.",
        synthetic=True,
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read a hospital that ``write_hospital`` wrote; raises ``DataError`` as ``read_folder`` does."""
        if not (root / PARAMETERS).is_file():
            raise DataError(
                f"phantom: expected '{PARAMETERS}' in '{root}'; found none. Write the hospital there with "
                "hilum.databases.phantoms.writing.write_hospital, or read the folder as 'folder'."
            )
        return read_folder(root, cls.card.name, labels_only)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 40 radiographs of 64 px of the hospital 'outside' with raised prevalences."""
        raised = {name: 0.25 for name in OUTSIDE.prevalence}
        write_hospital(replace(OUTSIDE, prevalence=raised), root, images=40, size=64)
