"""The optional label table of a folder of DICOM files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from hilum.databases import layout
from hilum.databases.dicom_identity import pseudonym
from hilum.databases.manifest import Problem
from hilum.findings.aliases import finding_of

NAME = "dicom"
LABELS = "labels.csv"


def read_labels(root: Path, images: pd.DataFrame, key: bytes) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the labels of the images in their order, unknown where there is no row, and the problems.

    Without ``labels.csv`` there are no columns. Raises ``DataError`` for a faulty table.
    """
    path = layout.find_file(root, LABELS)
    if path is None:
        return pd.DataFrame(index=images.index), []
    table = layout.read_table(NAME, path, ("image",))
    layout.require_values(NAME, LABELS, table, ("image",))
    names = layout.relative_paths(NAME, LABELS, table["image"])
    by_path = dict(zip(images["path"], images["image_id"], strict=True))
    ids = names.map(lambda name: by_path.get(name) or pseudonym(key, "image", name))
    layout.refuse_repeated_images(NAME, LABELS, ids)
    findings = {
        finding_of(NAME, str(column)): layout.raw_labels(NAME, LABELS, table[column])
        for column in table
        if column != "image"
    }
    labels = pd.DataFrame(findings).set_axis(ids).reindex(images["image_id"]).set_axis(images.index)
    return labels, _unmatched(names[~ids.isin(images["image_id"])], int((~images["image_id"].isin(ids)).sum()))


def _unmatched(names: pd.Series, without_row: int) -> list[Problem]:
    reasons = ("its image is none of the radiographs; the row is left out" for _ in names)
    summary = "rows name none of the radiographs; they are left out"
    problems = layout.listed(LABELS, names.index, reasons, summary, "label without a radiograph")
    if without_row:
        reason = f"{without_row} radiographs have no row; their labels are unknown"
        problems.append(Problem(LABELS, reason, "radiograph without labels", without_row))
    return problems
