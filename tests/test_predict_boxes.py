"""Boxes of hilum predict: around what is hot, on the image as its file stores it, cut where evaluate found it best."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import hospitals
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.evaluation.boxes import overlaps
from hilum.evaluation.calibration import Correction
from hilum.localization.components import detect
from hilum.study import voices
from hilum.study.boxes import COLUMNS, boxes_of
from hilum.study.evaluation.tuning import Tuned
from hilum.training.inference import Inferred

CORNERS = ["x0", "y0", "x1", "y1"]


def boxes(run: Path, out: Path, *arguments: str | Path) -> pd.DataFrame:
    outcome = hospitals.hilum("predict", run, *arguments, "--out", out)
    assert outcome.status == 0, outcome.err
    return pd.read_csv(out / "boxes.csv", dtype={"image": str})


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the map of every finding show which cells are bright, and every probability be 0.6."""

    def infer(model: Any, batches: Any, *_: Any) -> Inferred:
        cells = torch.cat([torch.nn.functional.avg_pool2d(images, 4) for images in batches])
        maps = (cells - 0.35).clamp(min=0).repeat(1, len(hospitals.FINDINGS), 1, 1).numpy()
        return Inferred(np.full(maps.shape[:2], 0.6, np.float32), maps)

    monkeypatch.setattr(voices, "infer", infer)


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize(("width", "height"), [(240, 120), (120, 240), (180, 180), (500, 200)])
@pytest.mark.parametrize(("x", "y"), [(0.3, 0.3), (0.75, 0.7)])
def test_a_box_lies_around_the_disc(
    width: int, height: int, x: float, y: float, tiny_run: Path, tmp_path: Path
) -> None:
    """In px, whatever the letterbox padded. Nothing was tuned, so the map is cut by Otsu's method."""
    radius = min(width, height) / 5
    pixels = hospitals.disc(width, height, x * width, y * height, radius, np.random.default_rng(1))
    Image.fromarray(pixels).save(tmp_path / "disc.png")
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.json"))
    table = boxes(run, tmp_path, tmp_path / "disc.png")
    assert list(table.columns) == list(COLUMNS)
    best = table[table["finding"] == "Nodule"].iloc[0]
    assert best["image"] == str(tmp_path / "disc.png")
    assert best["score"] == pytest.approx(0.6)
    disc = [x * width - radius, y * height - radius, x * width + radius, y * height + radius]
    cell, (x0, y0, x1, y1) = max(width, height) / 8, best[CORNERS]
    assert [(x0 + x1) / 2, (y0 + y1) / 2] == pytest.approx([x * width, y * height], abs=0.75 * cell)
    assert [x0, y0, x1, y1] == pytest.approx(disc, abs=1.5 * cell)  # smoothing blurs by one


@pytest.mark.usefixtures("brightness")
@pytest.mark.parametrize(("orientation", "store"), hospitals.ORIENTATIONS)
def test_boxes_of_turned_films_lie_on_the_film_as_it_is_stored(
    orientation: list[str], store: Callable[[np.ndarray], np.ndarray], tiny_run: Path, tmp_path: Path
) -> None:
    film = np.random.default_rng(0).integers(0, 4096, (56, 112)).astype(np.uint16)  # a cell is 1 by 2 px
    film[10:30, 10:40] += 20000
    for name, pixels, stated in (("standing", film, ["L", "F"]), ("stored", store(film), orientation)):
        rows, columns = pixels.shape
        tags = {"PixelData": pixels.tobytes(), "Rows": rows, "Columns": columns, "PatientOrientation": stated}
        save_dicom_radiograph(tmp_path / f"{name}.dcm", BitsStored=16, HighBit=15, **tags)
    table = boxes(tiny_run, tmp_path / "out", tmp_path / "standing.dcm", tmp_path / "stored.dcm")

    def covered(name: str, shape: tuple[int, ...]) -> list[np.ndarray]:
        found = table[(table["image"] == str(tmp_path / f"{name}.dcm")) & (table["finding"] == "Nodule")]
        masks = [np.zeros(shape) for _ in range(len(found))]
        for mask, (x0, y0, x1, y1) in zip(masks, found[CORNERS].to_numpy(int), strict=True):
            mask[y0:y1, x0:x1] = 1
        return masks

    standing, stored = covered("standing", film.shape), covered("stored", store(film).shape)
    assert standing[0][20, 25] == 1
    assert sorted(store(mask).tobytes() for mask in standing) == sorted(mask.tobytes() for mask in stored)


