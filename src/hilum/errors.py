"""The errors hilum raises on purpose. Each says what was expected, what was found and what to do.

HilumError
├── StudyError      a study file, or the sites that it names
├── DataError       a database: a label file, a column, a split
│   └── ImageError  one radiograph
├── TrainingError   a loss or an update that is not finite
├── RunError        a run directory: absent, incomplete, of another study
├── UnknownName     a name that a registry does not hold
└── MissingExtra    an optional dependency
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HilumError(Exception):
    """Base of every error that the command line prints without a traceback."""


class StudyError(HilumError):
    """A study file that cannot be run as written."""


class DataError(HilumError):
    """A database that is not in its official layout, or labels that cannot be used."""


class ImageError(DataError):
    """A radiograph that cannot be read."""


class TrainingError(HilumError):
    """Training that produced a loss or an update that is not finite."""


class RunError(HilumError):
    """A run directory that is absent, incomplete or of another study."""


class UnknownName(HilumError, KeyError):
    """A name that is not in a registry, with the nearest names that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        super().__init__(f"Expected a {kind} among {', '.join(known)}; found '{name}'.{hint}")

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtra(HilumError):
    """An optional dependency that is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(f"This needs the package '{package}', which is not installed: pip install 'hilum[{extra}]'.")
