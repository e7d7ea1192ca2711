"""CheXpert Plus: the images of CheXpert with demographics, and labels that CheXbert read in the reports."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from zipfile import BadZipFile

import pandas as pd

from hilum.databases import layout
from hilum.databases.chexpert_tables import OBSERVATIONS, describe
from hilum.databases.manifest import Problem
from hilum.errors import DataError

TABLE = "df_chexpert_plus_240401.csv"
URL = "https://aimi.stanford.edu/datasets/chexpert-plus"
SECTIONS = ("impression", "findings", "report")
# Where the images lie, and what they are: the paths of the table end in .jpg whichever they are.
IMAGES = {"PNG/PNG": ".png", "PNG": ".png", "DICOM/Uncompressed": ".dcm", "DICOM": ".dcm"}
PATIENT = ("race", "ethnicity", "interpreter_needed", "insurance_type", "recent_bmi", "deceased")
FURTHER = ("patient_report_date_order", *PATIENT)
_NAMES = {
    "path_to_image": "Path",
    "sex": "Sex",
    "age": "Age",
    "frontal_lateral": "Frontal/Lateral",
    "ap_pa": "AP/PA",
}


def read_plus(database: str, root: Path, section: str) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the images as ``describe`` does, with their paths and the columns of ``FURTHER``.

    ``section``: the part of the report that CheXbert read. Reports are not read. Raises ``DataError``.
    """
    file = layout.require_file(database, root, TABLE, source=URL)
    table = _read_table(database, file).rename(columns=_NAMES)
    labels = _read_labels(database, root, section)
    table[list(OBSERVATIONS)] = labels[list(OBSERVATIONS)].reindex(table["Path"]).to_numpy()
    images, problems = describe(database, file.name, table)
    unlabelled = ~table["Path"].isin(labels.index)
    reasons = (
        f"'{path}' is not in '{section}_fixed.json'; its labels are unknown" for path in table["Path"][unlabelled]
    )
    summary = f"images are not in '{section}_fixed.json'; their labels are unknown"
    problems += layout.listed(file.name, table.index[unlabelled], reasons, summary, "image without labels")
    folder, end = next(((f, e) for f, e in IMAGES.items() if _holds_images(root / f)), ("PNG", ".png"))
    stems = images["studyid"] + "/" + images["name"].str.replace(r"\.\w+$", "", regex=True)
    images["path"] = f"{folder}/" + images["split"].replace("val", "valid") + "/" + stems + end
    return pd.concat([images, table.reindex(columns=list(FURTHER))], axis=1), problems


def _holds_images(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("train", "valid"))


def _read_table(database: str, file: Path) -> pd.DataFrame:
    """Return the columns that are used, as text, indexed by row; the reports stay on disk."""
    wanted = {*_NAMES, *FURTHER}
    try:
        table = pd.read_csv(file, dtype=str, encoding="utf-8-sig", usecols=lambda name: name in wanted)
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{database}: expected to read '{file.name}'; found that it is damaged or not readable ({error}). "
            "Download it again."
        ) from None
    missing = [name for name in _NAMES if name not in table]
    if missing:
        raise DataError(
            f"{database}: expected the columns {', '.join(_NAMES)} in '{file.name}'; missing: {', '.join(missing)}. "
            "Download it again."
        )
    table.index = pd.RangeIndex(2, 2 + len(table))
    return table


def _read_labels(database: str, root: Path, section: str) -> pd.DataFrame:
    """Return the observations of every image that the file of a section lists, indexed by its path."""
    name = f"{section}_fixed.json"
    names = (f"{folder}{name}" for folder in ("chexbert_labels/", "labels/", ""))
    file = layout.require_file(database, root, *names, source=URL)
    wanted = {"path_to_image", *OBSERVATIONS}
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        table = pd.DataFrame(records, columns=["path_to_image", *OBSERVATIONS])
        whole = all(wanted <= record.keys() for record in records) and not table["path_to_image"].duplicated().any()
    except (ValueError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DataError(
            f"{database}: expected one JSON object an image with 'path_to_image' and fourteen observations in every "
            f"line of '{name}'; found other content. Download it again."
        )
    return table.set_index("path_to_image")
