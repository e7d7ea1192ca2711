"""Made-up copies of MIMIC-CXR-JPG and of MIMIC-CXR, with the tables of PhysioNet column by column."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hilum.databases.chexpert_tables import OBSERVATIONS
from hilum.databases.mimic_tables import METADATA, RADIOLOGIST, RADIOLOGIST_COLUMNS, RECORDS, SPLIT, labels_of
from hilum.databases.replica import save_radiograph
from hilum.databases.replica_dicom import save_dicom_radiograph

METADATA_COLUMNS = (
    *("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns"),
    *("StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning"),
    "PatientOrientationCodeSequence_CodeMeaning",
)
_PROCEDURES = {"AP": "CHEST (PORTABLE AP)", "PA": "CHEST (PA AND LAT)", "LATERAL": "CHEST (PA AND LAT)"}
_CODES = {"AP": "antero-posterior", "PA": "postero-anterior", "LATERAL": "lateral"}


class _Image(NamedTuple):
    dicom: str
    subject: int
    study: int
    part: str
    view: str

    @property
    def folder(self) -> str:
        return f"files/p{self.subject // 1_000_000}/p{self.subject}/s{self.study}"


def write_jpg(root: Path) -> None:
    """Write MIMIC-CXR-JPG: 14 patients with 35 images and all its tables."""
    rows = []
    for image in _images():
        save_radiograph(root / image.folder / f"{image.dicom}.jpg")
        procedure = _PROCEDURES[image.view]
        taken = (image.view, "96", "96", f"{image.subject + 11500069}", "213014.531")
        coded = (procedure, _CODES[image.view], "Erect")
        rows.append(f"{image.dicom},{image.subject},{image.study},{procedure},{','.join((*taken, *coded))}")
    _write(root / f"{METADATA}.gz", [",".join(METADATA_COLUMNS), *rows])
    _write_labels(root)


def write_dicom(root: Path) -> None:
    """Write MIMIC-CXR: the same images as DICOM with its list of records, and the labels of MIMIC-CXR-JPG beside it."""
    rows = []
    for image in _images():
        path = f"{image.folder}/{image.dicom}.dcm"
        save_dicom_radiograph(root / path, view="LL" if image.view == "LATERAL" else image.view)
        rows.append(f"{image.subject},{image.study},{image.dicom},{path}")
    _write(root / f"{RECORDS}.gz", ["subject_id,study_id,dicom_id,path", *rows])
    _write_labels(root)


def _images() -> Iterator[_Image]:
    for subject, study, part in _studies():
        for view in ("PA", "LATERAL") if (subject - 10_000_032) % 3 else ("AP",):
            dicom = f"{study:08x}-{'-'.join([f'{ord(view[0]):08x}'] * 4)}"
            yield _Image(dicom, subject, study, part, view)


def _studies() -> Iterator[tuple[int, int, str]]:
    for k in range(14):
        part = ("train", "train", "validate", "test")[k % 4]
        for study in range(50_000_000 + 10 * k, 50_000_000 + 10 * k + 1 + k % 2):
            yield 10_000_032 + k, study, part


def _write_labels(root: Path) -> None:
    """Write the split, the labels of both labellers, which differ in Pneumonia, and those of the radiologist."""
    split = [f"{image.dicom},{image.study},{image.subject},{image.part}" for image in _images()]
    _write(root / f"{SPLIT}.gz", ["dicom_id,study_id,subject_id,split", *split])
    columns = sorted(OBSERVATIONS)
    labels: dict[str, list[str]] = {"chexpert": [], "negbio": []}
    read = []
    for subject, study, part in _studies():
        cells = _mined(subject - 10_000_032 + study)
        for labeller, said in (("chexpert", cells), ("negbio", cells | {"Pneumonia": "0.0"})):
            labels[labeller].append(f"{subject},{study},{','.join(said[name] for name in columns)}")
        if part == "test":
            read.append(f"{study},0.0,{','.join(f'{float((subject + j) % 2)}' for j in range(1, 14))}")
    for labeller, rows in labels.items():
        _write(root / f"{labels_of(labeller)}.gz", [",".join(("subject_id", "study_id", *columns)), *rows])
    head = ",".join(("study_id", *RADIOLOGIST_COLUMNS))
    (root / RADIOLOGIST).write_text("\n".join([head, *read]) + "\n")


def _mined(number: int) -> dict[str, str]:
    """Return observations as the labellers write them: a blank is no mention, and No Finding is 1.0 or blank."""
    if number % 7 == 6:
        return dict.fromkeys(OBSERVATIONS, "") | {"No Finding": "1.0", "Pneumothorax": "0.0"}
    cells = [("", "1.0", "0.0", "-1.0")[(number + j) % 4] for j in range(14)]
    return dict(zip(OBSERVATIONS, ["", *cells[1:]], strict=True))


def _write(path: Path, lines: list[str]) -> None:
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
