"""The Brixia scores that two radiologists gave to images of the public Cohen set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.brixia_layout import NAME, REGIONS, find_table, region_scores
from hilum.databases.manifest import Manifest, Problem

ANNOTATIONS, METADATA = "public-annotations.csv", "metadata.csv"
# The annotations' own repository holds the few images that are not in the Cohen set.
FOLDERS = ("public-cohen-subset", "images")
READERS = {"S": "score", "J": "junior"}
COHEN = "https://github.com/ieee8023/covid-chestxray-dataset"
SOURCE = f"https://github.com/BrixIA/Brixia-score-COVID-19, its images in the Cohen set at {COHEN}"
_VIEWS = {"PA": "PA", "AP": "AP", "AP Supine": "AP", "AP Erect": "AP", "L": "LATERAL"}
_NOT_TOLD = ("", "todo", "Unknown")


def read_cohen(root: Path, labels_only: bool) -> Manifest:
    """Read ``public-annotations.csv``, and ``metadata.csv`` of the Cohen set where it lies beside.

    Who a patient is, what they had and the view are known from ``metadata.csv`` only. Raises ``DataError``.
    """
    source = find_table(root, (ANNOTATIONS,), SOURCE)
    columns = [f"{reader}-{region}" for reader in READERS for region in (*REGIONS, "Global")]
    table = layout.read_table(NAME, source, ("filename", *columns))
    layout.require_values(NAME, source.name, table, ("filename",))
    paths = _paths(root, source.parent, layout.relative_paths(NAME, source.name, table["filename"]))
    where = "'images/<filename>' or 'public-cohen-subset/<filename>'"
    present, problems = layout.listed_images(NAME, root, source.name, paths, where, labels_only)
    table, paths = table[present], paths[present]
    told, told_problems = _told(root, source.parent, table["filename"])
    ages, age_problems = layout.ages_in_years(METADATA, told["age"])
    images = layout.image_table(
        {
            "image_id": table["filename"],
            "path": paths,
            "patientid": told["patientid"].where(told["patientid"].notna(), table["filename"]),
            "view": told["view"].str.strip().map(_VIEWS).astype(object).fillna("FRONTAL"),
            "age_years": ages,
            "sex_male": told["sex"].str.strip().map({"M": 1.0, "F": 0.0}),
            "origin": ("cohen/" + table["filename"]).where(told["patientid"].notna()),
            "origin_patientid": "cohen/" + told["patientid"],
        }
    )
    return Manifest(
        NAME,
        root,
        images,
        pd.DataFrame({"COVID-19": _covid(told["finding"])}).reset_index(drop=True),
        problems=tuple(problems + told_problems + age_problems),
        rows=layout.rows_in(source.name, table),
        extra=_scores(table).assign(finding=told["finding"]).reset_index(drop=True),
    )


def _paths(root: Path, beside: Path, names: pd.Series) -> pd.Series:
    """Return the path of every image, the first of the folders that has it, or where the Cohen set has it."""
    places = [(place / folder) for folder in FOLDERS for place in (beside, root)]
    on_disk = {
        name: (place / name).relative_to(root).as_posix()
        for place in reversed(places)
        for name in layout.list_names(place)
    }
    paths = names.map(on_disk).astype(object)
    return paths.where(paths.notna(), "images/" + names)


def _told(root: Path, beside: Path, names: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return what ``metadata.csv`` tells of every image, NaN where it does not list it."""
    columns = ["patientid", "sex", "age", "finding", "view"]
    files = [file for place in (root, beside) if (file := layout.find_file(place, METADATA))]
    if not files:
        empty = pd.DataFrame(np.nan, index=names.index, columns=columns, dtype=object)
        consequence = "every image counts as a patient, and COVID-19 is unknown"
        return empty, [layout.absent_file(METADATA, consequence, COHEN)]
    table = layout.read_table(NAME, files[0], ("filename", *columns))
    table = table.drop_duplicates("filename").set_index("filename")
    return table.reindex(index=names, columns=columns).set_axis(names.index).astype(object), []


def _covid(findings: pd.Series) -> pd.Series:
    """Return 1 for COVID-19, 0 for anything else, NaN where it is not told."""
    told = findings.str.strip()
    covid = told.str.contains("COVID-19", regex=False).map({True: 1.0, False: 0.0})
    return covid.astype(np.float64).mask(told.isna() | told.isin(_NOT_TOLD))


def _scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of the senior radiologist, as of the images of Brescia, and of the junior one."""
    given = [
        region_scores(table[[f"{reader}-{region}" for region in REGIONS]], table[f"{reader}-Global"], who)
        for reader, who in READERS.items()
    ]
    return pd.concat(given, axis=1)
