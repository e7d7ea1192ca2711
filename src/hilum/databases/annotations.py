"""Boxes and masks of a hospital's own folder: ``boxes.csv`` and ``masks.csv``. For evaluation only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from hilum.databases import layout
from hilum.databases.manifest import BOX_COLUMNS, MASK_COLUMNS, Problem
from hilum.errors import DataError
from hilum.findings.aliases import finding_of

BOXES, MASKS = "boxes.csv", "masks.csv"
FRAME = ("width", "height")


def read_boxes(database: str, root: Path, images: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the boxes of ``images`` as fractions of their frame.

    Corners are px of the image file, or of a frame given in the columns ``width`` and ``height``, which a
    format that only a DICOM reader opens needs. Raises ``DataError`` for a missing column, an unknown
    finding or a corner that is no number.
    """
    if not (root / BOXES).is_file():
        return pd.DataFrame(columns=list(BOX_COLUMNS)), []
    table = layout.read_table(database, root / BOXES, ("image", "finding", *layout.CORNERS))
    table, problems = _of_images(database, BOXES, table, images)
    pixels = table[["image", "finding"]].rename(columns={"image": "image_id"})
    for column in layout.CORNERS:
        pixels[column] = _numbers(database, table[column])
    if all(column in table for column in FRAME):
        pixels["width"], pixels["height"] = (_numbers(database, table[column]) for column in FRAME)
    else:
        pixels, unread = _with_sizes(root, pixels)
        problems += unread
    boxes, box_problems = layout.relative_boxes(BOXES, pixels)
    return boxes, problems + box_problems


def read_masks(database: str, root: Path, images: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the masks of ``images`` that are on disk; raises ``DataError`` as ``read_boxes`` does."""
    if not (root / MASKS).is_file():
        return pd.DataFrame(columns=list(MASK_COLUMNS)), []
    table = layout.read_table(database, root / MASKS, ("image", "finding", "path"))
    table, problems = _of_images(database, MASKS, table, images)
    table["path"] = layout.relative_paths(database, MASKS, table["path"].fillna(""))
    present = layout.on_disk(root, list(table["path"]))
    reasons = (f"the mask '{path}' is not on disk; it is left out" for path in table["path"][~present])
    problems += layout.listed(MASKS, table.index[~present], reasons, "masks are not on disk", "mask not on disk")
    table = table[present].rename(columns={"image": "image_id"}).reindex(columns=list(MASK_COLUMNS))
    return table.reset_index(drop=True), problems


def _of_images(database: str, file: str, table: pd.DataFrame, images: pd.Series) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the rows that name one of ``images``, findings in the vocabulary; the others are problems."""
    table = table.copy()
    table["image"] = layout.relative_paths(database, file, table["image"].fillna(""))
    names = {name: finding_of(database, name) for name in table["finding"].fillna("").unique()}
    table["finding"] = table["finding"].fillna("").map(names)
    known = table["image"].isin(images)
    reasons = (f"the image '{name}' is not among those read; the row is left out" for name in table["image"][~known])
    summary, kind = "rows name images that are not read", "box or mask of an image that is not read"
    return table[known], layout.listed(file, table.index[~known], reasons, summary, kind)


def _numbers(database: str, raw: pd.Series) -> pd.Series:
    values = pd.to_numeric(raw, errors="coerce").astype(np.float64)
    wrong = values.isna() | values.isin((np.inf, -np.inf))
    if wrong.any():
        raise DataError(
            f"{database}: expected a number of pixels in the column \"{raw.name}\" of '{BOXES}'; found "
            f"'{raw[wrong].iloc[0]}' (rows {layout.rows_of(wrong)}). Correct these cells."
        )
    return values


def _with_sizes(root: Path, pixels: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return the boxes with the width and height of their files, without those of files that do not open."""
    sizes = {name: _size(root / name) for name in pixels["image_id"].unique()}
    opened = pixels["image_id"].map(lambda name: sizes[name] is not None).astype(bool)
    reasons = (
        f'the size of \'{name}\' cannot be read; the box is left out. Add the columns "width" and "height"'
        for name in pixels["image_id"][~opened]
    )
    summary, kind = "boxes are on images of unreadable size", "box on an image of unreadable size"
    problems = layout.listed(BOXES, pixels.index[~opened], reasons, summary, kind)
    pixels = pixels[opened].copy()
    found = np.array([sizes[name] for name in pixels["image_id"]], dtype=np.float64).reshape(-1, 2)
    pixels["width"], pixels["height"] = found[:, 0], found[:, 1]
    return pixels, problems


def _size(path: Path) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            return image.size
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None
