"""PadChest of the Hospital San Juan de Alicante, in the layout of its official download."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.padchest_strings import COLUMNS, STRINGS, listed_by, strings_of
from hilum.databases.positive_lists import NOTHING_SAID, labels_of
from hilum.databases.replica import draw_radiograph
from hilum.errors import DataError

NAME = "padchest"
URL = "https://bimcv.cipf.es/bimcv-projects/padchest/"
TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
METHODS = {"all": ("Physician", "RNN_model"), "physician": ("Physician",)}
VIEWS = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL"}
"""COSTAL is of the ribs, EXCLUDE and UNK do not say: their view is unknown."""
UNTOLD_VIEWS = ("", "COSTAL", "EXCLUDE", "UNK")
UNTOLD = ("", "O", "None")
_COUNTED = ("Projection", "MethodLabel")
TABLE_COLUMNS = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("Projection", "MethodLabel", "Labels", "Localizations"),
)
_EXTRA = {
    "Projection": "projection",
    "MethodLabel": "method",
    "Labels": "labels",
    "Localizations": "localizations",
    "Pediatric": "pediatric",
    "Modality_DICOM": "modality",
    "Manufacturer_DICOM": "manufacturer",
}


class PadChest:
    """PadChest: 160,861 radiographs of one Spanish hospital, with 193 label strings taken from their reports."""

    card = Card(
        name=NAME,
        title="PadChest",
        hospital="Hospital San Juan de Alicante, Spain",
        licence="PadChest Dataset Research Use Agreement: research only; do not redistribute",
        citation="Bustos et al. 2020, Med. Image Anal. 66:101797, arXiv:1901.07441",
        url=URL,
        images=160_861,
        patients=67_625,
        labels=(
            "193 strings taken from the reports, of 39,053 images by physicians and of 121,808 by a recurrent network, "
            "grouped into findings"
        ),
        notes=(
            "'normal' is No Finding. Of a report that compares ('unchanged'), that describes nothing ('exclude') or "
            "that is of a poor film ('suboptimal study'), what it names is positive and all else unknown. The birth is "
            "given as a year, so that ages may be one year too high. The text of the reports is never read into the "
            "manifest. Some of the published PNG files are damaged."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, method: str = "all") -> Manifest:
        """Read the label table under ``root``; images lie in its folders ``0/`` to ``54/``, or all in ``root``.

        ``method``: whose labels to take, 'all' or 'physician'; those of the recurrent network are then unknown, and
        their images are kept. Raises ``DataError``.
        """
        if method not in METHODS:
            raise DataError(
                f"{NAME}: expected the option 'method' as one of {', '.join(METHODS)}; found {method!r}. "
                "Correct the study file."
            )
        source, table = _read_table(root)
        paths = _paths(root, source.name, table)
        where = "'0/*.png' to '54/*.png', or '*.png'"
        present, problems = layout.listed_images(NAME, root, source.name, paths, where, labels_only)
        table = table[present]
        birth = pd.to_numeric(table["PatientBirth"], errors="coerce")
        studied = pd.to_numeric(table["StudyDate_DICOM"].str[:4], errors="coerce")
        ages, age_problems = layout.ages_in_years(source.name, studied - birth)
        views, view_problems = layout.coded(source.name, table["Projection"], VIEWS, "view", UNTOLD_VIEWS)
        males, sex_problems = layout.coded(source.name, table["PatientSex_DICOM"], {"M": 1.0, "F": 0.0}, "sex", UNTOLD)
        images = layout.image_table(
            {
                "image_id": table["ImageID"],
                "path": paths[present],
                "patientid": table["PatientID"],
                "studyid": table["StudyID"],
                "view": views,
                "age_years": ages,
                "sex_male": males,
            }
        )
        trusted = table["MethodLabel"].isin(METHODS[method])
        labels, label_problems = _labels(source.name, table["Labels"].where(trusted))
        problems += age_problems + view_problems + sex_problems + label_problems
        facts = {name: {str(k): int(n) for k, n in table[name].value_counts().items()} for name in _COUNTED}
        extra = table.reindex(columns=list(_EXTRA)).rename(columns=_EXTRA).reset_index(drop=True)
        rows = layout.rows_in(source.name, table)
        return Manifest(NAME, root, images, labels, problems=tuple(problems), rows=rows, extra=extra, facts=facts)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with 30 images of every projection in three folders, 16 bit, of both methods."""
        root.mkdir(parents=True, exist_ok=True)
        with (root / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["", *_HEADER], restval="None", lineterminator="\n")
            writer.writeheader()
            for number, row in enumerate(_replica_rows()):
                writer.writerow({"": number, **row})
                _save_16_bit(root / row["ImageDir"] / row["ImageID"])


