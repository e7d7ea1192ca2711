"""What the two tables of BrixIA have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hilum.databases import layout

NAME = "brixia"
REGIONS = ("A", "B", "C", "D", "E", "F")
"""A, B, C from top to bottom at the patient's right lung, D, E, F at the left."""


def find_table(root: Path, names: tuple[str, ...], source: str) -> Path:
    """Return the first of the files in ``root`` or ``root/data``; raises ``DataError`` that names ``source``."""
    for place in (root, root / "data"):
        for name in names:
            if file := layout.find_file(place, name):
                return file
    return layout.require_file(NAME, root, *names, source=source)


def region_scores(regions: pd.DataFrame, total: pd.Series, who: str = "score") -> pd.DataFrame:
    """Return ``score_A`` … ``score_F`` and ``score_global`` as numbers, NaN where blank or not 0 to 3 and 0 to 18."""
    names = [f"{who}_{region}" for region in REGIONS]
    table = regions.set_axis(names, axis=1).assign(**{f"{who}_global": total})
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    highest = pd.Series([3.0] * 6 + [18.0], index=numbers.columns)
    return numbers.where(numbers.ge(0) & numbers.le(highest, axis=1))
