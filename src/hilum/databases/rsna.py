"""The RSNA Pneumonia Detection Challenge of 2018, in the layout of its second stage on Kaggle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.dicom_headers import header_texts, views_of
from hilum.databases.manifest import Card, Manifest, Problem
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError
from hilum.findings.vocabulary import NO_FINDING

NAME = "rsna"
URL = "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge"
FOLDER = "rsna-pneumonia-detection-challenge"
LABELS, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
HEADERS = ("stage_2_train_images_dicom_headers.csv", "kaggle_stage_2_train_images_dicom_headers.csv")
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
MAPPING_URL = "https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018"
IMAGES = "stage_2_train_images"
OPACITY, PNEUMONIA = "Lung Opacity", "Pneumonia"
BOX_FRAME = 1024.0
NORMAL = {"Normal": 1.0, "No Lung Opacity / Not Normal": 0.0, "Lung Opacity": 0.0}
_HEADER = ("ViewPosition", "PatientAge", "PatientSex")


class RSNA:
    """RSNA pneumonia challenge: 26,684 radiographs of the NIH, with boxes of opacities suspicious of pneumonia."""

    card = Card(
        name=NAME,
        title="RSNA Pneumonia Detection Challenge 2018",
        hospital="NIH Clinical Center, Bethesda, USA; read by radiologists of the RSNA and the STR",
        licence="non-commercial research and education, on the rules of the challenge",
        citation="Shih et al. 2019, Radiol. Artif. Intell. 1(1):e180041",
        url=URL,
        images=26_684,
        patients=26_684,
        labels="lung opacity suspicious of pneumonia, with boxes, and No Finding, read by radiologists",
        notes=(
            "All images are ChestX-ray14's: never train on both without removing what they share. The patients counted "
            "are those of the challenge, one an image; several are one patient of the NIH, which only the mapping "
            "tells. An opacity of another cause, such as a mass or an effusion, is not Lung Opacity here."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False, pneumonia: bool = False) -> Manifest:
        """Read the label table, and the classes, headers and mapping to the NIH where they are present.

        ``pneumonia``: give the target and its boxes as Pneumonia too. Raises ``DataError``.
        """
        if not isinstance(pneumonia, bool):
            raise DataError(
                f"{NAME}: expected the option 'pneumonia' as true or false; found {pneumonia!r}. "
                "Correct the study file."
            )
        root = next((folder for folder in (root, root / FOLDER) if layout.find_file(folder, LABELS)), root)
        boxes = _read_labels(root)
        table = boxes.drop_duplicates("patientId")
        paths = f"{IMAGES}/" + table["patientId"] + ".dcm"
        present, problems = layout.listed_images(NAME, root, LABELS, paths, f"'{IMAGES}/*.dcm'", labels_only)
        table = table[present]
        names = table["patientId"]
        images, age_problems = _images(root, names, paths[present], labels_only)
        classes, class_problems = _classes(root, names)
        labels = pd.DataFrame({OPACITY: table["Target"], NO_FINDING: classes.map(NORMAL)}).reset_index(drop=True)
        if pneumonia:
            labels[PNEUMONIA] = labels[OPACITY]
        found, box_problems = _boxes(boxes[boxes["patientId"].isin(names)], pneumonia)
        problems += age_problems + class_problems + box_problems
        extra = pd.DataFrame({"class": classes}).reset_index(drop=True)
        rows = layout.rows_in(LABELS, table)
        return Manifest(NAME, root, images, labels, found, problems=tuple(problems), rows=rows, extra=extra)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 15 patients with one image each, five of each class, ten boxes and the mapping to the NIH."""
        labels, classes, mapping = ["patientId,x,y,width,height,Target"], ["patientId,class"], []
        kinds = tuple(NORMAL)
        for k in range(15):
            name, kind = f"{k:08x}-0000-4000-8000-000000000000", kinds[k % 3]
            corners = (("204.8", "512.0"), ("614.4", "409.6")) if k % 3 == 2 else ()
            lesions = tuple((float(x) / 1024, float(y) / 1024, float(x) / 1024 + 0.2, 0.7) for x, y in corners)
            view, sex, age = ("PA", "AP")[k % 2], "MF"[k // 2 % 2], f"{20 + 3 * k:03d}Y"
            path = root / IMAGES / f"{name}.dcm"
            save_dicom_radiograph(path, lesions=lesions, view=view, sex=sex, age=age, PatientID=name)
            boxes = [f"{name},{x},{y},204.8,204.8,1" for x, y in corners]
            labels += boxes or [f"{name},,,,,0"]
            classes += [f"{name},{kind}"] * max(1, len(boxes))
            mapping.append({"img_id": f"{k + 1:08d}_000.png", "subset_img_id": name, "orig_labels": ["No Finding"]})
        (root / LABELS).write_text("\n".join(labels) + "\n")
        (root / CLASSES).write_text("\n".join(classes) + "\n")
        (root / MAPPING).write_text(json.dumps(mapping))


def _read_labels(root: Path) -> pd.DataFrame:
    """Return one row a box, or an image without one; Target as 1.0 or 0.0, the same in all rows of an image."""
    file = layout.require_file(NAME, root, LABELS, source=URL)
    table = layout.read_table(NAME, file, ("patientId", "x", "y", "width", "height", "Target"))
    layout.require_values(NAME, file.name, table, ("patientId",))
    table["patientId"] = layout.relative_paths(NAME, file.name, table["patientId"])
    target = table["Target"].map({"1": 1.0, "0": 0.0}).astype(np.float64)
    wrong = target.isna() | (target != target.groupby(table["patientId"]).transform("max"))
    if wrong.any():
        raise DataError(
            f"{NAME}: expected one Target an image, 0 or 1, in '{file.name}'; found another in the rows "
            f"{layout.rows_of(wrong)}. Download it again."
        )
    return table.assign(Target=target)


def _images(root: Path, names: pd.Series, paths: pd.Series, labels_only: bool) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the images; the patient is the NIH's where the mapping tells it, else the image."""
    headers = _headers(root, names, paths, labels_only)
    ages, problems = layout.ages_in_years(LABELS, headers["PatientAge"])
    if not (root / MAPPING).is_file():
        consequence = "every image counts as a patient, although several may be of one, and no NIH image is recognized"
        problems.append(layout.absent_file(MAPPING, consequence, MAPPING_URL))
    origins = names.map(_mapping(root)).astype(object)
    patients = "nih14/" + origins.str.partition("_")[0].str.lstrip("0")
    columns = {
        "image_id": names,
        "path": paths,
        "patientid": patients.fillna(names),
        "view": views_of(headers["ViewPosition"]),
        "age_years": ages,
        "sex_male": headers["PatientSex"].str.strip().map({"M": 1.0, "F": 0.0}),
        "origin": "nih14/" + origins,
        "origin_patientid": patients,
    }
    return layout.image_table(columns), problems


def _headers(root: Path, names: pd.Series, paths: pd.Series, labels_only: bool) -> pd.DataFrame:
    """Return view, age and sex as written, from a table of the headers or else from the files themselves."""
    files = [file for name in HEADERS if (file := layout.find_file(root, name))]
    if files:
        table = layout.read_table(NAME, files[0], ("PatientID", *_HEADER)).drop_duplicates("PatientID")
        found = table.set_index("PatientID")[list(_HEADER)].reindex(names)
    elif labels_only:
        found = pd.DataFrame(columns=list(_HEADER), index=names.index)
    else:
        found = header_texts([root / path for path in paths], _HEADER)
    return found.astype(object).set_axis(names.index)


def _mapping(root: Path) -> dict[str, str]:
    """Return image of the challenge → file of ChestX-ray14; empty where the mapping is absent."""
    file = root / MAPPING
    if not file.is_file():
        return {}
    try:
        return {str(entry["subset_img_id"]): str(entry["img_id"]) for entry in json.loads(file.read_bytes())}
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"{NAME}: expected a list of objects with 'img_id' and 'subset_img_id' in '{MAPPING}'; found another "
            "content. Download it again."
        ) from None


