"""Predictions of every model on every site's test and validation patients, and their maps where there are boxes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.localization.maps import maps_on_images
from hilum.models.shuffle import shuffle_weights
from hilum.randomness import derive_seed, numpy_generator
from hilum.sites.site import Site
from hilum.study.arms import trained_findings
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.localizer import build_localizer
from hilum.study.spec import Study
from hilum.study.voices import infer_voices, voices_at
from hilum.training.state import write_atomically

GRID = (56, 56)
BATCH = 64
NEGATIVES = 200
Part = Literal["test", "val"]


@dataclass(frozen=True)
class HeldOut:
    """Test or validation patients of a site: their rows; of these, which get maps and which have boxes."""

    site: Site
    rows: NDArray[np.int64]
    mapped: NDArray[np.int64]
    boxed: NDArray[np.int64]

    @property
    def image_ids(self) -> NDArray[np.object_]:
        """Image ids of the rows."""
        return self.site.manifest.images["image_id"].to_numpy()[self.rows]


def held_out(site: Site, part: Part, gallery: Sequence[str] = ()) -> HeldOut:
    """Return the test or validation patients of a site.

    Images with boxes and the gallery's get maps, and where there are boxes as many as ``NEGATIVES`` images that are
    labelled negative of a finding with boxes, from which the false alarms of the maps are counted.
    """
    rows = site.indices(part)
    ids = site.manifest.images["image_id"].to_numpy()[rows]
    boxes = site.manifest.boxes
    boxes = boxes[boxes["finding"].isin(site.findings)]
    boxed = np.isin(ids, boxes["image_id"].to_numpy())
    columns = [k for k, finding in enumerate(site.findings) if finding in set(boxes["finding"])]
    negative = np.flatnonzero((site.targets[rows][:, columns] == 0).any(axis=1) & ~boxed)
    mapped = boxed | np.isin(ids, np.array([*gallery], dtype=object))
    if boxed.any():
        mapped[numpy_generator(0, site.name, part, "negatives").permutation(negative)[:NEGATIVES]] = True
    return HeldOut(site, rows, np.flatnonzero(mapped), np.flatnonzero(boxed))


def write_predictions(
    study: Study,
    key: ModelKey,
    held: HeldOut,
    training: Sequence[Site],
    run: RunDirectory,
    precision: str,
    into: RunDirectory,
) -> None:
    """Write a model's probabilities on held-out patients, and its maps; findings it never saw labels of stay blank.

    ``run`` holds the model, ``into`` takes what it says.
    """
    site = held.site
    if into.predictions(key, site.name).is_file() or len(held.rows) == 0:
        return
    voices = voices_at(study, run, key, site, precision)
    inferred = infer_voices(voices, _batches(site, held.rows), precision, study.evaluation.flip)
    probabilities = inferred.probabilities.copy()
    probabilities[:, ~trained_findings(key, training)] = np.nan
    if len(held.mapped):
        localize, maps = build_localizer(study), inferred.maps[held.mapped]
        if localize is not None:
            mapped = _batches(site, held.rows[held.mapped])
            maps = infer_voices(voices, mapped, precision, study.evaluation.flip, localize).maps
        _write_maps(study, held, held.mapped, maps, into.maps(key, site.name))
    table = identify(site, held.rows).join(pd.DataFrame(probabilities, columns=list(study.findings)))
    write_table(into.predictions(key, site.name), table)


def write_shuffled(study: Study, key: ModelKey, test: HeldOut, run: RunDirectory, precision: str) -> None:
    """Write the maps of a model of shuffled weights where there are boxes, on the images that its own maps are kept of.

    A control of what maps show, and of the false alarms that they raise on negative images.
    """
    path = run.shuffled(key, test.site.name)
    if path.is_file() or not len(test.boxed):
        return
    voices = voices_at(study, run, key, test.site, precision)
    for voice in voices:
        shuffle_weights(voice.model, derive_seed(key.seed, "shuffled weights"))
    batches = _batches(test.site, test.rows[test.mapped])
    localize, flip = build_localizer(study), study.evaluation.flip
    inferred = infer_voices(voices, batches, precision, flip, localize)
    _write_maps(study, test, test.mapped, inferred.maps, path)


def _write_maps(study: Study, held: HeldOut, chosen: NDArray[np.int64], cells: NDArray[np.float32], path: Path) -> None:
    maps = maps_on_images(cells, held.site.frames[held.rows[chosen]], GRID, study.evaluation.smoothing)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        image_id=held.image_ids[chosen].astype(str),
        findings=np.array(study.findings),
        maps=maps.astype(np.float32),
    )
    write_atomically(path, buffer.getvalue())


def identify(site: Site, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Return image ids and patient numbers of rows."""
    ids = site.manifest.images["image_id"].to_numpy()[rows]
    return pd.DataFrame({"image_id": ids, "patient": site.patients[rows]})


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV whole or not at all."""
    write_atomically(path, table.to_csv(index=False, float_format="%.6g").encode())


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV of ``write_table``; ids stay the text that they are."""
    return pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False, na_values=[""])


def _batches(site: Site, rows: NDArray[np.int64]) -> Iterator[Tensor]:
    for start in range(0, len(rows), BATCH):
        pixels = site.images(rows[start : start + BATCH])
        yield torch.from_numpy(pixels).unsqueeze(1).float().div_(255)
