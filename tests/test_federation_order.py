"""Sheller's comparison on phantom hospitals that differ in labels and intensity (cards 16 and 17, smallest proof)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilum.databases.phantoms.hospitals import HOSPITALS
from hilum.databases.phantoms.writing import write_hospital
from hilum.study.demo import IMAGES, SIZE
from hilum.study.run import run_study
from hilum.study.spec import Study, parse_study

pytestmark = pytest.mark.slow

SITES = ("harbour", "northgate", "summit", "meadow")
ROUNDS = 20
SEEDS = [0, 1, 2]


def study_of(folder: Path) -> Study:
    """All ways at 160 updates of 16 images a site."""
    shared = {"normalization": "averaged", "head": "shared", "weighting": "known"}
    content = {
        "name": "order",
        "findings": ["Cardiomegaly", "Effusion", "Mass", "Pneumothorax", "Tuberculosis"],
        "sites": {name: {"database": "phantom", "root": folder / name} for name in SITES},
        "seeds": SEEDS,
        "images": {"size": 64, "cache": folder / "cache"},
        "model": {"backbone": "residual", "pooling": "linear_softmax"},
        "training": {
            "rounds": ROUNDS,
            "updates": 8,
            "batch": 16,
            "threads": 1,
            "precision": "float32",
            "device": "cpu",
            "validate_every": ROUNDS,
            "optimizer": {"lr": 3e-3, "head_lr": 1.0},
            "augmentation": {"strength": 0.5},
        },
        "federation": shared,
        "federations": {"ciil": {"strategy": "ciil"}, "iil": {"strategy": {"name": "iil", "patience": ROUNDS}}},
        "arms": ["local", "pooled", "federated", "ciil", "iil"],
        "evaluation": {"resamples": 100, "gallery": 0, "erased": 0},
    }
    return parse_study(content, "the study of this test")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    for name in SITES:
        write_hospital(HOSPITALS[name], folder / name, IMAGES[name], SIZE, 1.0, 0, os.cpu_count() or 1)
    return run_study(study_of(folder), folder / "run").root


def test_learning_together_reaches_pooled_then_come_circles_and_last_once_around(run: Path) -> None:
    """Macro AUROC of test patients, mean over sites and seeds; a local model at home.

    Not Sheller's last step: once around is not better than local models at home, as it forgets all but the last site.
    """
    records: list[dict[str, Any]] = json.loads((run / "metrics.json").read_text())["classification"]
    mean = {
        arm: np.mean(
            [
                r["value"]
                for r in records
                if (r["arm"], r["finding"], r["metric"]) == (arm, "macro", "auroc")
                and r["site"] in SITES
                and r["seed"] in SEEDS
                and r["value"] is not None
            ]
        )
        for arm in ("local", "pooled", "federated", "ciil", "iil")
    }
    assert mean["federated"] / mean["pooled"] >= 0.97, mean
    assert mean["federated"] > mean["ciil"] > mean["local"] > mean["iil"], mean


def test_the_first_site_of_a_circle_is_forgotten_when_the_model_goes_on(run: Path) -> None:
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for seed in SEEDS:
        visits = [v for r in log if (r["arm"], r["seed"]) == ("iil", seed) for v in r["visits"]]
        at_home, away = (
            [v["validation_loss"]["harbour"] for v in visits if v["sites"] == [site]] for site in ("harbour", "meadow")
        )
        assert max(away) > 1.5 * at_home[-1], (seed, at_home, away)
