"""The run directory as typed values: the only thing the report knows of a study."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hilum.errors import RunError
from hilum.study.archive import WRITES_IT, read_maps, writes_both

SCHEMA = 1
REQUIRED = ("run.json", "study.yaml", "sites.json", "metrics.json")
MACRO = "macro"
ALL_SEEDS = "all"

T = TypeVar("T")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RunFacts:
    """``run.json``: what ran, with which seeds, arms, findings, model and packages."""

    hilum: str
    study: str
    started: str
    data: str
    seeds: list[int]
    arms: list[str]
    findings: list[str]
    input_size: int
    updates: Mapping[str, Any]
    model: Mapping[str, Any]
    finished: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    adjust: str = "none"
    donor: str | None = None


@dataclass(frozen=True)
class SiteFacts:
    """One entry of ``sites.json``: a hospital, its terms of use, its cohort and its label space."""

    name: str
    database: str
    title: str
    hospital: str
    licence: str
    citation: str
    url: str
    synthetic: bool
    role: str
    images: int
    patients: int
    label_policy: str
    splits: Mapping[str, Mapping[str, int]]
    findings: Mapping[str, Mapping[str, Mapping[str, Any]]]
    left_out: list[Mapping[str, Any]] = field(default_factory=list, repr=False)
    problems: list[Mapping[str, Any]] = field(default_factory=list, repr=False)
    views: Mapping[str, int] = field(default_factory=dict)
    age: Mapping[str, float] | None = None
    sex: Mapping[str, int] = field(default_factory=dict)
    boxes: Mapping[str, int] = field(default_factory=dict)
    removed: list[Mapping[str, Any]] = field(default_factory=list)
    contradictions: list[Mapping[str, Any]] = field(default_factory=list)
    closure: str = "none"

    @property
    def outside(self) -> bool:
        """Whether the site was only tested on."""
        return self.role != "training"

    def counts(self, finding: str, part: str = "raw") -> Mapping[str, int]:
        """Return positive, negative, uncertain and unknown labels; a finding not listed is all unknown."""
        total = self.images if part == "raw" else self.splits.get(part, {}).get("images", 0)
        found = self.findings.get(finding, {}).get(part, {"unknown": total})
        return {kind: found.get(kind, 0) for kind in ("positive", "negative", "uncertain", "unknown")}


@dataclass(frozen=True)
class Score:
    """One classification record of ``metrics.json``; ``value`` is None where the figure does not exist.

    ``n`` images have a known label, ``positives`` of them are positive; for ``macro`` both count pairs of
    image and finding over the ``findings`` that are averaged.
    """

    seed: int | str
    arm: str
    model: str
    site: str
    finding: str
    metric: str
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    positives: int | None = None
    findings: int | None = None


@dataclass(frozen=True)
class LocalizationScore:
    """One localization record, with the same metric for a random map and for a centre prior."""

    seed: int | str
    arm: str
    model: str
    site: str
    finding: str
    metric: str
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    random_map: float | None = None
    centre_prior: float | None = None
    excess_low: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A paired difference, ``arm`` minus ``against``, on the same test patients.

    ``against_model`` says which of the local models; None where there is one model.
    """

    seed: int | str
    site: str
    finding: str
    metric: str
    arm: str
    against: str
    n: int
    against_model: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Round:
    """One line of ``metrics.jsonl``."""

    seed: int
    arm: str
    model: str
    round: int
    updates: int
    train_loss: Mapping[str, float | None]
    validation_loss: Mapping[str, float | None] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class GalleryImage:
    """An image of the gallery; ``finding`` is None for an example of the cohort. Never print ``image_id``.

    ``why``: 'random', or 'miss' where it was chosen because the model's map misses.
    """

    site: str
    file: str
    image_id: str = field(repr=False)
    finding: str | None = None
    boxes: list[Box] = field(default_factory=list)
    why: str = "random"


