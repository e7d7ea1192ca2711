"""Predictions of every model on every site's test patients, and their maps where there are boxes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.localization.maps import maps_on_images
from hilum.sites.site import Site
from hilum.study.arms import load_model, run_device, trained_findings
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.spec import Study
from hilum.training.inference import infer
from hilum.training.state import write_atomically

GRID = (56, 56)
BATCH = 64


@dataclass(frozen=True)
class TestSet:
    """Test patients of a site: rows, boxes by image, and which rows get maps."""

    site: Site
    rows: NDArray[np.int64]
    mapped: NDArray[np.int64]

    @property
    def image_ids(self) -> NDArray[np.object_]:
        """Image ids of the rows."""
        return self.site.manifest.images["image_id"].to_numpy()[self.rows]


def test_set(site: Site, gallery: Sequence[str]) -> TestSet:
    """Return the test patients of a site; those with boxes, and the gallery's images, get maps."""
    rows = site.indices("test")
    wanted = set(site.manifest.boxes["image_id"]) | set(gallery)
    ids = site.manifest.images["image_id"].to_numpy()[rows]
    return TestSet(site, rows, np.flatnonzero([i in wanted for i in ids]))


def write_predictions(
    study: Study, key: ModelKey, test: TestSet, training: Sequence[Site], run: RunDirectory, precision: str
) -> None:
    """Write a model's probabilities on a test set, and its maps; findings it never saw labels of stay blank."""
    site = test.site
    if run.predictions(key, site.name).is_file() or len(test.rows) == 0:
        return
    model = load_model(study, run, key, site.name).to(run_device(run))
    inferred = infer(model, _batches(test), precision, study.evaluation.flip)
    probabilities = inferred.probabilities.copy()
    probabilities[:, ~trained_findings(key, training)] = np.nan
    if len(test.mapped):
        frames = site.frames[test.rows[test.mapped]]
        maps = maps_on_images(inferred.maps[test.mapped], frames, GRID, study.evaluation.smoothing)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            image_id=test.image_ids[test.mapped].astype(str),
            findings=np.array(study.findings),
            maps=maps.astype(np.float16),
        )
        write_atomically(run.maps(key, site.name), buffer.getvalue())
    table = identify(site, test.rows).join(pd.DataFrame(probabilities, columns=list(study.findings)))
    write_table(run.predictions(key, site.name), table)


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


def _batches(test: TestSet) -> Iterator[Tensor]:
    for start in range(0, len(test.rows), BATCH):
        pixels = test.site.images(test.rows[start : start + BATCH])
        yield torch.from_numpy(pixels).unsqueeze(1).float().div_(255)
