"""What CheXpert, CheXlocalize and MIMIC-CXR share: tables of fourteen observations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases import layout
from hilum.databases.manifest import Problem
from hilum.errors import DataError
from hilum.findings.aliases import finding_of

OBSERVATIONS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
DEMOGRAPHICS = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
_VALUES = {text: value for value in (1.0, 0.0, -1.0) for text in (value, str(value), str(int(value)))}
_SEXES = {"Male": 1.0, "Female": 0.0}
_SIDES = {"Frontal": "FRONTAL", "Lateral": "LATERAL"}
_PROJECTIONS = {"AP": "AP", "PA": "PA", "LL": "FRONTAL", "RL": "FRONTAL"}
_PATH = r"(?:^|/)(train|valid|val|test)/(patient\d+)/(study\d+)/([^/]+)$"


def read_images(database: str, file: Path, columns: Iterable[str] = ()) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the images of a label table as ``describe`` does; ``columns`` must be there besides the labels."""
    table = layout.read_table(database, file, ("Path", *columns, *OBSERVATIONS))
    return describe(database, file.name, table)


def describe(database: str, source: str, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return what a label table tells of its images, indexed by row, and the ages, views and sexes that it does not.

    ``table``: the official columns of CheXpert, of which those of ``DEMOGRAPHICS`` may be absent. Columns: source,
    split, patientid, studyid, name, key ('val/patient64541/study1/view1_frontal.jpg', whatever folder the table
    writes before it), view, age_years, sex_male, AP/PA as written, and one a finding. Raises ``DataError``.
    """
    layout.require_values(database, source, table, ("Path",))
    paths = layout.relative_paths(database, source, table["Path"])
    parts = paths.str.extract(_PATH).set_axis(["split", "patientid", "study", "name"], axis=1)
    wrong = parts["split"].isna()
    if wrong.any():
        raise DataError(
            f"{database}: expected paths such as 'train/patient00001/study1/view1_frontal.jpg' in '{source}'; found "
            f"others in the rows {layout.rows_of(wrong)}. Download it again."
        )
    told = table.reindex(columns=list(DEMOGRAPHICS)).astype(object)
    parts["split"] = parts["split"].replace("valid", "val")
    parts["studyid"] = parts["patientid"] + "/" + parts["study"]
    parts["key"] = parts["split"] + "/" + parts["studyid"] + "/" + parts["name"]
    parts["view"], view_problems = _views(source, told, parts["name"])
    sexes, sex_problems = layout.coded(source, told["Sex"], _SEXES, "sex", ("", "Unknown"))
    parts["sex_male"] = sexes.astype(np.float64)
    parts["age_years"], problems = _ages(source, told["Age"])
    parts["AP/PA"], parts["source"] = told["AP/PA"], source
    problems += view_problems + sex_problems
    return pd.concat([parts, label_values(database, source, table, OBSERVATIONS)], axis=1), problems


def label_values(database: str, source: str, table: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Return the columns ``names`` by finding, as 1.0, 0.0, -1.0 or NaN where blank; raises ``DataError``."""
    labels = {}
    for name in names:
        values = table[name].map(_VALUES).astype(np.float64)
        wrong = table[name].notna() & values.isna()
        if wrong.any():
            raise DataError(
                f"{database}: expected 1.0, 0.0, -1.0 or a blank cell under '{name}' in '{source}'; found "
                f"'{table[name][wrong].iloc[0]}' (rows {layout.rows_of(wrong)}). Download it again."
            )
        labels[finding_of(database, name)] = values
    return pd.DataFrame(labels, index=table.index)


def listed_images(
    database: str, root: Path, table: pd.DataFrame, where: str, labels_only: bool
) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Return which images of several label tables to keep, and the absent as problems of their own table.

    As ``layout.listed_images``; ``table``: what ``describe`` returns, with the column path.
    """
    if labels_only and len(table):
        return np.ones(len(table), bool), []
    present = layout.on_disk(root, list(table["path"]))
    layout.require_images(database, present, root, where)
    source = table["source"].to_numpy()
    tables = {name: source == name for name in dict.fromkeys(source)}
    absent = (layout.absent_problems(name, table["path"][of], present[of]) for name, of in tables.items())
    return present, [problem for problems in absent for problem in problems]


def image_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the images of a manifest; what is CheXpert's has one origin in CheXpert and in CheXlocalize."""
    same = ("path", "patientid", "studyid", "view", "age_years", "sex_male")
    return layout.image_table(
        {
            **{name: table[name] for name in same},
            "image_id": table["key"],
            "official_split": table["split"],
            "origin": "chexpert/" + table["key"],
            "origin_patientid": "chexpert/" + table["patientid"],
        }
    )


def rows_in(table: pd.DataFrame) -> tuple[str, ...]:
    """Return where the label tables list each image."""
    return tuple(f"{source} row {row}" for source, row in zip(table["source"], table.index, strict=True))


def _views(source: str, told: pd.DataFrame, names: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return 'LATERAL', or 'PA', 'AP' or 'FRONTAL' of a frontal image; the file name tells where no column does."""
    named = names.str.extract(r"(frontal|lateral)")[0]
    written = told["Frontal/Lateral"].where(told["Frontal/Lateral"].notna(), named)
    sides, problems = layout.coded(source, written.str.strip().str.capitalize(), _SIDES, "view")
    frontal = sides == "FRONTAL"
    projections, further = layout.coded(source, told["AP/PA"].where(frontal), _PROJECTIONS, "projection")
    return projections.where(projections.notna(), sides).astype(object), problems + further


def _ages(source: str, raw: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return ages in years, 0 as unknown: all others are of adults."""
    zero = raw.isin(("0", "0.0"))
    ages, problems = layout.ages_in_years(source, raw.mask(zero))
    reasons = ("expected the age of an adult; found 0; it is unknown" for _ in range(int(zero.sum())))
    summary, kind = "ages are 0 among those of adults; they are unknown", "age not plausible"
    return ages, problems + layout.listed(source, raw.index[zero], reasons, summary, kind)