def test_a_finding_never_taught_has_no_box(tiny_run: Path, tmp_path: Path) -> None:
    """South labels no effusion."""
    table = boxes(tiny_run, tmp_path, tiny_run.parent / "south/images", "--arm", "local", "--site", "south")
    assert set(table["finding"]) == {"Nodule"}


@pytest.fixture
def evaluated(tiny_run: Path, tmp_path: Path) -> Path:
    """An evaluated copy of the tiny run, in which a threshold and a calibration of the nodule are on record."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("rounds"))
    assert hospitals.hilum("evaluate", run).status == 0
    content = hospitals.json_of(run / "evaluation.json")
    for record in content["thresholds"]:
        if (record["arm"], record["finding"]) == ("federated", "Nodule"):
            record |= {"threshold": 0.7, "images": 12, "box_score": {"slope": 2.0, "intercept": -1.0}}
    (run / "evaluation.json").write_text(json.dumps(content))
    return run


def test_boxes_are_cut_and_scored_as_evaluate_does(evaluated: Path, tiny_run: Path, tmp_path: Path) -> None:
    """On maps that the run keeps of its test patients: at the threshold on record, with the calibrated score."""
    hospital, model = tiny_run.parent / "north", "seed_0/federated/federated"
    said = pd.read_csv(evaluated / f"predictions/{model}/north.csv").set_index("image_id")["Nodule"]
    with np.load(evaluated / f"maps/{model}/north.npz") as kept:
        ids, maps = kept["image_id"].tolist(), kept["maps"][:, 0].astype(float)
    expected = detect(maps, said[ids], 0.7)
    given = [hospital / name for name in ids]
    table = boxes(evaluated, tmp_path / "out", *given, "--site", "north", "--seed", "0")
    table = table[table["finding"] == "Nodule"]
    for path, one in zip(given, expected, strict=True):
        found = table[table["image"] == str(path)]
        with Image.open(path) as film:
            corners = found[CORNERS].to_numpy() / (*film.size, *film.size)
        assert overlaps(one.boxes, corners)[0].max(axis=1)[one.scores.argmax()] > 0.9
        scores = Correction(2, -1)(one.scores)
        assert found["score"].iloc[0] == pytest.approx(scores.max(), rel=1e-3)
        assert found["score"].is_monotonic_decreasing


def test_a_damaged_record_of_thresholds_is_named(evaluated: Path, tiny_run: Path, tmp_path: Path) -> None:
    (evaluated / "evaluation.json").write_text('{"thresholds": [{"arm": "federated", "model": "federated"}]}')
    outcome = hospitals.hilum("predict", evaluated, tiny_run.parent / "north/images", "--out", tmp_path / "out")
    assert outcome.status == 1
    assert "Expected thresholds of every model in" in outcome.err
    assert "hilum evaluate" in outcome.err


def test_boxes_of_one_image_from_the_highest_score_to_the_lowest() -> None:
    """Nothing tuned: Otsu's cut and the bare score. Tuned: that cut and the calibrated score. No heat, no box."""
    heat = np.zeros((10, 10), np.float32)
    heat[1:3, 1:3], heat[6:9, 5:9] = 0.5, 1.0
    maps, said = {"Mass": heat, "Edema": np.ones((10, 10), np.float32)}, {"Mass": 0.8, "Edema": 0.9}
    assert list(boxes_of("film", maps, said, (50, 200), {})) == [
        ("film", "Mass", pytest.approx(0.8), 100, 30, 180, 45),
        ("film", "Mass", pytest.approx(0.4), 20, 5, 60, 15),
    ]
    fitted = Correction(1.0, -2.0)
    tuned = {"Mass": Tuned(threshold=0.6, images=20, box_score=fitted)}
    assert list(boxes_of("film", maps, said, (50, 200), tuned)) == [
        ("film", "Mass", pytest.approx(float(fitted(0.8))), 100, 30, 180, 45)
    ]