@dataclass(frozen=True)
class RunDirectory:
    """A finished run, read from disk; see ``read_run``."""

    path: Path
    run: RunFacts
    study: str
    sites: list[SiteFacts]
    scores: list[Score]
    localization: list[LocalizationScore]
    comparisons: list[Comparison]
    rounds: list[Round]
    gallery: list[GalleryImage]
    evaluation: Mapping[str, Any] | None = None

    def site(self, name: str) -> SiteFacts | None:
        """Return a site by name."""
        return next((s for s in self.sites if s.name == name), None)

    def maps(self, arm: str, model: str, site: str) -> dict[tuple[str, str], NDArray[np.float32]]:
        """Return (image id, finding) → map (G, G) in [0, 1] of the first seed; empty where none was kept."""
        file = self._of_first_seed("maps", arm, model, f"{site}.npz")
        if not file.is_file():
            return {}
        stored = read_maps(file, writes_both(self._of_first_seed("predictions", arm, model, f"{site}.csv")))
        return {
            (str(i), str(f)): stored["maps"][row, column].astype(np.float32)
            for row, i in enumerate(stored["image_id"])
            for column, f in enumerate(stored["findings"])
        }

    def probabilities(self, arm: str, model: str, site: str) -> dict[tuple[str, str], float]:
        """Return (image id, finding) → probability of the first seed; empty where none was kept."""
        file = self._of_first_seed("predictions", arm, model, f"{site}.csv")
        if not file.is_file():
            return {}
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines))
            names = [n for n in rows[0] if n not in ("image_id", "patient")]
            known = [(row["image_id"], n, float(row[n])) for row in rows for n in names if row[n]]
        except (ValueError, KeyError, IndexError, csv.Error):
            raise RunError(f"Expected rows of probabilities in {file}; the file is damaged. {WRITES_IT}") from None
        return {(image, n): value for image, n, value in known if math.isfinite(value)}

    def _of_first_seed(self, kind: str, arm: str, model: str, file: str) -> Path:
        return self.path / kind / f"seed_{self.run.seeds[0]}" / arm / model / file


def read_run(path: Path) -> RunDirectory:
    """Read a finished run directory.

    Raises ``RunError`` for a directory that is no run, that is not finished (it names what is missing and
    how to resume), that has another schema or a record without one of its fields.
    """
    _require_finished(path)
    raw = _json(path / "run.json")
    metrics = _json(path / "metrics.json")
    for name, content in (("run.json", raw), ("metrics.json", metrics)):
        if content.get("schema") != SCHEMA:
            raise RunError(
                f"{path / name}: expected schema {SCHEMA}; found {content.get('schema')!r}. "
                "Use the hilum version that wrote this run, or run the study again."
            )
    gallery, evaluation = path / "gallery" / "gallery.json", path / "evaluation.json"
    return RunDirectory(
        path=path,
        run=_record(RunFacts, raw, path / "run.json"),
        study=(path / "study.yaml").read_text(encoding="utf-8"),
        sites=_records(SiteFacts, _json(path / "sites.json"), path / "sites.json"),
        scores=_records(Score, metrics.get("classification", []), path / "metrics.json"),
        localization=_records(LocalizationScore, metrics.get("localization", []), path / "metrics.json"),
        comparisons=_records(Comparison, metrics.get("comparisons", []), path / "metrics.json"),
        rounds=_rounds(path / "metrics.jsonl"),
        gallery=_records(GalleryImage, _json(gallery), gallery) if gallery.is_file() else [],
        evaluation=_json(evaluation) if evaluation.is_file() else None,
    )


def _require_finished(path: Path) -> None:
    if not (path / "run.json").is_file():
        raise RunError(
            f"{path}: expected a run directory, which holds run.json; found "
            f"{'a directory without it' if path.is_dir() else 'no directory'}. "
            "Name the directory that `hilum study STUDY.yaml` wrote."
        )
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if _json(path / "run.json").get("finished") is None:
        missing.append("the time 'finished' in run.json")
    if missing:
        raise RunError(
            f"{path}: expected a finished run; missing: {', '.join(missing)}. "
            f"Finish it with `hilum study {path / 'study.yaml'} --out {path} --resume`, then write the report."
        )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(
            f"{file}: expected JSON; found text that is not ({error}). Resume the study to write it again."
        ) from None


def _rounds(file: Path) -> list[Round]:
    """Rounds in the order written; of a round written twice (after a resume) the later line counts."""
    if not file.is_file():
        return []
    latest: dict[tuple[int, str, str, int], Round] = {}
    for line in filter(None, file.read_text(encoding="utf-8").splitlines()):
        try:
            one = _record(Round, json.loads(line), file)
        except ValueError:
            continue  # a line cut off when a run was stopped; resuming wrote the round again
        latest[one.seed, one.arm, one.model, one.round] = one
    return list(latest.values())


def _records(kind: type[T], raw: Any, file: Path) -> list[T]:
    return [_record(kind, one, file) for one in raw]


def _record(kind: type[T], raw: Mapping[str, Any], file: Path) -> T:
    known = fields(kind)  # type: ignore[arg-type]
    needed = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in raw]
    if missing:
        raise RunError(
            f"{file}: expected the fields {', '.join(needed)} in each {kind.__name__}; "
            f"missing: {', '.join(missing)}. Was it written by another version of hilum?"
        )
    return kind(**{f.name: _finite(raw[f.name]) for f in known if f.name in raw})


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
