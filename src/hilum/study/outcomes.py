"""What a run says of held-out patients, read from its directory: scores, labels, maps, boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hilum.errors import RunError
from hilum.study.archive import WRITES_IT, read_maps, writes_both
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.kept import FILM, read_rows, read_whole, require_films
from hilum.study.predictions import Part
from hilum.study.spec import Study


@dataclass(frozen=True)
class Scores:
    """Probabilities (S, N, C) of S seeds, and labels (N, C): NaN where unknown or where the model was never taught.

    ``patients`` (N,) are numbers of the site, ``ids`` (N,) image ids.
    """

    scores: NDArray[np.float64]
    targets: NDArray[np.float64]
    patients: NDArray[np.int64]
    ids: NDArray[Any]

    @cached_property
    def taught(self) -> NDArray[np.bool_]:
        """Which findings (C,) the models have a probability of."""
        return np.asarray(~np.isnan(self.scores).all((0, 1)))

    def of(self, columns: Sequence[int]) -> Scores:
        """Return the findings at ``columns`` alone."""
        return Scores(self.scores[:, :, columns], self.targets[:, columns], self.patients, self.ids)


@dataclass(frozen=True)
class Maps:
    """Maps (S, n, C, H, W) in [0, 1] of S seeds, of the images ``ids`` (n,)."""

    maps: NDArray[np.float32]
    ids: NDArray[np.str_]

    def chosen(self, ids: NDArray[Any]) -> NDArray[np.float32]:
        """Return the maps of images, in their order."""
        row = {image: k for k, image in enumerate(self.ids.tolist())}
        return self.maps[:, [row[image] for image in ids.tolist()]]


@dataclass(frozen=True)
class Localized:
    """Images of a site that have maps, under the C findings that it has boxes of and that the models were taught.

    ``maps`` (S, n, C, H, W); ``boxes`` finding → boxes of each image; ``scores`` (S, n, C) and ``targets`` (n, C) as
    in ``Scores``; ``patients`` and ``ids`` (n,); ``every`` (S, n, A, H, W): the maps of all findings taught, of which
    ``columns`` (C,) are those of ``maps``.
    """

    boxes: dict[str, list[NDArray[np.float64]]]
    scores: NDArray[np.float64]
    targets: NDArray[np.float64]
    patients: NDArray[np.int64]
    ids: NDArray[Any]
    every: NDArray[np.float32]
    columns: list[int]

    @property
    def maps(self) -> NDArray[np.float32]:
        """Maps of the findings with boxes, a copy."""
        return self.every[:, :, self.columns]

    def maps_of(self, finding: str) -> NDArray[np.float32]:
        """Return the maps (S, n, H, W) of one of the findings with boxes, a view."""
        return self.every[:, :, self.columns[[*self.boxes].index(finding)]]

    def with_boxes(self) -> Localized:
        """Return the images that have a box of any of the findings."""
        rows = np.flatnonzero([any(len(b) for b in image) for image in zip(*self.boxes.values(), strict=True)])
        return Localized(
            {finding: [boxes[k] for k in rows] for finding, boxes in self.boxes.items()},
            self.scores[:, rows],
            self.targets[rows],
            self.patients[rows],
            self.ids[rows],
            self.every[:, rows],
            self.columns,
        )


@dataclass(frozen=True)
class Erased:
    """Test films of a site with erased parts: log-odds (S, n, C) of S seeds, NaN where the models were never taught.

    ``ids``, ``patients``, ``erased`` and ``boxes`` (n,): the film, what is erased of it, and whose lesions where that
    matters; ``targets`` (n, C) of the whole film.
    """

    odds: NDArray[np.float64]
    targets: NDArray[np.float64]
    patients: NDArray[np.int64]
    ids: NDArray[Any]
    erased: NDArray[Any]
    boxes: NDArray[Any]

    def rows(self, erased: str, boxes: str) -> NDArray[np.intp]:
        """Return the films of which that is erased, in one order for all parts."""
        return np.flatnonzero((self.erased == erased) & (self.boxes == boxes))


class Outcomes:
    """A run's predictions; tables are read once."""

    def __init__(self, study: Study, run: RunDirectory) -> None:
        self.study, self.run = study, run
        self.roles = run.roles()
        self._tables: dict[Any, pd.DataFrame] = {}
        self._scores: dict[Any, Scores] = {}

    @cached_property
    def sites(self) -> list[str]:
        """Sites with test patients, in the order of the study."""
        return [name for name in self.roles if len(self.table("labels", name))]

    @property
    def training(self) -> list[str]:
        """Those of ``sites`` that train."""
        return [name for name in self.sites if self.roles[name] == "training"]

    def table(self, kind: str, site: str, part: Part = "test") -> pd.DataFrame:
        """Return labels or boxes of a site; raises ``RunError`` where the run keeps none, or damaged ones."""
        path = self._of(part).table(kind, site)
        return self._labels(path, site, part) if kind == "labels" else self._read(path)

    def holds(self, keys: Sequence[ModelKey], site: str, part: Part) -> bool:
        """Tell whether the run keeps what all the models say of a site's patients."""
        return all(self._of(part).predictions(key, site).is_file() for key in keys)

    def scores(self, keys: Sequence[ModelKey], site: str, part: Part = "test") -> Scores:
        """Return what the models of one arm, a seed each, say of a site's patients; raises ``RunError``."""
        asked = (tuple(keys), site, part)
        if asked not in self._scores:
            names = self.study.findings
            labels = self.table("labels", site, part)
            targets = labels[names].to_numpy(np.float64)
            paths = [self._of(part).predictions(key, site) for key in keys]
            tables = [self._read(path, labels[["image_id"]]) for path in paths]
            scores = np.stack([table[names].to_numpy(np.float64) for table in tables])
            taught = ~np.isnan(scores).all((0, 1))
            known = np.where(taught & ((targets == 0) | (targets == 1)), targets, np.nan)
            patients = labels["patient"].to_numpy(np.int64)
            self._scores[asked] = Scores(scores, known, patients, labels["image_id"].to_numpy())
        return self._scores[asked]

    def localized(self, keys: Sequence[ModelKey], site: str, part: Part = "test") -> Localized | None:
        """Return the images that the run keeps maps of; None where it keeps none or has no box of a finding taught."""
        of = self._of(part)
        found = _stacked({of.maps(key, site): writes_both(of.predictions(key, site)) for key in keys})
        if found is None:
            return None
        said = self.scores(keys, site, part)
        table = self.table("boxes", site, part)
        taught = [f for f, known in zip(self.study.findings, said.taught, strict=True) if known]
        names = [f for f in taught if f in set(table["finding"])]
        row = {image: k for k, image in enumerate(said.ids)}
        rows, columns = [row[image] for image in found.ids], [self.study.findings.index(f) for f in names]
        every = found.maps[:, :, [self.study.findings.index(f) for f in taught]]
        return (
            Localized(
                {f: _boxes_of(table, f, found.ids) for f in names},
                said.scores[:, rows][:, :, columns],
                said.targets[rows][:, columns],
                said.patients[rows],
                found.ids,
                every,
                [taught.index(f) for f in names],
            )
            if names
            else None
        )

    def shuffled(self, keys: Sequence[ModelKey], site: str) -> Maps | None:
        """Return maps of the same models with shuffled weights; None where the run keeps none."""
        return _stacked({self.run.shuffled(key, site): WRITES_IT for key in keys})

    def erased(self, keys: Sequence[ModelKey], site: str) -> Erased | None:
        """Return what the same models say of films with erased parts; None where the run keeps none."""
        paths = [self.run.erased(key, site) for key in keys]
        if not all(path.is_file() for path in paths):
            return None
        tables, said = [self._read(path) for path in paths], self.scores(keys, site)
        films = max(tables, key=len).reindex(columns=FILM)
        films = films[films["image_id"].isin(said.ids)]
        for path, table in zip(paths, tables, strict=True):
            require_films(path, table, films, self.study.findings)
        head = tables[0]
        row = {image: k for k, image in enumerate(said.ids)}
        return Erased(
            np.stack([table[self.study.findings].to_numpy(np.float64) for table in tables]),
            said.targets[[row[image] for image in head["image_id"]]],
            head["patient"].to_numpy(np.int64),
            head["image_id"].to_numpy(),
            head["erased"].to_numpy(),
            head["boxes"].astype(object).fillna("").to_numpy(),
        )

    def _of(self, part: Part) -> RunDirectory:
        return self.run if part == "test" else self.run.validation

    def _labels(self, path: Path, site: str, part: Part) -> pd.DataFrame:
        if path in self._tables or not path.is_file():
            return self._read(path)
        splits = self._read(self.run.table("splits", site))
        rows = splits.loc[splits["split"] == part, ["image_id", "patient"]]
        self._tables[path] = read_rows(path, rows, self.study.findings, self._resume("it writes it anew"))
        return self._tables[path]

    def _read(self, path: Path, rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return a table, with ``rows`` one that has a number of every finding for each of them."""
        if path not in self._tables:
            if not path.is_file():
                raise RunError(f"Expected {path}; there is none. {self._resume('it writes what is missing')}")
            self._tables[path] = read_whole(path) if rows is None else read_rows(path, rows, self.study.findings)
        return self._tables[path]

    def _resume(self, why: str) -> str:
        return f"Run 'hilum study {self.run.study} --out {self.run.root} --resume': {why}."


def _boxes_of(table: pd.DataFrame, finding: str, ids: NDArray[np.str_]) -> list[NDArray[np.float64]]:
    chosen = table[table["finding"] == finding]
    grouped = {str(i): g[["x0", "y0", "x1", "y1"]].to_numpy(np.float64) for i, g in chosen.groupby("image_id")}
    return [grouped.get(str(i), np.empty((0, 4))) for i in ids]


def _stacked(advice: Mapping[Path, str]) -> Maps | None:
    """Return the maps of files, each with what to do where it is damaged."""
    if not advice or not all(path.is_file() for path in advice):
        return None
    parts = []
    for path, remedy in advice.items():
        stored = read_maps(path, remedy)
        parts.append(Maps(stored["maps"].astype(np.float32)[None], stored["image_id"]))
    ids = parts[0].ids
    for part in parts[1:]:  # an older hilum kept shuffled maps of fewer images, and a run may be of both
        ids = ids[np.isin(ids, part.ids)]
    return Maps(np.concatenate([part.chosen(ids) for part in parts]), ids)