def _classes(root: Path, names: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return the class of every image as written, NaN with a problem where it is not told."""
    file = layout.find_file(root, CLASSES)
    if file is None:
        consequence = "Normal and 'No Lung Opacity / Not Normal' cannot be told apart, No Finding is unknown"
        return names.map({}).astype(object), [layout.absent_file(CLASSES, consequence, RSNA.card.url)]
    table = layout.read_table(NAME, file, ("patientId", "class")).drop_duplicates(["patientId", "class"])
    wrong = table["patientId"].duplicated() | ~table["class"].isin(list(NORMAL))
    if wrong.any():
        raise DataError(
            f"{NAME}: expected one of the classes {', '.join(NORMAL)} an image in '{file.name}'; found another in the "
            f"rows {layout.rows_of(wrong)}. Download it again."
        )
    classes = names.map(table.set_index("patientId")["class"]).astype(object)
    blank = names[classes.isna()]
    reasons = (f"'{name}' has no class in '{CLASSES}'; No Finding is unknown" for name in blank)
    summary = f"images have no class in '{CLASSES}'; No Finding is unknown"
    return classes, layout.listed(LABELS, blank.index, reasons, summary, "image without a class")


def _boxes(table: pd.DataFrame, pneumonia: bool) -> tuple[pd.DataFrame, list[Problem]]:
    table = table[table["Target"] == 1]
    x, y, w, h = (pd.to_numeric(table[name], errors="coerce") for name in ("x", "y", "width", "height"))
    pixels = pd.DataFrame({"image_id": table["patientId"], "finding": OPACITY, "row": table.index})
    pixels = pixels.assign(x0=x, y0=y, x1=x + w, y1=y + h, width=BOX_FRAME, height=BOX_FRAME)
    boxes, problems = layout.relative_boxes(LABELS, pixels)
    if pneumonia:
        boxes = pd.concat([boxes, boxes.assign(finding=PNEUMONIA)], ignore_index=True)
    return boxes, problems
