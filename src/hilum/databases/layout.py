"""Reading a database's files as they lie on disk, with errors that say what to correct."""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.databases.manifest import ABSENT, BOX_COLUMNS, IMAGE_COLUMNS, Problem, printable
from hilum.databases.spreadsheets import SHEETS, sheet_as_csv
from hilum.errors import DataError

SINGLE_PROBLEMS = 20
OLDEST_YEARS = 120
CORNERS = ("x0", "y0", "x1", "y1")
_NUMBERS = ("age_years", "sex_male")
_OUTSIDE = r"^(?:/|[A-Za-z]:)|(?:^|/)\.\.(?:/|$)"  # a path that leads out of the folder it is relative to


def require_file(database: str, root: Path, *names: str, source: str = "") -> Path:
    """Return the first of ``names`` under ``root``, as it is, as .gz or as .zip.

    Raises ``DataError`` if none is there; ``source``: where the file comes from, for the message.
    """
    if not root.is_dir():
        raise DataError(f"{database}: expected a folder at '{root}'; found none. Correct the path of the site.")
    for name in names:
        if path := find_file(root, name):
            return path
    found = ", ".join(printable(name) for name in sorted(entry.name for entry in os.scandir(root))[:8]) or "nothing"
    expected = " or ".join(f"'{name}'" for name in names)
    raise DataError(
        f"{database}: expected the file {expected} in '{root}'; found {found}. "
        f"Point the site at the folder that holds it.{f' It is given at {source}.' if source else ''}"
    )


def absent_file(name: str, consequence: str, source: str) -> Problem:
    """Return the problem of an official file that is not there: what follows from it, and where it comes from."""
    return Problem(name, f"absent: {consequence}; it is given at {source}", "official file not on disk")


def read_names(database: str, path: Path) -> list[str]:
    """Return the words of a text file, as lists of image names are; raises ``DataError`` where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").split()
    except UnicodeDecodeError:
        raise DataError(
            f"{database}: expected a list of names in UTF-8 in '{path.name}'; found another encoding. "
            "Download it again."
        ) from None


def find_file(root: Path, name: str) -> Path | None:
    """Return ``root/name``, or the same compressed to .gz or .zip, or None where there is neither."""
    return next((p for p in (root / f"{name}{end}" for end in ("", ".gz", ".zip")) if p.is_file()), None)


def read_table(database: str, path: Path, columns: Iterable[str], separator: str = ",") -> pd.DataFrame:
    """Read a CSV (also .gz, .zip) or spreadsheet as text; the index is the row in the file, where the header is row 1.

    Blank cells are NaN. Raises ``DataError`` for a missing column (with the nearest one found), a file
    that is not UTF-8, not separated by ``separator``, ragged or empty.
    """
    sheet = sheet_as_csv(database, path) if path.suffix.lower() in SHEETS else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path if sheet is None else StringIO(sheet),
                sep=separator,
                dtype=str,
                encoding="utf-8-sig",
                index_col=False,
                skip_blank_lines=False,
                skipinitialspace=True,
            )
    except UnicodeDecodeError:
        raise DataError(
            f"{database}: expected '{path.name}' in UTF-8; found another encoding. Save it as UTF-8."
        ) from None
    except (OSError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(
            f"{database}: expected to read '{path.name}'; found that it is damaged or not readable ({error}). "
            "Download it again."
        ) from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{database}: expected a header in '{path.name}'; found an empty file.") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{database}: expected as many cells in every row of '{path.name}' as in its header ({reason}). "
            "Quote the cells that hold commas."
        ) from None
    _refuse_repeated(database, path.name, path if sheet is None else StringIO(sheet), separator)
    table.columns = table.columns.str.strip()
    _require_columns(database, path.name, list(table.columns), columns)
    table.index = pd.RangeIndex(2, 2 + len(table))
    return table.dropna(how="all")


def _refuse_repeated(database: str, file: str, source: Path | StringIO, separator: str) -> None:
    """pandas would rename the second of two columns of one name."""
    row = pd.read_csv(
        source, sep=separator, dtype=str, header=None, nrows=1, encoding="utf-8-sig", skipinitialspace=True
    )
    header = [str(name).strip() for name in row.iloc[0].dropna()]
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(
            f"{database}: expected every column of '{file}' once; found {', '.join(repeated)} more than once. "
            "Keep one of each."
        )


def _require_columns(database: str, file: str, found: list[str], expected: Iterable[str]) -> None:
    expected = list(expected)
    folded = {name.casefold(): name for name in found if name not in expected}
    for column in expected:
        if column in found:
            continue
        if len(found) == 1 and (";" in found[0] or "\t" in found[0]):
            raise DataError(
                f"{database}: expected '{file}' to be separated by commas; found '{found[0]}'. Save it with commas."
            )
        near = [n for n in folded if column in n] or get_close_matches(column.casefold(), folded, n=1, cutoff=0.6)
        hint = f'found "{folded[near[0]]}"; rename it' if near else f"found {', '.join(found)}"
        raise DataError(f"{database}: Expected a column \"{column}\" in '{file}'; {hint}.")


def require_either(database: str, file: str, table: pd.DataFrame, *columns: str) -> str:
    """Return the first of ``columns`` that the table has; raises ``DataError`` as for a missing column."""
    present = [column for column in columns if column in table]
    if not present:
        _require_columns(database, file, list(table.columns), columns[:1])
    return present[0]


def coded(
    source: str, raw: pd.Series, codes: Mapping[str, object], what: str, blank: Iterable[str] = ("",)
) -> tuple[pd.Series, list[Problem]]:
    """Return what the codes of a column mean, NaN for those that are not known; each of these is a problem.

    ``blank``: codes that say nothing, without being a problem.
    """
    text = raw.astype(object).where(raw.notna(), "").astype(str).str.strip()
    wrong = ~text.isin([*codes, *blank])
    reasons = (f"expected {what} as {', '.join(codes)}; found '{code}'; it is unknown" for code in text[wrong])
    problems = listed(source, raw.index[wrong], reasons, f"codes of {what} are not known", f"{what} not recognized")
    return text.map(dict(codes)), problems


def list_names(folder: Path) -> list[str]:
    """Return the sorted names in ``folder`` (none if it is absent), read in one pass."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def on_disk(root: Path, paths: Sequence[str]) -> NDArray[np.bool_]:
    """Return which ``paths`` (relative to ``root``, with '/') exist under it, listing every folder once."""
    parts = [("", "", "") if re.search(_OUTSIDE, path) else path.rpartition("/") for path in paths]
    names = {folder: set(list_names(root / folder)) for folder in {part[0] for part in parts}}
    return np.fromiter((name in names[folder] for folder, _, name in parts), dtype=bool, count=len(parts))


