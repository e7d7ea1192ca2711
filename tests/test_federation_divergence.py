"""Weight divergence: closed forms, and what a study writes of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hilum.federation.divergence import weight_divergence
from hilum.study.run import run_study
from hilum.study.spec import load_study
from hospitals import json_of, write_study


def test_closed_form() -> None:
    """Layers (3, 4) and (0, 12) of lengths 5 and 12: moved by (0, 1) and (0, 2), ‖Δ‖ = √5 and ‖w‖ = 13."""
    b = {"one": torch.tensor([3.0, 4.0]), "two": torch.tensor([[0.0], [12.0]])}
    a = {"one": torch.tensor([3.0, 5.0]), "two": torch.tensor([[0.0], [14.0]]), "other": torch.ones(1)}
    found = weight_divergence(a, b, ["one", "two"])
    assert found.layers == pytest.approx({"one": 1 / 5, "two": 2 / 12})
    assert found.whole == pytest.approx(math.sqrt(5) / 13)


@pytest.mark.parametrize("factor", [1.0, 1.5, -1.0])
def test_a_multiple_diverges_by_the_factor_less_one(factor: float) -> None:
    b = {"w": torch.randn(40, generator=torch.Generator().manual_seed(0))}
    found = weight_divergence({"w": factor * b["w"]}, b, ["w"])
    assert found.whole == pytest.approx(abs(factor - 1), rel=1e-6)


def test_from_zero_it_is_infinite_and_between_zeros_nothing() -> None:
    zero, one = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    assert weight_divergence(one, zero, ["w"]).whole == math.inf
    assert weight_divergence(zero, zero, ["w"]).layers == {"w": 0.0}


@pytest.mark.usefixtures("unevaluated")
def test_a_study_writes_it_against_the_pooled_arm_of_each_seed(tmp_path: Path) -> None:
    options = ["federations={prox: {strategy: fedprox}}", "arms=[local, pooled, federated, prox]", "training.rounds=1"]
    run_study(load_study(write_study(tmp_path), options), tmp_path / "run")
    records = json_of(tmp_path / "run" / "divergence.json")["divergence"]
    assert [(r["seed"], r["arm"], r["against"]) for r in records] == [
        (seed, arm, "pooled") for seed in (0, 1) for arm in ("federated", "prox")
    ]
    for record in records:
        ours, theirs = (
            load_file(tmp_path / f"run/models/seed_{record['seed']}/{arm}/{arm}/model.safetensors")
            for arm in (record["arm"], "pooled")
        )
        apart = [float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in record["layers"]]
        assert list(record["layers"].values()) == pytest.approx(apart, rel=1e-5)
        assert not any("running" in name for name in record["layers"])
        assert min(apart) < record["whole"] < max(apart)


@pytest.mark.usefixtures("unevaluated")
def test_without_a_pooled_arm_there_is_none(tmp_path: Path) -> None:
    options = ["arms=[federated]", "seeds=[0]", "training.rounds=1"]
    run_study(load_study(write_study(tmp_path), options), tmp_path / "run")
    assert not (tmp_path / "run" / "divergence.json").exists()
