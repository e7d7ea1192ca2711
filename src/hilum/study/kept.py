"""Predictions that a stopped run left: sound, or named before figures are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hilum.errors import RunError
from hilum.study.archive import WRITES_IT, read_maps, writes_both
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.erasures import chosen_films, describe_films
from hilum.study.predictions import HeldOut, read_table
from hilum.study.spec import Study

FILM = ["image_id", "erased", "boxes"]


def require_sound(study: Study, key: ModelKey, held: HeldOut, run: RunDirectory) -> None:
    """Raise ``RunError`` where a model's predictions on held-out patients, or what goes with them, are damaged.

    What goes with them: maps, also of shuffled weights, and log-odds of films with erased parts.
    """
    _require_erased(study, key, held, run)
    table, shuffled = run.predictions(key, held.site.name), run.shuffled(key, held.site.name)
    if shuffled.is_file():
        read_maps(shuffled, WRITES_IT)
    if not table.is_file():
        return
    read_rows(table, pd.DataFrame({"image_id": held.image_ids}), study.findings)
    if len(held.mapped):
        read_maps(run.maps(key, held.site.name), writes_both(table))


def read_rows(path: Path, rows: pd.DataFrame, findings: Sequence[str], advice: str = WRITES_IT) -> pd.DataFrame:
    """Return a table of probabilities or labels; raises ``RunError`` where it is not of these rows, in their order.

    ``rows``: the columns that tell whose a row is.
    """
    table = read_whole(path)
    try:
        values = table[list(findings)].to_numpy(np.float64)
        listed, asked = table[list(rows)].to_numpy().tolist(), rows.to_numpy().tolist()
    except (ValueError, KeyError):
        found = "other columns"
    else:
        if len(listed) != len(asked):
            found = f"{len(listed)} rows"
        elif listed != asked:
            found = "rows of others, or in another order"
        elif not (np.isnan(values) | ((values >= 0) & (values <= 1))).all():
            found = "other values"
        else:
            return table
    raise RunError(
        f"Expected in {path} a row for each of {len(rows)} images, with a number in [0, 1] or a blank for every "
        f"finding; found {found}: the file is damaged. {advice}"
    )


def read_whole(path: Path) -> pd.DataFrame:
    """Return a table; raises ``RunError`` where the file is none."""
    try:
        return read_table(path)
    except ValueError:
        raise RunError(f"Expected a table in {path}; the file is damaged. {WRITES_IT}") from None


def require_films(path: Path, table: pd.DataFrame, films: pd.DataFrame, findings: Sequence[str]) -> None:
    """Raise ``RunError`` where a table is not the log-odds of films with erased parts."""
    try:
        odds = table[list(findings)].to_numpy(np.float64)
        listed, asked = (t[FILM].astype(object).fillna("").to_numpy().tolist() for t in (table, films))
        if listed == asked and not np.isinf(odds).any():
            return
    except (ValueError, KeyError):
        pass
    raise RunError(
        f"Expected log-odds of the films with erased parts in {path}; the file is damaged, or an older hilum chose "
        f"other films (as in all of this run's erased/). {WRITES_IT}"
    )


def _require_erased(study: Study, key: ModelKey, held: HeldOut, run: RunDirectory) -> None:
    path = run.erased(key, held.site.name)
    if path.is_file():
        films = describe_films(held.site, chosen_films(key, held, study.evaluation.erased))
        require_films(path, read_whole(path), films, study.findings)
