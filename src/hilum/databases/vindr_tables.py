"""The label tables of VinDr-CXR: PhysioNet's and those of the VinBigData challenge on Kaggle, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Problem
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import NO_FINDING

NAME = "vindr"
PHYSIONET = "https://physionet.org/content/vindr-cxr/1.0.0/"
KAGGLE = "https://www.kaggle.com/c/vinbigdata-chest-xray-abnormalities-detection"
FOLDERS = ("", "1.0.0", "vindr-cxr/1.0.0", "physionet.org/files/vindr-cxr/1.0.0")
"""Where PhysioNet's folders may lie under the root."""
ANNOTATIONS, CHALLENGE = "annotations", "train.csv"
PARTS = ("train", "test")
CHALLENGE_FINDINGS = (
    *("Aortic Enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation"),
    *("Interstitial Lung Disease", "Infiltration", "Lung Opacity", "Nodule/Mass", "Other Lesion", "Effusion"),
    *("Pleural_Thickening", "Pneumothorax", "Fibrosis", NO_FINDING),
)
CORNERS = {"x_min": "x0", "y_min": "y0", "x_max": "x1", "y_max": "y1"}


@dataclass(frozen=True)
class Readings:
    """What the readers say, one row an image in the order of the tables.

    ``images``: image_id, part ('train', 'test'), readers (how many), file and row (where it is listed first).
    ``votes``: how many readers say each finding, NaN where none is asked. ``boxes``: image_id, finding, reader, row
    and the corners in px, as written.
    """

    images: pd.DataFrame
    votes: pd.DataFrame
    boxes: pd.DataFrame
    problems: tuple[Problem, ...] = ()
    official_split: bool = False


def read_readings(root: Path) -> tuple[Path, Readings]:
    """Return the folder of the images and what the readers say; raises ``DataError``."""
    for folder in (root / place for place in FOLDERS):
        for tables in (folder / ANNOTATIONS, folder):
            if any(layout.find_file(tables, f"image_labels_{part}.csv") for part in PARTS):
                return folder, _of_physionet(tables)
    names = (CHALLENGE, f"{ANNOTATIONS}/image_labels_train.csv")
    return root, _of_challenge(layout.require_file(NAME, root, *names, source=f"{KAGGLE} and {PHYSIONET}"))


def _of_challenge(file: Path) -> Readings:
    table = layout.read_table(NAME, file, ("image_id", "class_name", "rad_id", *CORNERS))
    layout.require_values(NAME, file.name, table, ("image_id", "class_name", "rad_id"))
    table["finding"] = _findings(file.name, table["class_name"])
    images = table.groupby("image_id", sort=False)["rad_id"].nunique().rename("readers").reset_index()
    images["part"] = "train"
    images["file"], images["row"] = file.name, table.index[~table["image_id"].duplicated()]
    said = table.drop_duplicates(["image_id", "rad_id", "finding"])
    counted = pd.crosstab(said["image_id"], said["finding"]).rename_axis(columns=None)
    columns = [*CHALLENGE_FINDINGS, *(name for name in counted if name not in CHALLENGE_FINDINGS)]
    votes = counted.reindex(index=images["image_id"], columns=columns, fill_value=0).reset_index(drop=True)
    return Readings(images, votes, _boxes(table))


def _of_physionet(folder: Path) -> Readings:
    parts = [part for part in PARTS if layout.find_file(folder, f"image_labels_{part}.csv")]
    said = pd.concat([_image_labels(folder, part) for part in parts], ignore_index=True)
    findings = [name for name in said if name not in ("image_id", "part", "file", "row")]
    groups = said.groupby("image_id", sort=False)
    images = groups[["part", "file", "row"]].first().assign(readers=groups.size()).reset_index()
    votes = groups[findings].sum(min_count=1).reset_index(drop=True)
    absent = (f"image_labels_{part}.csv" for part in PARTS if part not in parts)
    problems = [layout.absent_file(file, "its part is not read", PHYSIONET) for file in absent]
    boxes = []
    for part in parts:
        if file := layout.find_file(folder, f"annotations_{part}.csv"):
            boxes.append(_annotations(file))
        else:
            problems.append(layout.absent_file(f"annotations_{part}.csv", "no box of its part is read", PHYSIONET))
    found = pd.concat(boxes, ignore_index=True) if boxes else _boxes(pd.DataFrame(columns=_BOX_SOURCE))
    return Readings(images, votes, found, tuple(problems), official_split=True)


def _image_labels(folder: Path, part: str) -> pd.DataFrame:
    """Return one row an image and reader, findings as 1.0 or 0.0; the test part has one row an image."""
    file = layout.require_file(NAME, folder, f"image_labels_{part}.csv")
    table = layout.read_table(NAME, file, ("image_id", "No finding"))
    layout.require_values(NAME, file.name, table, ("image_id",))
    names = [str(name) for name in table if name not in ("image_id", "rad_id")]
    values = table[names].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    wrong = ~values.isin((0.0, 1.0)).all(axis=1)
    if wrong.any():
        raise DataError(
            f"{NAME}: expected 0 or 1 for every finding in '{file.name}'; found another value in the rows "
            f"{layout.rows_of(wrong)}. Download it again."
        )
    values = values.rename(columns={name: finding_of(NAME, name) for name in names})
    return values.assign(image_id=table["image_id"], part=part, file=file.name, row=table.index)


_BOX_SOURCE = ("image_id", "finding", "rad_id", *CORNERS)


def _annotations(file: Path) -> pd.DataFrame:
    table = layout.read_table(NAME, file, ("image_id", "class_name", *CORNERS))
    layout.require_values(NAME, file.name, table, ("image_id", "class_name"))
    table["finding"] = _findings(file.name, table["class_name"])
    return _boxes(table if "rad_id" in table else table.assign(rad_id="consensus"))


def _boxes(table: pd.DataFrame) -> pd.DataFrame:
    found = table[table["finding"] != NO_FINDING]
    boxes = found[["image_id", "finding"]].assign(reader=found["rad_id"], row=found.index)
    corners = found[list(CORNERS)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    return boxes.join(corners.rename(columns=CORNERS))


def _findings(file: str, names: pd.Series) -> pd.Series:
    """Return the findings of the names; raises ``DataError`` with the rows of an unknown one."""
    known = {name: _finding(name) for name in names.unique()}
    odd = names.map(known).isna()
    if odd.any():
        raise DataError(
            f"{NAME}: expected one of the 28 labels of VinDr-CXR under 'class_name' in '{file}'; found "
            f"'{names[odd].iloc[0]}' in the rows {layout.rows_of(odd)}. Correct the label file."
        )
    return names.map(known)


def _finding(name: str) -> str | None:
    try:
        return finding_of(NAME, name)
    except DataError:
        return None
