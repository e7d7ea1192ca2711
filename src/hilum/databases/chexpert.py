"""CheXpert of Stanford Health Care, in the layouts of its downloads, and CheXpert Plus."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pandas as pd

from hilum.databases import layout
from hilum.databases.chexpert_plus import FURTHER, SECTIONS, TABLE, read_plus
from hilum.databases.chexpert_plus import URL as PLUS_URL
from hilum.databases.chexpert_replica import BATCHES, write_full, write_plus, write_small
from hilum.databases.chexpert_tables import (
    DEMOGRAPHICS,
    OBSERVATIONS,
    describe,
    image_table,
    listed_images,
    read_images,
    rows_in,
)
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.errors import DataError
from hilum.findings.aliases import finding_of

NAME = "chexpert"
URL = "https://aimi.stanford.edu/datasets/chexpert-chest-x-rays"
FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", BATCHES[0])
TABLES = {"train": "train.csv", "val": "valid.csv"}
TEST_TABLES = ("test.csv", "test_labels.csv")
TEST_STUDIES = "groundtruth.csv"
FINDINGS_14 = tuple(finding_of(NAME, name) for name in OBSERVATIONS)


class CheXpert:
    """CheXpert and CheXpert Plus: 14 observations of reports, positive, negative, uncertain or not mentioned."""

    card = Card(
        name=NAME,
        title="CheXpert",
        hospital="Stanford Health Care, Stanford, USA",
        licence="research only, on the terms of Stanford University; do not redistribute",
        citation="Irvin et al. 2019, CheXpert, AAAI, arXiv:1901.07031; Chambon et al. 2024, CheXpert Plus, "
        "arXiv:2405.19538",
        url=URL,
        images=223_648,
        patients=64_740,
        labels="14 observations, mined from reports (train) or read by three radiologists (val)",
        notes=(
            "A blank cell is an observation that the report does not mention: unknown, not negative. The labels of a "
            "study are those of all its images. The counts are of the train and val parts; the test part (668 images "
            "of 500 patients) comes with CheXlocalize. CheXpert Plus holds the same images: never count both as two "
            "hospitals."
        ),
    )

    replicas: ClassVar = {"small": write_small, "full": write_full, "plus": write_plus}

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, section: str = "impression") -> Manifest:
        """Read the label tables of the parts that are there, or those of CheXpert Plus where its table is there.

        ``section``: the part of the report whose labels are read in CheXpert Plus, 'impression', 'findings' or
        'report'. Raises ``DataError``.
        """
        if section not in SECTIONS:
            raise DataError(
                f"{NAME}: expected the option 'section' as one of {', '.join(SECTIONS)}; found {section!r}. "
                "Correct the study file."
            )
        table, problems = _read(root, section)
        where = "'train/patient00001/study1/*.jpg'"
        present, absent = listed_images(NAME, root, table, where, labels_only)
        table = table[present]
        labels = table[list(FINDINGS_14)].reset_index(drop=True)
        extra = table[["AP/PA", *(name for name in FURTHER if name in table)]].reset_index(drop=True)
        problems += absent
        images, rows = image_table(table), rows_in(table)
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 12 patients of train with laterals and second studies, 4 of val and 4 of test, in the small layout."""
        write_small(root)


def _read(root: Path, section: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the images of all parts; raises ``DataError`` if there is no table."""
    home = next((folder for folder in (root, *(root / name for name in FOLDERS)) if _has_table(folder)), root)
    if layout.find_file(root, TABLE):
        return read_plus(NAME, root, section)
    layout.require_file(NAME, home, *TABLES.values(), TABLE, source=f"{URL} or, of CheXpert Plus, at {PLUS_URL}")
    tables, problems = [], []
    for file in TABLES.values():
        if path := layout.find_file(home, file):
            table, found = read_images(NAME, path, DEMOGRAPHICS)
            tables.append(table)
            problems += found
        else:
            problems.append(layout.absent_file(file, "its part is not read", URL))
    test, found = _read_test(home)
    table = pd.concat([*tables, *test])
    table["path"] = _folders(root, home, table) + "/" + table["studyid"] + "/" + table["name"]
    return table, problems + found


def _has_table(folder: Path) -> bool:
    return any(layout.find_file(folder, file) for file in TABLES.values())


def _read_test(home: Path) -> tuple[list[pd.DataFrame], list[Problem]]:
    """Return the test part from a table of images, or else from that of studies and the images on disk."""
    for file in TEST_TABLES:
        if path := layout.find_file(home, file):
            table, problems = read_images(NAME, path)
            return [table], problems
    if (path := layout.find_file(home, TEST_STUDIES)) is None:
        return [], []
    studies = layout.read_table(NAME, path, ("Study", *OBSERVATIONS))
    layout.require_values(NAME, path.name, studies, ("Study",))
    folders = "test/" + studies["Study"].str.extract(r"(patient\d+/study\d+)/?$")[0].fillna("none")
    names = folders.map(lambda folder: [f"{folder}/{name}" for name in layout.list_names(home / folder)])
    empty = names.str.len() == 0
    reasons = (f"the study '{study}' has no image in 'test/'; it is left out" for study in studies["Study"][empty])
    summary, kind = "studies have no image in 'test/'; they are left out", "study without images"
    problems = layout.listed(path.name, studies.index[empty], reasons, summary, kind)
    table, found = describe(NAME, path.name, studies.assign(Path=names)[~empty].explode("Path").astype({"Path": str}))
    return [table], problems + found


def _folders(root: Path, home: Path, table: pd.DataFrame) -> pd.Series:
    """Return the folder, relative to ``root``, that holds the patient of every image."""
    base = "" if home == root else f"{home.relative_to(root).as_posix()}/"
    batches = [name for name in layout.list_names(root) if name.startswith("CheXpert-v1.0 batch") and "(train" in name]
    places = {"train": [f"{base}train", *batches], "val": [f"{base}valid", f"{base}val"], "test": [f"{base}test"]}
    found = {
        f"{part}/{patient}": folder
        for part, folders in places.items()
        for folder in reversed(folders)
        for patient in layout.list_names(root / folder)
    }
    usual = table["split"].map({part: folders[0] for part, folders in places.items()})
    return (table["split"] + "/" + table["patientid"]).map(found).astype(object).fillna(usual)
