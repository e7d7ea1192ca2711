"""The tables of MIMIC-CXR, MIMIC-CXR-JPG and MIMIC-IV on PhysioNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.chexpert_tables import OBSERVATIONS, label_values
from hilum.databases.manifest import Problem
from hilum.errors import DataError

NAME = "mimic_cxr"
URL = "https://physionet.org/content/mimic-cxr-jpg/"
DICOM_URL = "https://physionet.org/content/mimic-cxr/"
METADATA, SPLIT, RECORDS = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-split.csv", "cxr-record-list.csv"
RADIOLOGIST = "mimic-cxr-2.1.0-test-set-labeled.csv"
RADIOLOGIST_COLUMNS = tuple("Airspace Opacity" if name == "Lung Opacity" else name for name in OBSERVATIONS)
PATIENTS = ("patients.csv", "hosp/patients.csv")
LABELLERS = ("chexpert", "negbio", "agreement")
KEYS = ("dicom_id", "subject_id", "study_id")
SPLITS = {"train": "train", "validate": "val", "test": "test"}


def labels_of(labeller: str) -> str:
    """Return the file that holds the labels of a labeller."""
    return f"mimic-cxr-2.0.0-{labeller}.csv"


def has_list(folder: Path) -> bool:
    """Return whether a folder holds a table that lists the images."""
    return any(layout.find_file(folder, name) for name in (METADATA, RECORDS))


def _require(home: Path, *names: str) -> Path:
    return layout.require_file(NAME, home, *names, source=f"{URL}, the DICOM files at {DICOM_URL}")


def read_list(home: Path) -> tuple[pd.DataFrame, str]:
    """Return one row an image with ``KEYS`` and what else the metadata tell, and the file that lists them."""
    file = _require(home, METADATA, RECORDS)
    table = layout.read_table(NAME, file, KEYS)
    layout.require_values(NAME, file.name, table, KEYS)
    return table.drop(columns=["path"], errors="ignore"), file.name


def read_labels(home: Path, labeller: str, radiologist: bool) -> pd.DataFrame:
    """Return the labels of every study that is labelled, indexed by study_id."""
    if labeller == "agreement":
        first, second = (read_labels(home, name, False) for name in LABELLERS[:2])
        studies = first.index.union(second.index)
        first, second = first.reindex(studies), second.reindex(studies)
        labels = first.where((first == second) | (first.isna() & second.isna()), -1.0)
    else:
        labels = _study_labels(_require(home, labels_of(labeller)), OBSERVATIONS)
    if not radiologist:
        return labels
    read = _study_labels(_require(home, RADIOLOGIST), RADIOLOGIST_COLUMNS)
    return pd.concat([labels[~labels.index.isin(read.index)], read])


def _study_labels(file: Path, names: tuple[str, ...]) -> pd.DataFrame:
    table = layout.read_table(NAME, file, ("study_id", *names))
    layout.require_values(NAME, file.name, table, ("study_id",))
    twice = table["study_id"].duplicated()
    if twice.any():
        raise DataError(
            f"{NAME}: expected every study once in '{file.name}'; found others in the rows {layout.rows_of(twice)}. "
            "Download it again."
        )
    return label_values(NAME, file.name, table, names).set_axis(table["study_id"])


def read_splits(home: Path, table: pd.DataFrame) -> tuple[pd.Series, list[Problem]]:
    """Return 'train', 'val', 'test' or NaN of every image."""
    if (file := layout.find_file(home, SPLIT)) is None:
        problem = layout.absent_file(SPLIT, "no official split is known", URL)
        return pd.Series(np.nan, table.index, dtype=object), [problem]
    split = layout.read_table(NAME, file, ("dicom_id", "split")).drop_duplicates("dicom_id")
    return table["dicom_id"].map(split.set_index("dicom_id")["split"].map(SPLITS)).astype(object), []


def read_patients(home: Path, source: str, table: pd.DataFrame) -> tuple[pd.Series, pd.Series, list[Problem]]:
    """Return ages in the year of the study and sexes, from the table of patients of MIMIC-IV where it lies beside."""
    unknown = pd.Series(np.nan, table.index)
    file = next((path for name in PATIENTS if (path := layout.find_file(home, name))), None)
    if file is None:
        return unknown, unknown, []
    columns = ("subject_id", "gender", "anchor_age", "anchor_year")
    patients = layout.read_table(NAME, file, columns).drop_duplicates("subject_id").set_index("subject_id")
    told = patients.reindex(table["subject_id"]).set_axis(table.index)
    years = pd.to_numeric(table.get("StudyDate", unknown).astype(str).str[:4], errors="coerce")
    anchors = told[["anchor_age", "anchor_year"]].apply(pd.to_numeric, errors="coerce")
    numbers = (anchors["anchor_age"] + years - anchors["anchor_year"]).astype(object)
    ages, problems = layout.ages_in_years(source, numbers.where(numbers.notna()))
    return ages, told["gender"].map({"M": 1.0, "F": 0.0}), problems
