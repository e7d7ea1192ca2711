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
from hilum.study.arms import load_model, run_device, trained_findings
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.predictions import BATCH, HeldOut, write_table
from hilum.study.spec import Study
from hilum.training.inference import infer

ERASED = 200
NOTHING, MIDDLE_PART, LESIONS, CONTROL = "nothing", "middle", "lesions", "control"
SATURATED = 1e-7


@dataclass(frozen=True)
class Film:
    """One test film and what is erased of it; ``finding``: whose lesions, or "" where that does not matter."""

    row: int
    erased: str
    finding: str
    boxes: NDArray[np.float64]


def write_erased(
    study: Study, key: ModelKey, test: HeldOut, training: Sequence[Site], run: RunDirectory, precision: str
) -> None:
    """Write the log-odds of a model on test films with erased parts; findings it never saw labels of stay blank.

    Up to ``ERASED`` films of a site, drawn at random, are seen whole and without their middle; up to as many of each
    finding with boxes without these and, as a control, without equal boxes at the mirrored place. Boxes without such a
    place stay in both. A local model meets boxes at its own hospital only.
    """
    site = test.site
    path = run.erased(key, site.name)
    films = chosen_films(test, lesions=key.arm != "local" or key.model == site.name)
    if path.is_file() or not films:
        return
    model = load_model(study, run, key, site.name).to(run_device(run))
    said = infer(model, _batches(site, films), precision, study.evaluation.flip).probabilities.astype(np.float64)
    odds = said.clip(SATURATED, 1 - SATURATED)
    odds = np.log(odds / (1 - odds))
    odds[:, ~trained_findings(key, training)] = np.nan
    rows = [film.row for film in films]
    head = pd.DataFrame(
        {
            "image_id": site.manifest.images["image_id"].to_numpy()[rows],
            "patient": site.patients[rows],
            "erased": [film.erased for film in films],
            "boxes": [film.finding for film in films],
        }
    )
    write_table(path, head.join(pd.DataFrame(odds, columns=list(study.findings))))


def chosen_films(test: HeldOut, lesions: bool) -> list[Film]:
    """Return the test films of a site, each with what is erased of it."""
    site, none = test.site, np.empty((0, 4))
    order = numpy_generator(0, site.name, "erased").permutation(test.rows)
    films = [
        Film(int(row), erased, "", boxes)
        for row in order[:ERASED]
        for erased, boxes in ((NOTHING, none), (MIDDLE_PART, np.array([MIDDLE])))
    ]
    ids = site.manifest.images["image_id"].to_numpy()
    table = site.manifest.boxes[site.manifest.boxes["finding"].isin(site.findings)]
    for finding in site.findings if lesions else ():
        of_finding = table[table["finding"] == finding]
        boxed = order[np.isin(ids[order], of_finding["image_id"].to_numpy())]
        for row in boxed[:ERASED]:
            own, every = (t.loc[t["image_id"] == ids[row], ["x0", "y0", "x1", "y1"]] for t in (of_finding, table))
            true = own.to_numpy(np.float64)
            placed, found = mirrored(true, every.to_numpy(np.float64))
            if found.any():
                parts = ((NOTHING, none), (LESIONS, true[found]), (CONTROL, placed[found]))
                films += [Film(int(row), erased, finding, boxes) for erased, boxes in parts]
    return films


def _batches(site: Site, films: Sequence[Film]) -> Iterator[Tensor]:
    for start in range(0, len(films), BATCH):
        part = films[start : start + BATCH]
        squares = site.images(np.array([film.row for film in part], dtype=np.int64))
        frames = site.frames[[film.row for film in part]]
        erased = [erase(s, film.boxes, f) for s, film, f in zip(squares, part, frames, strict=True)]
        yield torch.from_numpy(np.stack(erased)).unsqueeze(1).float().div_(255)
