"""What only the headers of DICOM files tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

THREADS = 8
_VIEWS = {"PA": "PA", "AP": "AP", "LL": "LATERAL", "RL": "LATERAL", "LATERAL": "LATERAL"}


def view_positions(paths: Sequence[Path]) -> list[str | float]:
    """Return 'PA', 'AP', 'LATERAL' or NaN for every file, from its View Position (0018,5101).

    NaN where the file is absent, is not DICOM or does not say; pixels are not read.
    """
    return list(views_of(header_texts(paths, ["ViewPosition"])["ViewPosition"]))


def header_texts(paths: Sequence[Path], keywords: Sequence[str]) -> pd.DataFrame:
    """Return one row a file with the text of every keyword, as written: '51' for an age is not refused.

    NaN where the file is absent, is not DICOM or does not say; pixels are not read.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(lambda path: _texts(path, keywords), paths))
    return pd.DataFrame(rows, columns=list(keywords), dtype=object)


def views_of(positions: pd.Series) -> pd.Series:
    """Return 'PA', 'AP', 'LATERAL' or NaN from texts of the View Position."""
    return positions.astype(object).str.strip().str.upper().map(_VIEWS).astype(object)


def _texts(path: Path, keywords: Sequence[str]) -> list[str | float]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
    except (OSError, InvalidDicomError):
        return [math.nan] * len(keywords)
    values = [header.get_item(keyword).value if keyword in header else None for keyword in keywords]
    texts = [value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "") for value in values]
    return [text.strip(" \0") or math.nan for text in texts]
