"""What only the headers of DICOM files tell."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from hilum.databases.dicom_elements import DICOM_HEAD, is_dicom
from hilum.databases.dicom_tags import Header, named_view, read_header
from hilum.errors import ImageError

THREADS = 8


def view_positions(paths: Sequence[Path]) -> list[str | float]:
    """Return 'PA', 'AP', 'LATERAL' or NaN for every file, from its View Position (0018,5101).

    NaN where the file is absent, is not DICOM or does not say; pixels are not read.
    """
    return list(views_of(header_texts(paths, ["ViewPosition"])["ViewPosition"]))


def header_texts(paths: Sequence[Path], keywords: Sequence[str]) -> pd.DataFrame:
    """Return one row a file with the text of every keyword in capitals: '51' for an age is not refused.

    NaN where the file is absent, is not DICOM or does not say; pixels are not read.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda path: _texts(path, keywords), paths))
    return pd.DataFrame(rows, columns=list(keywords), dtype=object)


def views_of(positions: pd.Series) -> pd.Series:
    """Return 'PA', 'AP', 'LATERAL' or NaN from texts of the View Position."""
    return positions.astype(object).str.strip().str.upper().map(named_view, na_action="ignore").astype(object)


def header_of(path: Path) -> Header | None:
    """Return the header of a file, None where it is absent, is not DICOM or is damaged."""
    try:
        with path.open("rb") as file:
            return read_header(file) if is_dicom(file.read(DICOM_HEAD)) else None
    except (OSError, ImageError, struct.error):
        return None


def _texts(path: Path, keywords: Sequence[str]) -> list[str | float]:
    header = header_of(path)
    return [math.nan if header is None else header.text(keyword) or math.nan for keyword in keywords]
