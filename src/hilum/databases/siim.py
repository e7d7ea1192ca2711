"""The SIIM-ACR Pneumothorax Segmentation Challenge of 2019, in the layout of its downloads."""

from __future__ import annotations

import os
from functools import reduce
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout, rle
from hilum.databases.dicom_headers import header_texts, views_of
from hilum.databases.manifest import MASK_COLUMNS, RUN_COLUMNS, Card, Manifest, Problem
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

NAME = "siim"
URL = "https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation"
FOLDERS = ("siim", "pneumothorax", "siim-acr-pneumothorax-segmentation")
TABLES = ("stage_2_train.csv", "train-rle.csv")
IMAGES = ("dicom-images-train", "dicom-images-test")
FINDING = "Pneumothorax"
FRAME = 1024
NO_MASK = "-1"
_HEADER = ("ViewPosition", "PatientAge", "PatientSex")


class SIIM:
    """SIIM-ACR pneumothorax challenge: 12,047 radiographs of the NIH, with masks of every pneumothorax."""

    card = Card(
        name=NAME,
        title="SIIM-ACR Pneumothorax Segmentation 2019",
        hospital="NIH Clinical Center, Bethesda, USA; read by radiologists of the SIIM and the STR",
        licence="non-commercial research and education, on the rules of the challenge",
        citation="Filice et al. 2020, J. Digit. Imaging 33(2):490-496",
        url=URL,
        images=12_047,
        patients=12_047,
        labels="pneumothorax, with masks, read by radiologists",
        notes=(
            "All images are ChestX-ray14's, and which is which is not published with the files: only the look of the "
            "images finds what they share. The patient in the files is one an image, so that two images of one "
            "patient of the NIH cannot be told. An image has one mask: what its rows mark is united."
        ),
    )

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the table of masks, and view, age and sex from the headers of the images that are on disk.

        Images may lie in ``dicom-images-train/`` or ``dicom-images-test/``, nested or not, or in ``root``. Raises
        ``DataError``.
        """
        found = (folder for folder in (root, *(root / name for name in FOLDERS)) if _find_table(folder))
        root = next(found, root)
        rows, source = _read_rows(root)
        table = rows.drop_duplicates("ImageId")
        names = table["ImageId"]
        paths = names.map(_image_paths(root)).astype(object).fillna(f"{IMAGES[0]}/" + names + ".dcm")
        where = f"'{IMAGES[0]}/**/<ImageId>.dcm'"
        present, problems = layout.listed_images(NAME, root, source, paths, where, labels_only)
        names, paths = names[present], paths[present]
        images, age_problems = _images(root, source, names, paths)
        marked = rows[(rows["EncodedPixels"] != NO_MASK) & rows["ImageId"].isin(names)]
        labels = pd.DataFrame({FINDING: names.isin(marked["ImageId"]).to_numpy(np.float64)})
        masks = _masks(marked, source)
        places = layout.rows_in(source, table[present])
        problems += age_problems
        return Manifest(NAME, root, images, labels, masks=masks, problems=tuple(problems), rows=places)

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write 14 patients with one image each, nested as in the download; one of seven with a mask has two rows."""
        lines = ["ImageId, EncodedPixels"]
        for k in range(14):
            name = f"1.2.276.0.7230010.3.1.4.8323329.{300 + k}.1517875160.{k:06d}"
            marked = [f"{corner * FRAME + corner} " + f"102 {FRAME - 102} " * 50 + "102" for corner in (205, 250)]
            rows = marked[: 2 if k == 5 else 1] if k % 2 else [NO_MASK]
            lines += [f"{name}, {row}" for row in rows]
            lesions = ((0.2, 0.2, 0.3, 0.3),) if k % 2 else ()
            view, sex, age = ("PA", "AP")[k // 2 % 2], "MF"[k % 3 % 2], f"{20 + 3 * k:03d}Y"
            series = name.replace(".1.4.", ".1.3.")
            path = root / IMAGES[0] / name.replace(".1.4.", ".1.2.") / series / f"{name}.dcm"
            save_dicom_radiograph(path, lesions=lesions, view=view, sex=sex, age=age)
        (root / TABLES[1]).write_text("\n".join(lines) + "\n")


def _find_table(folder: Path) -> Path | None:
    return next((file for name in TABLES if (file := layout.find_file(folder, name))), None)


def _read_rows(root: Path) -> tuple[pd.DataFrame, str]:
    """Return one row a mask or an image without one, and the name of the table."""
    file = layout.require_file(NAME, root, *TABLES, source=URL)
    columns = ("ImageId", "EncodedPixels")
    rows = layout.read_table(NAME, file, columns)
    layout.require_values(NAME, file.name, rows, columns)
    rows["ImageId"] = layout.relative_paths(NAME, file.name, rows["ImageId"])
    return rows.assign(EncodedPixels=rows["EncodedPixels"].str.strip()), file.name


def _image_paths(root: Path) -> dict[str, str]:
    """Return image → path relative to ``root``: the folders of the download are up to two deep."""
    paths = {name: name for name in layout.list_names(root)}
    for images in reversed(IMAGES):
        for folder, _, names in os.walk(root / images):
            relative = Path(folder).relative_to(root).as_posix()
            paths |= {name: f"{relative}/{name}" for name in names}
    return {name.removesuffix(".dcm"): path for name, path in paths.items() if name.endswith(".dcm")}


def _images(root: Path, source: str, names: pd.Series, paths: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    headers = header_texts([root / path for path in paths], _HEADER).set_axis(names.index)
    ages, problems = layout.ages_in_years(source, headers["PatientAge"])
    columns = {
        "image_id": names,
        "path": paths,
        "patientid": names,
        "view": views_of(headers["ViewPosition"]),
        "age_years": ages,
        "sex_male": headers["PatientSex"].map({"M": 1.0, "F": 0.0}),
    }
    return layout.image_table(columns), problems


def _masks(marked: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return one mask an image: the union of its rows."""
    runs = [_runs(text, f"{source} row {row}") for row, text in marked["EncodedPixels"].items()]
    united = pd.Series(runs, index=marked["ImageId"], dtype=object).groupby(level=0, sort=False).agg(_united)
    masks = pd.DataFrame({"image_id": united.index, "finding": FINDING, "rle": united.to_numpy()})
    return masks.assign(width=FRAME, height=FRAME).reindex(columns=[*MASK_COLUMNS, *RUN_COLUMNS])


def _runs(pairs: str, where: str) -> str:
    try:
        return rle.from_relative_pairs(pairs, FRAME, FRAME)
    except (ValueError, DataError) as error:
        raise DataError(
            f"{NAME}: expected pairs of relative run lengths within {FRAME} × {FRAME} px in '{where}'; found others "
            f"({error}). Download it again."
        ) from None


def _united(runs: pd.Series) -> str:
    if len(runs) == 1:
        return str(runs.iloc[0])
    return rle.encode(reduce(np.logical_or, (rle.decode(text, FRAME, FRAME) for text in runs)))