def _read_table(root: Path) -> tuple[Path, pd.DataFrame]:
    source = layout.require_file(NAME, root, TABLE, source=URL)
    table = layout.read_table(NAME, source, TABLE_COLUMNS)
    layout.require_values(NAME, source.name, table, ("ImageID", "ImageDir", "PatientID"))
    return source, table


def _paths(root: Path, file: str, table: pd.DataFrame) -> pd.Series:
    """Return where every image lies, relative to ``root``: in its folder, unless it is in ``root``."""
    foldered = table["ImageDir"].str.removesuffix(".0") + "/" + table["ImageID"]
    flat = table["ImageID"].isin(layout.list_names(root))
    return layout.relative_paths(NAME, file, foldered.mask(flat, table["ImageID"]))


def _labels(file: str, cells: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return raw labels; each distinct cell is parsed once. A blank cell says nothing."""
    codes, texts = pd.factorize(cells)
    lists = [strings_of(str(text)) for text in texts]
    said = [NOTHING_SAID if strings is None else listed_by(strings) for strings in lists]
    labels = labels_of([*said, NOTHING_SAID], COLUMNS).iloc[codes].reset_index(drop=True)
    no_list = np.array([strings is None for strings in lists] + [False])[codes]
    reasons = (f"expected a list of strings; found '{cell}'; its labels are unknown" for cell in cells[no_list])
    summary, kind = "cells are not lists of strings; their labels are unknown", "labels not a list of strings"
    problems = layout.listed(file, cells.index[no_list], reasons, summary, kind)
    odd = np.array([bool(set(strings or ()) - STRINGS) for strings in lists] + [False])[codes]
    unknown = (", ".join(sorted(set(strings_of(str(cell)) or ()) - STRINGS)) for cell in cells[odd])
    reasons = (f"'{strings}' is not among the 193 strings of PadChest; it stands for no finding" for strings in unknown)
    summary, kind = "rows hold strings that are not among the 193 of PadChest", "label string not known"
    return labels, problems + layout.listed(file, cells.index[odd], reasons, summary, kind)


_HEADER = (
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM"),
    *("PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM", "PixelAspectRatio_DICOM"),
    *("SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM", "WindowWidth_DICOM", "Rows_DICOM"),
    *("Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM", "ExposureInuAs_DICOM", "ExposureTime"),
    *("RelativeXRayExposure_DICOM", "ReportID", "Report", "MethodLabel", "Labels", "Localizations"),
    *("LabelsLocalizationsBySentence", "labelCUIS", "LocalizationsCUIS"),
)
_REPLICA_LABELS = (
    "['normal']",
    "['cardiomegaly', 'pleural effusion', '']",
    "['hiatal hernia', 'scoliosis', 'aortic elongation']",
    "['unchanged', 'pneumonia']",
    "['exclude']",
    "['suboptimal study', ' pacemaker', 'dual chamber device']",
    "",
)


def _replica_rows() -> Iterator[dict[str, str]]:
    """Yield the rows of 14 made-up patients: every other one with a lateral, one with two studies."""
    projections = ("PA", "AP_horizontal", "PA", "AP", "PA", "COSTAL", "PA")
    for patient in range(14):
        for study in range(2 if patient % 7 == 0 else 1):
            for projection in (projections[patient % 7], *(("L",) if patient % 2 == 0 else ())):
                stem = f"{patient:05d}{study}"
                labels = _REPLICA_LABELS[patient % 7]
                yield {
                    "ImageID": f"{stem}_{projection.lower()}.png",
                    "ImageDir": str(patient % 3),
                    "StudyDate_DICOM": f"{2010 + study}0512",
                    "StudyID": stem,
                    "PatientID": f"{patient:05d}",
                    "PatientBirth": f"{1935 + 3 * patient}.0",
                    "PatientSex_DICOM": "MF"[patient % 2],
                    "Projection": projection,
                    "Pediatric": "No",
                    "Modality_DICOM": "CR",
                    "Report": "informe de prueba",
                    "MethodLabel": "Physician" if patient % 4 and labels else "RNN_model",
                    "Labels": labels,
                    "Localizations": "['loc basal']" if labels else "",
                }


def _save_16_bit(path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(draw_radiograph(path.name), np.uint16) << 8).save(path)
