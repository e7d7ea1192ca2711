"""Made-up copies of VinDr-CXR: PhysioNet's download, and that of the VinBigData challenge on Kaggle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hilum.databases.replica_dicom import save_dicom_radiograph

LABELS = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
)
CLASSES = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration"),
    *("Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "No finding"),
)
"""The classes of the challenge: the place of each is its number."""
_FINDINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("Cardiomegaly",),
    ("Aortic enlargement", "Pleural effusion"),
    ("Lung Opacity", "Tuberculosis"),
)
_CORNERS = "24.0,48.0,72.0,84.0"


class _Image(NamedTuple):
    """One made-up image; ``seen``: reader ('' for the consensus) → what that reader sees."""

    name: str
    part: str
    seen: dict[str, tuple[str, ...]]


def write_physionet(root: Path) -> None:
    """Write 12 train images of three readers each and 4 test images of one consensus."""
    labels: dict[str, list[str]] = {
        "train": [",".join(("image_id", "rad_id", *LABELS, "Other diseases", "No finding"))],
        "test": [",".join(("image_id", *LABELS, "Other disease", "No finding"))],
    }
    corners = "class_name,x_min,y_min,x_max,y_max"
    boxes = {"train": [f"image_id,rad_id,{corners}"], "test": [f"image_id,{corners}"]}
    for image in _images(root):
        for reader, seen in image.seen.items():
            who = f"{image.name},{reader}," if reader else f"{image.name},"
            cells = [str(int(name in seen)) for name in (*LABELS, "Other diseases")]
            labels[image.part].append(f"{who}{','.join(cells)},{int(not seen)}")
            boxes[image.part] += [f"{who}{one},{_CORNERS}" for one in seen if one != "Tuberculosis"]
            boxes[image.part] += [] if seen else [f"{who}No finding,,,,"]
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part in labels:
        _write_lines(root / "annotations" / f"image_labels_{part}.csv", labels[part])
        _write_lines(root / "annotations" / f"annotations_{part}.csv", boxes[part])


def write_kaggle(root: Path) -> None:
    """Write the train images with one table of boxes, and the test images, whose labels the challenge kept."""
    rows = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    for image in _images(root):
        for reader, seen in image.seen.items():
            boxed = [name for name in seen if name in CLASSES]
            for name, corners in [(one, _CORNERS) for one in boxed] or [("No finding", ",,,")]:
                rows += [f"{image.name},{name},{CLASSES.index(name)},{reader},{corners}"] if reader else []
    _write_lines(root / "train.csv", rows)


def _images(root: Path) -> Iterator[_Image]:
    """Draw and yield the images; the third reader misses what every fourth shows."""
    for k in range(16):
        part = "train" if k < 12 else "test"
        name = hashlib.md5(f"vindr replica {k}".encode(), usedforsecurity=False).hexdigest()
        ill = _FINDINGS[k % 4]
        age = "000Y" if k == 3 else f"{30 + k:03d}Y"
        lesions = ((0.25, 0.4, 0.75, 0.7),) if ill else ()
        save_dicom_radiograph(root / part / f"{name}.dicom", (96, 120), lesions, sex="MF"[k % 2], age=age)
        readers = ("R8", "R9", "R10") if part == "train" else ("",)
        yield _Image(name, part, {who: () if who == "R10" and k % 4 == 2 else ill for who in readers})


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
