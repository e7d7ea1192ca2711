"""What a model says of test films of which a part was erased: the boxed lesions, as much elsewhere, or the lungs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.images.erase import MIDDLE, erase, mirrored
from hilum.randomness import numpy_generator
from hilum.sites.site import Site
from hilum.study.arms import trained_findings
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.predictions import BATCH, HeldOut, identify, write_table
from hilum.study.spec import Study
from hilum.study.voices import infer_voices, voices_at

NOTHING, MIDDLE_PART, LESIONS, CONTROL = "nothing", "middle", "lesions", "control"
SATURATED = 1e-7


@dataclass(frozen=True)
class Film:
    """One test film and what is erased of it; ``finding``: whose lesions, or "" where that does not matter.

    A whole film stands once, whatever is erased of it elsewhere.
    """

    row: int
    erased: str
    finding: str
    boxes: NDArray[np.float64]


def write_erased(
    study: Study, key: ModelKey, test: HeldOut, training: Sequence[Site], run: RunDirectory, precision: str
) -> None:
    """Write the log-odds of a model on test films with erased parts; findings it never saw labels of stay blank.

    Up to ``evaluation.erased`` films of a site, drawn at random, are seen whole and without their middle; up to as
    many of each finding with boxes whole, without these and, as a control, without equal boxes at the mirrored place.
    Boxes without such a place stay in both. A local model meets boxes at its own hospital only.
    """
    site = test.site
    path = run.erased(key, site.name)
    films = [] if path.is_file() else chosen_films(key, test, study.evaluation.erased)
    if not films:
        return
    voices = voices_at(study, run, key, site, precision)
    inferred = infer_voices(voices, _batches(site, films), precision, study.evaluation.flip)
    said = inferred.probabilities.astype(np.float64)
    odds = said.clip(SATURATED, 1 - SATURATED)
    odds = np.log(odds / (1 - odds))
    odds[:, ~trained_findings(key, training)] = np.nan
    write_table(path, describe_films(site, films).join(pd.DataFrame(odds, columns=list(study.findings))))


def describe_films(site: Site, films: Sequence[Film]) -> pd.DataFrame:
    """Return the first columns of the table: the film, its patient, what is erased of it and whose boxes."""
    table = identify(site, np.array([film.row for film in films], dtype=np.int64))
    return table.assign(erased=[film.erased for film in films], boxes=[film.finding for film in films])


def chosen_films(key: ModelKey, test: HeldOut, most: int) -> list[Film]:
    """Return the test films of a site that a model is asked about, each with what is erased of it."""
    site = test.site
    order = numpy_generator(0, site.name, "erased").permutation(test.rows)
    asked = order[:most]
    boxed = list(_boxed(site, order, most)) if key.arm != "local" or key.model == site.name else []
    whole = dict.fromkeys([*asked.tolist(), *(film.row for film in boxed)])
    return [
        *(Film(row, NOTHING, "", np.empty((0, 4))) for row in whole),
        *(Film(int(row), MIDDLE_PART, "", np.array([MIDDLE])) for row in asked),
        *boxed,
    ]


def _boxed(site: Site, order: NDArray[np.int64], most: int) -> Iterator[Film]:
    """Yield films of each finding without its boxes, and without equal ones that keep off every box of the film.

    That a finding is not of the study makes its lesions no better a control.
    """
    ids, table = site.manifest.images["image_id"].to_numpy(), site.manifest.boxes
    every = _by_image(table)
    for finding in site.findings:
        true = _by_image(table[table["finding"] == finding])
        for row in [row for row in order.tolist() if ids[row] in true][:most]:
            boxes = true[ids[row]]
            placed, found = mirrored(boxes, every[ids[row]])
            if found.any():
                yield Film(row, LESIONS, finding, boxes[found])
                yield Film(row, CONTROL, finding, placed[found])


def _by_image(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    corners = ["x0", "y0", "x1", "y1"]
    return {str(name): boxes[corners].to_numpy(np.float64) for name, boxes in table.groupby("image_id")}


def _batches(site: Site, films: Sequence[Film]) -> Iterator[Tensor]:
    for start in range(0, len(films), BATCH):
        part = films[start : start + BATCH]
        squares = site.images(np.array([film.row for film in part], dtype=np.int64))
        frames = site.frames[[film.row for film in part]]
        erased = [erase(s, film.boxes, f) for s, film, f in zip(squares, part, frames, strict=True)]
        yield torch.from_numpy(np.stack(erased)).unsqueeze(1).float().div_(255)
