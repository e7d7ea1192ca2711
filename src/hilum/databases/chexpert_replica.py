"""Made-up copies of CheXpert's downloads: the small one, the full one in batches, and CheXpert Plus."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hilum.databases.chexpert_plus import SECTIONS, TABLE
from hilum.databases.chexpert_tables import DEMOGRAPHICS, OBSERVATIONS
from hilum.databases.replica import draw_radiograph

BATCHES = (
    "CheXpert-v1.0 batch 1 (validate & csv)",
    *(f"CheXpert-v1.0 batch {k + 1} (train {k})" for k in (1, 2, 3)),
)
PLUS_COLUMNS = (
    *("path_to_image", "path_to_dcm", "frontal_lateral", "ap_pa", "deid_patient_id", "patient_report_date_order"),
    *("report", "section_narrative", "section_clinical_history", "section_history", "section_comparison"),
    *("section_technique", "section_procedure_comments", "section_findings", "section_impression"),
    *("section_end_of_impression", "section_summary", "section_accession_number", "age", "sex", "race", "ethnicity"),
    *("interpreter_needed", "insurance_type", "recent_bmi", "deceased", "split"),
)
_FIRST = {"train": 1, "valid": 64_541, "test": 64_741}
_PATIENTS = {"train": 12, "valid": 4, "test": 4}


class _Image(NamedTuple):
    """One made-up image; ``cells``: its fourteen observations as the tables write them."""

    path: str
    patient: int
    study: int
    side: str
    projection: str
    sex: str
    age: int
    cells: tuple[str, ...]


def write_small(root: Path) -> None:
    """Write 12 patients of train with laterals and second studies, 4 of val and 4 of test."""
    for part, name in (("train", "train.csv"), ("valid", "valid.csv")):
        _write_table(root / name, (*DEMOGRAPHICS, *OBSERVATIONS), _rows(part, "CheXpert-v1.0-small"))
        _draw(root, part)
    rows = [(image.path, *image.cells) for image in _images("test")]
    _write_table(root / "test_labels.csv", OBSERVATIONS, rows)
    _draw(root, "test")


def write_full(root: Path) -> None:
    """Write the same train and val patients in the four batches of the full download."""
    tables, *trains = (root / batch for batch in BATCHES)
    for part, name in (("train", "train.csv"), ("valid", "valid.csv")):
        _write_table(tables / name, (*DEMOGRAPHICS, *OBSERVATIONS), _rows(part, "CheXpert-v1.0"))
    _draw(tables, "valid")
    for image in _images("train"):
        _save(trains[image.patient % 3] / image.path.removeprefix("train/"), image)


def write_plus(root: Path) -> None:
    """Write the same train and val patients as CheXpert Plus: one table, PNG images, labels of three sections."""
    images = [image for part in ("train", "valid") for image in _images(part)]
    rows = [_plus_row(image) for image in images]
    root.mkdir(parents=True, exist_ok=True)
    with (root / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, PLUS_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    (root / "chexbert_labels").mkdir(exist_ok=True)
    for section in SECTIONS:
        lines = [json.dumps(_plus_labels(image)) for image in images]
        (root / "chexbert_labels" / f"{section}_fixed.json").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for image in images:
        _save(root / "PNG" / "PNG" / image.path.replace(".jpg", ".png"), image)


def _images(part: str) -> Iterator[_Image]:
    for k in range(_PATIENTS[part]):
        patient = _FIRST[part] + k
        for study in range(1, 2 + (part == "train" and patient % 4 == 0)):
            cells = _mined(patient + study) if part == "train" else _read(patient)
            for view, side in enumerate(("frontal", "lateral")[: 1 + patient % 2], 1):
                path = f"{part}/patient{patient:05d}/study{study}/view{view}_{side}.jpg"
                projection = "" if side == "lateral" else ("AP", "PA", "LL")[patient % 3]
                sex, age = ("Male", "Female")[patient // 2 % 2], 30 + 4 * (patient % 13)
                yield _Image(path, patient, study, side.capitalize(), projection, sex, age, cells)


def _mined(number: int) -> tuple[str, ...]:
    """Return observations as the labeller writes them: a blank is no mention, and No Finding is 1.0 or blank."""
    if number % 3 == 0:
        return ("1.0", *("0.0" if j % 5 == 0 else "" for j in range(1, 14)))
    return ("", *(("", "1.0", "-1.0", "0.0")[(number + j) % 4] for j in range(1, 14)))


def _read(number: int) -> tuple[str, ...]:
    """Return observations as radiologists give them: all known, No Finding where there is no other."""
    seen = [number % 4 > 0 and (number + j) % 3 == 0 for j in range(1, 14)]
    return (f"{float(not any(seen))}", *(f"{float(cell)}" for cell in seen))


def _rows(part: str, folder: str) -> Iterator[tuple[str, ...]]:
    for image in _images(part):
        who = (image.sex, str(image.age), image.side, image.projection)
        yield (f"{folder}/{image.path}", *who, *image.cells)


def _plus_row(image: _Image) -> dict[str, str]:
    part, patient, *_ = image.path.split("/")
    report = f"NARRATIVE: CHEST, {image.side.upper()}\nIMPRESSION: Made up."
    return {
        "path_to_image": image.path,
        "path_to_dcm": image.path.replace(".jpg", ".dcm"),
        "frontal_lateral": image.side,
        "ap_pa": image.projection,
        "deid_patient_id": patient,
        "patient_report_date_order": str(image.study),
        "report": report,
        "section_impression": "Made up.",
        "age": f"{image.age}.0",
        "sex": image.sex,
        "race": "Unknown",
        "ethnicity": "Unknown",
        "interpreter_needed": "No",
        "recent_bmi": "24.5",
        "deceased": "No",
        "split": part,
    }


def _plus_labels(image: _Image) -> dict[str, str | float | None]:
    cells = zip(OBSERVATIONS, image.cells, strict=True)
    return {"path_to_image": image.path, **{name: float(cell) if cell else None for name, cell in cells}}


def _draw(root: Path, part: str) -> None:
    for image in _images(part):
        _save(root / image.path, image)


def _save(path: Path, image: _Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_radiograph(image.path, lesions=((0.2, 0.5, 0.4, 0.7),) if image.cells[8] == "1.0" else ()).save(path)


def _write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(("Path", *columns)), *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