def require_values(database: str, file: str, table: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise ``DataError`` with the rows in which a cell of ``columns`` is blank."""
    for column in columns:
        blank = table[column].fillna("").str.strip() == ""
        if blank.any():
            raise DataError(
                f"{database}: expected a value of \"{column}\" in every row of '{file}'; found none in "
                f"the rows {rows_of(blank)}. Fill in or remove them."
            )


def refuse_repeated_images(database: str, file: str, images: pd.Series) -> None:
    """Raise ``DataError`` with the rows of images that are listed more than once."""
    repeated = images.duplicated(keep=False)
    if repeated.any():
        raise DataError(
            f"{database}: expected one row an image in '{file}'; found repeated images in the rows "
            f"{rows_of(repeated)}. Keep one row an image."
        )


def raw_labels(database: str, file: str, raw: pd.Series) -> pd.Series:
    """Return a column of labels as 1, 0, -1 (uncertain) or NaN (blank); raises ``DataError`` for another cell."""
    values = pd.to_numeric(raw, errors="coerce").astype(np.float64)
    wrong = raw.notna() & ~values.isin((1.0, 0.0, -1.0)) & (raw.fillna("").str.strip() != "")
    if wrong.any():
        raise DataError(
            f'{database}: expected 1, 0, -1 (uncertain) or blank (unknown) in the column "{raw.name}" of '
            f"'{file}'; found '{raw[wrong].iloc[0]}' (rows {rows_of(wrong)}). Correct these cells."
        )
    return values


def rows_of(which: pd.Series) -> str:
    """Return the first rows in which a boolean column holds, for an error."""
    rows = [str(row) for row in which.index[which]]
    return ", ".join(rows[:5]) + (", …" if len(rows) > 5 else "")


def relative_paths(database: str, file: str, names: pd.Series) -> pd.Series:
    """Return paths with '/'; raises ``DataError`` for one that leads out of the root."""
    paths = names.str.strip().str.replace("\\", "/", regex=False).str.replace(r"^(\./)+", "", regex=True)
    outside = paths.str.contains(_OUTSIDE, regex=True)
    if outside.any():
        raise DataError(
            f"{database}: expected paths relative to the root in '{file}'; found paths that lead out of it "
            f"in the rows {rows_of(outside)}. Write them relative to the folder of '{file}'."
        )
    return paths


def listed(source: str, rows: Iterable[object], reasons: Iterable[str], summary: str, kind: str) -> list[Problem]:
    """Return one problem a row, at most twenty, after a count of them all where there are several.

    ``kind`` is a constant: no file name, no cell.
    """
    rows = list(rows)
    several = len(rows) > 1
    first = zip(rows[:SINGLE_PROBLEMS], reasons, strict=False)
    single = [Problem(f"{source} row {row}", reason, kind, 0 if several else 1) for row, reason in first]
    return [Problem(source, f"{len(rows)} {summary}", kind, len(rows)), *single] if several else single


def rows_in(source: str, table: pd.DataFrame) -> tuple[str, ...]:
    """Return where ``source`` lists each row of a table that ``read_table`` read."""
    return tuple(f"{source} row {row}" for row in table.index)


def absent_problems(source: str, names: pd.Series, present: NDArray[np.bool_]) -> list[Problem]:
    """Return the problems of listed images that are not on disk; ``names`` is indexed by row."""
    absent = names[~present]
    reasons = (f"the image '{name}' is not on disk; the row is left out" for name in absent)
    summary = f"of {len(names)} listed images are not on disk; their rows are left out"
    return listed(source, absent.index, reasons, summary, ABSENT)


def listed_images(
    database: str, root: Path, source: str, paths: pd.Series, where: str, labels_only: bool
) -> tuple[NDArray[np.bool_], list[Problem]]:
    """Return which listed images to keep, those on disk or all with ``labels_only``, and the absent as problems.

    paths: relative to ``root``, indexed by row. Raises ``DataError`` as ``require_images`` does.
    """
    if labels_only and len(paths):
        return np.ones(len(paths), bool), []
    present = on_disk(root, list(paths))
    require_images(database, present, root, where)
    return present, absent_problems(source, paths, present)


def require_images(database: str, present: NDArray[np.bool_], root: Path, where: str) -> None:
    """Raise ``DataError`` unless at least one image is on disk."""
    if len(present) == 0:
        raise DataError(f"{database}: expected images in the label file of '{root}'; found only its header.")
    if not present.any():
        raise DataError(
            f"{database}: expected images as {where} in '{root}'; found none of the {len(present)} listed. "
            "Unpack the image archives there."
        )


def image_table(columns: Mapping[str, object]) -> pd.DataFrame:
    """Return the images of a manifest: ``IMAGE_COLUMNS`` in order, NaN where a column is not given."""
    table = pd.DataFrame({name: columns.get(name, np.nan) for name in IMAGE_COLUMNS}).reset_index(drop=True)
    for name in IMAGE_COLUMNS:
        table[name] = table[name].astype(np.float64 if name in _NUMBERS else object)
    return table


def ages_in_years(source: str, raw: pd.Series) -> tuple[pd.Series, list[Problem]]:
    """Return ages such as '58', '058Y', '011M' or '010D' in years.

    An age that is above 120 years or unreadable is NaN, with a problem.
    """
    text = raw.astype(object).where(raw.notna(), "").astype(str).str.strip().str.upper()
    parts = text.str.extract(r"^(\d+(?:\.\d+)?)([YMD]?)$")
    units = parts[1].map({"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25}).fillna(1.0)
    years = pd.to_numeric(parts[0]).astype(np.float64) * units
    wrong = (text != "") & ~(years <= OLDEST_YEARS)
    reasons = (f"expected an age of 0 to {OLDEST_YEARS} years; found '{a}'; it is unknown" for a in text[wrong])
    summary = f"ages are not within 0 to {OLDEST_YEARS} years; they are unknown"
    return years.mask(wrong), listed(source, raw.index[wrong], reasons, summary, "age not plausible")


def relative_boxes(source: str, pixels: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """Return boxes as fractions of their frame, clipped to it.

    ``pixels``: columns image_id, finding, x0, y0, x1, y1, width, height (px of the frame), indexed by row; columns
    reader and row are kept.
    A box that leaves the frame is clipped, and one without area in it is left out; both are problems.
    """
    frame = pixels[["width", "height"] * 2].to_numpy(np.float64)
    corners = pixels[list(CORNERS)].to_numpy(np.float64) / np.where(frame > 0, frame, np.nan)
    clipped = np.clip(corners, 0.0, 1.0)
    area = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]) & np.isfinite(corners).all(axis=1)
    leaves = area & (np.abs(clipped - corners) > 1e-6).any(axis=1)
    table = pixels[["image_id", "finding"]].copy()
    table[list(CORNERS)] = clipped
    further = [name for name in ("reader", "row") if name in pixels]
    table[further] = pixels[further]
    table = table.loc[area, [*BOX_COLUMNS, *further]].reset_index(drop=True)
    without, beyond = "has no area inside the image; it is left out", "leaves the image; it is clipped"
    problems = _box_problems(source, pixels, ~area, without, "box outside its image")
    problems += _box_problems(source, pixels, leaves, beyond, "box that leaves its image")
    return table, problems


def _box_problems(source: str, pixels: pd.DataFrame, which: NDArray[np.bool_], reason: str, kind: str) -> list[Problem]:
    found = pixels[which]
    reasons = (
        f"the box {tuple(float(v) for v in row[:4])} of '{row[4]}' {reason}"
        for row in found[[*CORNERS, "image_id"]].itertuples(index=False)
    )
    return listed(source, found.index, reasons, f"boxes: each {reason}", kind)
