"""ChestX-ray14 of the NIH Clinical Center, in the layout of its official download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases import layout
from hilum.databases.manifest import BOX_COLUMNS, Card, Manifest, Problem
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError
from hilum.findings.aliases import finding_of
from hilum.findings.vocabulary import NO_FINDING

NAME = "nih14"
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
SPLIT_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
BOX_FRAME = 1024.0
FINDINGS_14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
TABLE_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Patient ID",
    "Patient Age",
    "View Position",
)
SEX_COLUMNS = ("Patient Gender", "Patient Sex")
# The header "Bbox [x,y,w,h]" is not quoted, so that it falls into four columns.
BOX_CORNER_COLUMNS = ("Bbox [x", "y", "w", "h]")


class NIH14:
    """ChestX-ray14: 14 findings mined from the reports of the NIH Clinical Center, with 984 boxes."""

    card = Card(
        name=NAME,
        title="ChestX-ray14",
        hospital="NIH Clinical Center, Bethesda, USA",
        licence="free use with attribution to the NIH Clinical Center",
        citation="Wang et al. 2017, ChestX-ray8, CVPR, arXiv:1705.02315",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        images=112_120,
        patients=30_805,
        labels="14 findings and No Finding, mined from reports by text processing, so that some are wrong",
        notes=(
            "The view (PA, AP) goes with the findings. All boxes lie in the official test part: without the "
            "two split lists, patients with a box are 'test' and all others have no official split."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the label table, the boxes and the split lists under ``root``.

        Images may lie in ``images/``, in ``images_001/images/`` to ``images_012/images/`` or in ``root``.
        Rows whose image is not on disk are left out with problems; raises ``DataError`` if none is.
        """
        source = layout.require_file(NAME, root, *TABLES, source=cls.card.url)
        table = layout.read_table(NAME, source, TABLE_COLUMNS)
        layout.require_values(NAME, source.name, table, ("Image Index", "Patient ID"))
        sex = layout.require_either(NAME, source.name, table, *SEX_COLUMNS)
        paths = table["Image Index"].map(image_paths(root))
        present = paths.notna().to_numpy() | labels_only
        paths = paths.astype(object).where(paths.notna(), "images/" + table["Image Index"])
        layout.require_images(NAME, present, root, "'images/*.png' or 'images_001/images/*.png'")
        problems = layout.absent_problems(source.name, table["Image Index"], present)
        boxes, box_problems = _read_boxes(root, table["Image Index"], table["Image Index"][present])
        splits = _splits(root, table)
        table = table[present]
        ages, age_problems = layout.ages_in_years(source.name, table["Patient Age"])
        views, view_problems = layout.coded(source.name, table["View Position"], {"PA": "PA", "AP": "AP"}, "view")
        males, sex_problems = layout.coded(source.name, table[sex], {"M": 1.0, "F": 0.0}, "sex")
        absent = [file for file in SPLIT_LISTS.values() if not (root / file).is_file()]
        absent = absent if len(absent) < len(SPLIT_LISTS) else []
        problems += [
            layout.absent_file(file, "its part of the official split is unknown", cls.card.url) for file in absent
        ]
        images = layout.image_table(
            {
                "image_id": table["Image Index"],
                "path": paths[present],
                "patientid": table["Patient ID"],
                "studyid": table["Image Index"].str.rpartition(".")[0],
                "view": views,
                "age_years": ages,
                "sex_male": males,
                "official_split": splits[present],
                "origin": NAME + "/" + table["Image Index"],
                "origin_patientid": NAME + "/" + table["Patient ID"].str.lstrip("0"),
            }
        )
        problems += age_problems + view_problems + sex_problems + box_problems
        labels, rows = _labels(table["Finding Labels"]), layout.rows_in(source.name, table)
        return Manifest(NAME, root, images, labels, boxes, problems=tuple(problems), rows=rows)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with 21 images, six boxes and both split lists."""
        rows, boxes = [], []
        parts: dict[str, list[str]] = {"train": [], "test": []}
        for patient in range(1, 15):
            findings = ("No Finding", "Effusion|Infiltration", "Cardiomegaly")[patient % 3]
            part = "test" if patient > 9 else "train"
            for visit in range(1 + patient % 2):
                name = f"{patient:08d}_{visit:03d}.png"
                lesions = ((0.25, 0.5, 0.4, 0.7),) if patient % 3 else ()
                save_radiograph(root / "images" / name, lesions=lesions)
                who = (patient, 30 + patient, "MF"[patient % 2], ("PA", "AP")[patient % 3 % 2])
                rows.append((name, findings, visit, *who, 2500, 2048, 0.168, 0.168))
                parts[part].append(name)
                if part == "test" and patient % 3:
                    found = "Infiltrate" if patient % 3 == 1 else "Cardiomegaly"
                    boxes.append(f"{name},{found},256.0,512.0,153.6,204.8,,,")
        head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        head += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
        _write_lines(root / TABLES[0], [head, *(",".join(map(str, row)) for row in rows)])
        _write_lines(root / BOXES, ["Image Index,Finding Label,Bbox [x,y,w,h],,,", *boxes])
        for part, file in SPLIT_LISTS.items():
            _write_lines(root / file, parts[part])


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def image_paths(root: Path) -> dict[str, str]:
    """Return file name → path relative to ``root``, listing every folder once."""
    folders = ["images", *(f"images_{part:03d}/images" for part in range(1, 13))]
    folders += [f"images_{part:03d}" for part in range(1, 13)]
    paths = {name: name for name in layout.list_names(root) if name.endswith(".png")}
    for folder in reversed(folders):
        paths |= {name: f"{folder}/{name}" for name in layout.list_names(root / folder)}
    return paths


def _labels(raw: pd.Series) -> pd.DataFrame:
    """Return 1/0 for the 14 findings and No Finding; each distinct text is parsed once."""
    columns = [*FINDINGS_14, NO_FINDING]
    codes, texts = pd.factorize(raw.fillna(""))
    known = np.zeros((len(texts), len(columns)))
    for row, text in enumerate(texts):
        for name in text.split("|"):
            finding = _finding(name)
            if finding not in columns:
                rows = layout.rows_of(raw.fillna("") == text)
                raise DataError(
                    f"{NAME}: expected one of its 14 findings; found '{name}' under '{raw.name}' in the rows {rows}. "
                    "Correct the label file."
                )
            known[row, columns.index(finding)] = 1
    return pd.DataFrame(known[codes], columns=columns)


def _finding(name: str) -> str | None:
    try:
        return finding_of(NAME, name)
    except DataError:
        return None


def _read_boxes(root: Path, listed: pd.Series, kept: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    if (file := layout.find_file(root, BOXES)) is None:
        problem = layout.absent_file(BOXES, "no box is read", NIH14.card.url)
        return pd.DataFrame(columns=list(BOX_COLUMNS)), [problem]
    table = layout.read_table(NAME, file, ("Image Index", "Finding Label", *BOX_CORNER_COLUMNS))
    stray = ~table["Image Index"].isin(listed)
    reasons = (f"the image '{name}' is not in the label table" for name in table["Image Index"][stray])
    summary, kind = "boxes are of images not in the label table", "box of an image not in the label table"
    problems = layout.listed(BOXES, table.index[stray], reasons, summary, kind)
    table = table[table["Image Index"].isin(kept)]
    names = {name: finding_of(NAME, name) for name in table["Finding Label"].fillna("").unique()}
    numbers = table[list(BOX_CORNER_COLUMNS)].apply(pd.to_numeric, errors="coerce").astype(np.float64)
    x, y, w, h = (numbers[column] for column in BOX_CORNER_COLUMNS)
    pixels = pd.DataFrame(
        {
            "image_id": table["Image Index"],
            "finding": table["Finding Label"].map(names),
            "x0": x,
            "y0": y,
            "x1": x + w,
            "y1": y + h,
            "width": BOX_FRAME,
            "height": BOX_FRAME,
        }
    )
    boxes, box_problems = layout.relative_boxes(BOXES, pixels)
    return boxes, problems + box_problems


def _splits(root: Path, table: pd.DataFrame) -> NDArray[np.object_]:
    """Return the official split; without its lists, 'test' for the patients who have a box."""
    splits = np.full(len(table), np.nan, dtype=object)
    lists = {part: root / file for part, file in SPLIT_LISTS.items() if (root / file).is_file()}
    for part, file in lists.items():
        names = layout.read_names(NAME, file)
        splits[table["Image Index"].isin(names)] = part
    if not lists and (boxes := layout.find_file(root, BOXES)):
        boxed = layout.read_table(NAME, boxes, ("Image Index",))["Image Index"]
        patients = table["Patient ID"][table["Image Index"].isin(boxed)]
        splits[table["Patient ID"].isin(patients)] = "test"
    return splits
