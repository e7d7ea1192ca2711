"""The manifest: what every database becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import DataError
from hilum.findings.vocabulary import ANATOMY, FINDINGS

IMAGE_COLUMNS = (
    *("image_id", "path", "patientid", "studyid", "view", "age_years", "sex_male", "hospital", "official_split"),
    *("origin", "origin_patientid"),
)
VIEWS = ("PA", "AP", "FRONTAL", "LATERAL")
BOX_COLUMNS = ("image_id", "finding", "x0", "y0", "x1", "y1")
MASK_COLUMNS = ("image_id", "finding", "path")
RUN_COLUMNS = ("rle", "width", "height")
ABSENT = "image not on disk"
_BYTE = re.compile("[\udc80-\udcff]")


def printable(name: str) -> str:
    r"""Return the name of a file with bytes that are not UTF-8 written as '\xfc'."""
    return _BYTE.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", name).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Card:
    """What a database is, and on which terms it may be used."""

    name: str
    title: str
    hospital: str
    licence: str
    citation: str
    url: str
    images: int | None
    patients: int | None
    labels: str
    notes: str = ""
    synthetic: bool = False


@dataclass(frozen=True)
class Problem:
    """Something in a database that is not as its layout promises.

    ``where`` and ``reason`` may hold file names and cells, and so the names of patients: only ``data check`` and
    errors print them. ``kind`` is a constant that names the sort of problem and holds no value; ``ABSENT`` is that
    of listed images that are not on disk, whose rows the manifest leaves out. ``count``: how many it stands for,
    0 where another problem has counted it.
    """

    where: str
    reason: str
    kind: str
    count: int = 1

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.reason}")


@dataclass(frozen=True)
class Manifest:
    """Images, raw labels and boxes of one database, checked on construction.

    ``images``: one row an image with ``IMAGE_COLUMNS``; ``image_id`` is unique, ``path`` is relative to
    ``root``, ``studyid`` names the examination, ``view`` is 'PA', 'AP', 'FRONTAL' (PA or AP, not stated which),
    'LATERAL' or NaN (not stated), ``age_years`` in years, ``sex_male`` 1/0/NaN, ``hospital`` names the hospital of
    a database that holds several, ``official_split`` 'train', 'val', 'test' or NaN where the database has no
    patient-disjoint split. ``origin`` and ``origin_patientid`` say which image and patient of another database an
    image is, as 'nih14/00000001_000.png' and 'nih14/1', where that is published; NaN elsewhere.
    ``labels``: same order, one column a finding the database speaks of, raw values 1 / 0 / -1 / NaN.
    ``boxes``: ``BOX_COLUMNS``, corners as fractions [0, 1] of the width and height of the image, whatever
    its stored size, or NaN where only label tables were read and none states the size; optional columns
    ``reader`` (who drew it) and ``row`` (the row of the file: rows of one number are one box).
    ``masks``: ``MASK_COLUMNS``, of a finding or of the anatomy, each as a file (``path``, relative to ``root``) or,
    where ``RUN_COLUMNS`` follow, as ``rle`` (see ``databases.rle``) with ``width`` and ``height`` in px. Boxes and
    masks are for evaluation only.
    ``extra``: same order as ``images``, whatever else the database tells of an image (clinical values, scores,
    votes of the readers); nothing is trained on it. ``facts``: counts that images cannot tell, for people.
    ``rows``: where the label file lists each image, such as 'labels.csv row 7'; empty where no table does.
    Raises ``DataError``.
    """

    database: str
    root: Path
    images: pd.DataFrame
    labels: pd.DataFrame
    boxes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(BOX_COLUMNS)))
    masks: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(MASK_COLUMNS)))
    problems: tuple[Problem, ...] = ()
    rows: tuple[str, ...] = ()
    extra: pd.DataFrame = field(default_factory=pd.DataFrame)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [c for c in IMAGE_COLUMNS if c not in self.images]
        if missing:
            raise DataError(f"{self.database}: expected the columns {IMAGE_COLUMNS}; missing: {missing}.")
        if len(self.images) == 0:
            raise DataError(f"{self.database}: expected images under the given root; found none.")
        repeated = self.images["image_id"].duplicated()
        if repeated.any():
            rows = ", ".join(str(r) for r in np.flatnonzero(repeated)[:5])
            raise DataError(
                f"{self.database}: expected unique image ids; found {int(repeated.sum())} repeated "
                f"(rows {rows}, …). Remove the repeated rows from the label file."
            )
        unknown = [c for c in self.labels if c not in FINDINGS]
        if unknown:
            raise DataError(f"{self.database}: expected findings of the vocabulary; found {unknown}.")
        if len(self.labels) != len(self.images):
            raise DataError(
                f"{self.database}: expected one row of labels an image ({len(self.images)}); found {len(self.labels)}."
            )
        odd = sorted({str(f) for f in self.masks["finding"]} - {*FINDINGS, *ANATOMY})
        if odd:
            raise DataError(f"{self.database}: expected masks of findings or of {', '.join(ANATOMY)}; found {odd}.")
        if len(self.extra.columns) and len(self.extra) != len(self.images):
            raise DataError(
                f"{self.database}: expected one row of extra an image ({len(self.images)}); found {len(self.extra)}."
            )
        values = self.labels.to_numpy(np.float64)
        if not np.isin(values[~np.isnan(values)], (1, 0, -1)).all():
            raise DataError(f"{self.database}: expected raw labels 1, 0, -1 or blank; found other values.")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def known_findings(self) -> list[str]:
        """Findings with at least one label that is not unknown."""
        return [str(c) for c in self.labels if self.labels[c].notna().any()]

    def paths(self) -> list[Path]:
        """Absolute path of every image, in order."""
        return [self.root / p for p in self.images["path"]]

    def places(self) -> list[str]:
        """Return what messages call every image: its row in the label file, or else its number, and its path."""
        rows = self.rows or [f"image {k} of {len(self)}" for k in range(1, len(self) + 1)]
        return [f"{row} ({printable(path)})" for row, path in zip(rows, self.images["path"], strict=True)]

    def problem_counts(self) -> dict[str, int]:
        """Return kind of problem → how many there are: all that may leave the place where the images are."""
        counts: dict[str, int] = {}
        for problem in self.problems:
            counts[problem.kind] = counts.get(problem.kind, 0) + problem.count
        return counts

    def counts(self) -> dict[str, Any]:
        """Return images, patients, studies, views, boxes, masks, counts per finding and problems, ready for JSON.

        A box is a place of an image: one that is given for two findings counts once, unless rows of the file tell
        them apart. ``prevalence`` is the share of positives among all images.
        """
        place = ["image_id", "row"] if "row" in self.boxes else ["image_id", "x0", "y0", "x1", "y1"]
        findings = {
            str(name): {
                "positive": int((column == 1).sum()),
                "negative": int((column == 0).sum()),
                "uncertain": int((column == -1).sum()),
                "unknown": int(column.isna().sum()),
            }
            for name, column in self.labels.items()
        }
        return {
            "images": len(self.images),
            "patients": int(self.images["patientid"].nunique()),
            "studies": int(self.images["studyid"].nunique()),
            "views": {str(k): int(n) for k, n in self.images["view"].fillna("unknown").value_counts().items()},
            "boxes": len(self.boxes.drop_duplicates(place)),
            "masks": len(self.masks),
            "findings": findings,
            "prevalence": self._prevalence(np.ones(len(self), bool)),
            "frontal": self._frontal(),
            "facts": dict(self.facts),
            "problems": [str(p) for p in self.problems],
        }

    def _frontal(self) -> dict[str, Any]:
        """Return images, patients and prevalence of what is known to be frontal."""
        frontal = self.images["view"].isin(("PA", "AP", "FRONTAL")).to_numpy()
        patients = int(self.images["patientid"][frontal].nunique())
        return {"images": int(frontal.sum()), "patients": patients, "prevalence": self._prevalence(frontal)}

    def _prevalence(self, which: NDArray[np.bool_]) -> dict[str, float]:
        """Return finding → positives / images among some of the images."""
        labels = self.labels[which]
        return {str(name): float((column == 1).mean()) if len(column) else 0.0 for name, column in labels.items()}


class Database(Protocol):
    """A database in its official layout: a stateless adapter class.

    One that reads several layouts has ``replicas``, layout → what writes a replica in it; the first is that of
    ``write_replica``.
    """

    card: Card

    @classmethod
    def read(cls, root: Path, *, labels_only: bool = False) -> Manifest:
        """Read the label files under ``root``; raises ``DataError`` for a missing file or column.

        ``labels_only``: keep every image that is listed, whether it is on disk or not. Further keywords with a
        default are options of the database, which a study file may set.
        """

    @classmethod
    def write_replica(cls, root: Path) -> None:
        """Write a tiny copy of the official layout with made-up images, for tests."""
