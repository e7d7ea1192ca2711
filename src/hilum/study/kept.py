"""Predictions that a stopped run left: sound, or named before figures are made of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import RunError
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.erasures import chosen_films, describe_films
from hilum.study.predictions import HeldOut, read_table
from hilum.study.spec import Study


def require_sound(study: Study, key: ModelKey, held: HeldOut, run: RunDirectory) -> None:
    """Raise ``RunError`` where a model's predictions on held-out patients, or what goes with them, are damaged.

    What goes with them: maps, and log-odds of films with erased parts.
    """
    _require_erased(study, key, held, run)
    table, maps = run.predictions(key, held.site.name), run.maps(key, held.site.name)
    if not table.is_file():
        return
    if not _is_table(table, held.image_ids, study.findings):
        raise RunError(
            f"Expected one row of probabilities for each of {len(held.rows)} images in {table}; "
            "the file is damaged. Remove it and run the study again with --resume."
        )
    if len(held.mapped) and not _is_archive(maps):
        raise RunError(
            f"Expected the maps {maps}; the file is absent or damaged. Remove {table} and run the study again with "
            "--resume: it writes both."
        )


def _require_erased(study: Study, key: ModelKey, held: HeldOut, run: RunDirectory) -> None:
    path = run.erased(key, held.site.name)
    if not path.is_file():
        return
    films = describe_films(held.site, chosen_films(key, held, study.evaluation.erased))
    if not _is_erased(path, films, study.findings):
        raise RunError(
            f"Expected log-odds of the films with erased parts in {path}; the file is damaged, or an older hilum chose "
            f"other films (as in all of {run.root / 'erased'}). Remove it and run the study again with --resume."
        )


def _is_erased(path: Path, films: pd.DataFrame, findings: Sequence[str]) -> bool:
    try:
        table = read_table(path)
        odds = table[list(findings)].to_numpy(np.float64)
        listed = table[["image_id", "erased", "boxes"]].astype(object).fillna("")
    except (ValueError, KeyError):
        return False
    same = listed.to_numpy().tolist() == films[["image_id", "erased", "boxes"]].to_numpy().tolist()
    return same and not bool(np.isinf(odds).any())


def _is_table(path: Path, ids: NDArray[Any], findings: Sequence[str]) -> bool:
    try:
        table = read_table(path)
        scores = table[list(findings)].to_numpy(np.float64)
    except (ValueError, KeyError):
        return False
    listed = table["image_id"].to_list() if "image_id" in table else []
    between = np.isnan(scores) | ((scores >= 0) & (scores <= 1))
    return listed == ids.tolist() and bool(between.all())


def _is_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None and {f"{n}.npy" for n in ("image_id", "maps")} <= set(archive.namelist())
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError):
        return False
