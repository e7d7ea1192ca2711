"""What the images of VinDr-CXR tell themselves: the size in which its boxes are given, age and sex."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.dicom_headers import THREADS, header_of

SIZES = "train_meta.csv"
SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")


class Frame(NamedTuple):
    """Width and height in px, age and sex as written; NaN and '' where it is not told."""

    width: float = np.nan
    height: float = np.nan
    age: str = ""
    sex: str = ""


def find_images(root: Path, names: pd.Series, parts: pd.Series) -> pd.Series:
    """Return where every image lies: in the folder of its part, or in ``root``; a '.dicom' of its part if nowhere."""
    paths = {f"{part}/{name}": f"{part}/{name}.dicom" for part, name in zip(parts, names, strict=True)}
    for folder in ("", *sorted(set(parts))):
        for file in layout.list_names(root / folder):
            stem, suffix = Path(file).stem, Path(file).suffix.lower()
            keys = [f"{folder}/{stem}"] if folder else [f"{part}/{stem}" for part in set(parts)]
            if suffix in SUFFIXES:
                paths |= {key: f"{folder}/{file}".removeprefix("/") for key in keys if key in paths}
    return (parts + "/" + names).map(paths)


def read_frames(database: str, root: Path, names: pd.Series, paths: pd.Series, labels_only: bool) -> pd.DataFrame:
    """Return one ``Frame`` an image, from the files themselves and from ``train_meta.csv``, whose sizes win.

    ``labels_only``: from ``train_meta.csv`` alone. Its dim0 is the height, its dim1 the width of the original.
    """
    frames = [Frame()] * len(names) if labels_only else _of_files([root / path for path in paths])
    table = pd.DataFrame(frames, columns=list(Frame._fields), index=names.index)
    table["stated"] = (paths.str.endswith((".dicom", ".dcm")) & table["width"].notna()).astype(bool)
    if file := layout.find_file(root, SIZES):
        sizes = layout.read_table(database, file, ("image_id", "dim0", "dim1")).drop_duplicates("image_id")
        told = sizes.set_index("image_id").reindex(names).set_axis(names.index)
        for side, column in (("height", "dim0"), ("width", "dim1")):
            number = pd.to_numeric(told[column], errors="coerce").astype(np.float64)
            table[side] = number.fillna(table[side])
        table["stated"] |= told["dim0"].notna()
    return table


def _of_files(paths: list[Path]) -> list[Frame]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(_frame, paths))


def _frame(path: Path) -> Frame:
    return _of_dicom(path) if path.suffix.lower() in (".dicom", ".dcm") else _of_picture(path)


def _of_dicom(path: Path) -> Frame:
    header = header_of(path)
    width, height = (header.integer("Columns"), header.integer("Rows")) if header else (None, None)
    if header is None or width is None or height is None:
        return Frame()
    return Frame(float(width), float(height), header.text("PatientAge"), header.text("PatientSex"))


def _of_picture(path: Path) -> Frame:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return Frame(float(image.width), float(image.height))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return Frame()
