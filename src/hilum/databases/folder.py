"""A hospital's own radiographs: ``labels.csv`` beside the images, and optional boxes and masks."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from hilum.databases import layout
from hilum.databases.annotations import BOXES, MASKS, read_boxes, read_masks
from hilum.databases.manifest import VIEWS, Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import FINDINGS

LABELS = "labels.csv"
OPTIONAL_COLUMNS = ("view", "age_years", "sex_male", "sex", "split", "study", "hospital")
SPLITS = ("train", "val", "test")
_SEX = {"M": 1.0, "F": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


def read_folder(root: Path, database: str = "folder", labels_only: bool = False) -> Manifest:
    """Read ``labels.csv``, and ``boxes.csv`` and ``masks.csv`` where they exist, under ``root``.

    ``image_id`` is the image's path relative to ``root``. ``database`` names the database in errors, in
    aliases of findings and in the manifest. Raises ``DataError`` for a missing or misspelt column, a
    blank or repeated image, a blank patient, a label other than 1, 0, -1 or blank, or a patient in two
    splits.
    """
    table = layout.read_table(database, layout.require_file(database, root, LABELS), ("image", "patient"))
    findings, problems = _finding_columns(database, list(table.columns))
    _check_rows(database, table)
    names = layout.relative_paths(database, LABELS, table["image"])
    present, absent = layout.listed_images(database, root, LABELS, names, "the column 'image' names them", labels_only)
    problems += absent
    table, names = table[present], names[present]
    ages, age_problems = layout.ages_in_years(LABELS, _optional(table, "age_years"))
    views, view_problems = _views(table)
    images = layout.image_table(
        {
            "image_id": names,
            "path": names,
            "patientid": table["patient"].str.strip(),
            "view": views,
            "age_years": ages,
            "sex_male": _sexes(database, table),
            "official_split": _splits(database, table),
            "studyid": _optional(table, "study"),
            "hospital": _optional(table, "hospital"),
        }
    )
    labels = pd.DataFrame({f: layout.raw_labels(database, LABELS, table[c]) for f, c in findings.items()})
    labels = labels.reset_index(drop=True)
    boxes, box_problems = read_boxes(database, root, images["image_id"])
    masks, mask_problems = read_masks(database, root, images["image_id"])
    problems += age_problems + view_problems + box_problems + mask_problems
    return Manifest(database, root, images, labels, boxes, masks, tuple(problems), layout.rows_in(LABELS, table))


def _finding_columns(database: str, columns: list[str]) -> tuple[dict[str, str], list[Problem]]:
    """Return finding → column, and a problem for each column that is neither documented nor a finding."""
    findings: dict[str, str] = {}
    problems = []
    folded = {_fold(name): name for name in FINDINGS}
    for column in columns:
        if column in ("image", "patient", *OPTIONAL_COLUMNS):
            continue
        try:
            finding = finding_of(database, column)
        except DataError:
            near = get_close_matches(_fold(column), folded, n=1, cutoff=0.8)
            if near:
                raise DataError(
                    f"{database}: expected a finding of the vocabulary in '{LABELS}'; found the column "
                    f'"{column}". Did you mean "{folded[near[0]]}"? Rename it.'
                ) from None
            problems.append(Problem(LABELS, _ignored(column), "column not a finding"))
            continue
        if finding in findings:
            raise DataError(
                f"{database}: expected one column a finding in '{LABELS}'; found \"{findings[finding]}\" and "
                f'"{column}" for {finding}. Remove one.'
            )
        findings[finding] = column
    if not findings:
        raise DataError(
            f"{database}: expected a column named after a finding in '{LABELS}' (such as \"Pneumonia\" or "
            f'"No Finding"); found {", ".join(columns)}. Add one a finding, with 1, 0, -1 or blank.'
        )
    return findings, problems


def _fold(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def _ignored(column: str) -> str:
    near = get_close_matches(column.casefold(), OPTIONAL_COLUMNS, n=1, cutoff=0.5)
    hint = f'; if it is "{near[0]}", rename it' if near else ""
    return f'the column "{column}" is neither a finding nor documented; it is ignored{hint}'


def _optional(table: pd.DataFrame, column: str) -> pd.Series:
    return table[column] if column in table else pd.Series(np.nan, index=table.index, dtype=object)


def _check_rows(database: str, table: pd.DataFrame) -> None:
    layout.require_values(database, LABELS, table, ("image", "patient"))
    layout.refuse_repeated_images(database, LABELS, table["image"])


def _views(table: pd.DataFrame) -> tuple[pd.Series, list[Problem]]:
    raw = _optional(table, "view")
    views = raw.fillna("").astype(str).str.strip().str.upper()
    wrong = ~views.isin(("", *VIEWS))
    reasons = (f"expected a view among {', '.join(VIEWS)}; found '{v}'; it is unknown" for v in raw[wrong])
    summary = f"views are not among {', '.join(VIEWS)}"
    problems = layout.listed(LABELS, raw.index[wrong], reasons, summary, "view not recognized")
    return views.where(views.isin(VIEWS)).astype(object), problems


def _sexes(database: str, table: pd.DataFrame) -> pd.Series:
    if "sex" in table and "sex_male" in table:
        raise DataError(f'{database}: expected "sex" or "sex_male" in \'{LABELS}\'; found both. Remove one.')
    raw = _optional(table, "sex" if "sex" in table else "sex_male")
    text = raw.fillna("").astype(str).str.strip().str.upper()
    wrong = ~text.isin(("", *_SEX))
    if wrong.any():
        raise DataError(
            f'{database}: expected "sex" M or F, or "sex_male" 1 or 0, or blank in \'{LABELS}\'; found '
            f"'{raw[wrong].iloc[0]}' (rows {layout.rows_of(wrong)}). Correct these cells."
        )
    return text.map(_SEX).astype(np.float64)


def _splits(database: str, table: pd.DataFrame) -> pd.Series:
    raw = _optional(table, "split")
    splits = raw.fillna("").astype(str).str.strip().str.lower()
    wrong = ~splits.isin(("", *SPLITS))
    if wrong.any():
        raise DataError(
            f"{database}: expected a split among {', '.join(SPLITS)} or blank in '{LABELS}'; found "
            f"'{raw[wrong].iloc[0]}' (rows {layout.rows_of(wrong)}). Correct these cells."
        )
    known = splits[splits != ""]
    across = known.groupby(table["patient"].str.strip()).transform("nunique") > 1
    if across.any():
        raise DataError(
            f"{database}: expected every patient in one split of '{LABELS}'; found patients in two (rows "
            f'{layout.rows_of(across)}). Split by patient, or remove the column "split".'
        )
    return splits.where(splits != "").astype(object)


class Folder:
    """A hospital's own folder: ``labels.csv`` and images, with optional ``boxes.csv`` and ``masks.csv``."""

    card = Card(
        name="folder",
        title="A hospital's own folder",
        hospital="yours",
        licence="the hospital's own",
        citation="none",
        url="",
        images=None,
        patients=None,
        labels="any findings of the vocabulary, one column each",
        notes="Columns: docs/reference/databases.md.",
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the folder as ``read_folder`` does."""
        return read_folder(root, cls.card.name, labels_only)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with 20 images, labels of three findings, boxes and one mask."""
        lesion = (0.2, 0.3, 0.4, 0.5)
        rows, boxes = [], []
        for patient in range(14):
            ill = patient % 2
            for visit in range(2 if patient % 7 in (0, 1, 2) else 1):
                name = f"images/{patient:03d}_{visit}.png"
                save_radiograph(root / name, (96, 80), (lesion,) if ill else ())
                uncertain = -1 if patient == 3 else ill
                who = (f"P{patient:03d}", ("PA", "AP")[patient % 2], 40 + patient, "MF"[patient % 3 % 2])
                rows.append((name, *who, ill, uncertain, 1 - ill))
                if ill:
                    boxes.append((name, "Pneumonia", 19.2, 24.0, 38.4, 40.0))
        head = ["image", "patient", "view", "age_years", "sex", "Pneumonia", "Lung Opacity", "No Finding"]
        pd.DataFrame(rows, columns=head).to_csv(root / LABELS, index=False)
        pd.DataFrame(boxes, columns=["image", "finding", *layout.CORNERS]).to_csv(root / BOXES, index=False)
        mask = Image.new("L", (96, 80), 0)
        ImageDraw.Draw(mask).ellipse((19, 24, 38, 40), fill=255)
        (root / "masks").mkdir(exist_ok=True)
        mask.save(root / "masks" / "001_0.png")
        marked = [("images/001_0.png", "Pneumonia", "masks/001_0.png")]
        pd.DataFrame(marked, columns=["image", "finding", "path"]).to_csv(root / MASKS, index=False)
