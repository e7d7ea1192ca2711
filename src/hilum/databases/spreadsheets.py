"""Spreadsheets (.xlsx, .xls): their first sheet as the text of a CSV, which is read as any other table is."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from hilum.errors import DataError

SHEETS = (".xlsx", ".xls")


def sheet_as_csv(database: str, path: Path) -> str:
    """Return the first sheet of a spreadsheet as CSV, whole numbers without '.0'.

    Raises ``DataError`` where the package that reads it is not installed or the file is damaged.
    """
    name, read = {".xlsx": ("openpyxl", _xlsx), ".xls": ("xlrd", _xls)}[path.suffix.lower()]
    try:
        package: Any = import_module(name)
    except ImportError:
        raise DataError(
            f"{database}: expected the package '{name}' to read the spreadsheet '{path.name}'; it is not installed. "
            "Install hilum[spreadsheets], or save the sheet beside it as CSV, in UTF-8 and separated by commas."
        ) from None
    try:
        rows = [[_text(cell) for cell in row] for row in read(package, path)]
    except Exception as error:  # damaged files raise whatever their readers stumble over
        raise DataError(
            f"{database}: expected a spreadsheet in '{path.name}'; found one that cannot be read "
            f"({type(error).__name__}). Download it again, or save it as CSV."
        ) from None
    width = max((len(row) for row in rows), default=0)
    content = io.StringIO()
    csv.writer(content).writerows([*row, *[""] * (width - len(row))] for row in rows)
    return content.getvalue()


def _xlsx(openpyxl: Any, path: Path) -> Iterable[Iterable[Any]]:
    with warnings.catch_warnings(action="ignore"):
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # a size that the file states too small would cut rows off
            return list(sheet.iter_rows(values_only=True))
        finally:
            book.close()


def _xls(xlrd: Any, path: Path) -> Iterable[Iterable[Any]]:
    with Path(os.devnull).open("w") as log:
        sheet = xlrd.open_workbook(path, logfile=log).sheet_by_index(0)
    errors = xlrd.error_text_from_code
    return [
        [errors.get(cell.value) if cell.ctype == xlrd.XL_CELL_ERROR else cell.value for cell in row]
        for row in sheet.get_rows()
    ]


def _text(cell: Any) -> str:
    if isinstance(cell, bool) or (isinstance(cell, float) and cell.is_integer()):
        return str(int(cell))
    return "" if cell is None else str(cell)
