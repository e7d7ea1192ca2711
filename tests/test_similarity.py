"""CKA and SVCCA against what theory says of them, and two checkpoints compared layer by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import hospitals
from fakes import tiny_model
from hilum.errors import RunError
from hilum.evaluation.similarity import linear_cka, svcca
from hilum.models.classifier import build_model
from hilum.study.similarity import layer_similarity
from hilum.training.state import copy_state, load_state, save_state

RNG = np.random.default_rng(0)
A = RNG.normal(size=(400, 6)) @ RNG.normal(size=(6, 6)) + 3
ROTATION = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
MAP = RNG.normal(size=(6, 6)) + 2 * np.eye(6)


def test_cka_is_one_under_rotation_scale_and_shift_but_not_under_any_map() -> None:
    assert linear_cka(A, A) == pytest.approx(1)
    assert linear_cka(A, -2.5 * A @ ROTATION + 7) == pytest.approx(1)
    assert linear_cka(A, A @ MAP) < 0.99


def test_cka_is_the_similarity_of_the_gram_matrices() -> None:
    b = A[:, :2] ** 2 + RNG.normal(size=(400, 2))
    centre = np.eye(400) - 1 / 400
    k, m = (centre @ x @ x.T @ centre for x in (A, b))
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert linear_cka(A, b) == pytest.approx(expected)


def test_svcca_is_one_under_any_invertible_map() -> None:
    assert svcca(A, A @ MAP + 7, keep=1) == pytest.approx(1)
    assert svcca(A, 3 * A @ ROTATION) == pytest.approx(1)


def test_svcca_of_two_columns_is_the_correlation() -> None:
    b = A[:, :1] + RNG.normal(size=(400, 1))
    assert svcca(A[:, :1], b) == pytest.approx(abs(np.corrcoef(A[:, 0], b[:, 0])[0, 1]))


def test_svcca_leaves_out_directions_of_little_variance() -> None:
    noise = 1e-3 * RNG.normal(size=(2, 400, 6))
    assert svcca(*(np.hstack([A, n]) for n in noise)) == pytest.approx(1, abs=1e-3)
    assert svcca(*(np.hstack([A, n]) for n in noise), keep=1) < 0.7


def test_independent_features_are_hardly_alike() -> None:
    a, b = RNG.normal(size=(2, 20_000, 5))
    assert linear_cka(a, b) < 0.01
    assert svcca(a, b) < 0.05


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_a_constant_has_nothing_in_common_and_odd_shapes_are_refused(measure: object) -> None:
    assert callable(measure)
    assert measure(A, np.ones((400, 2))) == 0
    for wrong in (A[:5], A[:, 0], A[:1]):
        with pytest.raises(ValueError, match=r"^expected features \(n, d\) of the same n samples"):
            measure(A, wrong)


def test_svcca_refuses_what_would_be_one_by_chance() -> None:
    with pytest.raises(ValueError, match=r"^expected more samples than features; found 6 samples of 6 and 6 features$"):
        svcca(A[:6], A[6:12])
    with pytest.raises(ValueError, match=r"^expected a share above 0 and at most 1 to keep; found 0$"):
        svcca(A, A, keep=0)


def test_two_checkpoints_are_compared_stage_by_stage() -> None:
    model, other = tiny_model(seed=0), tiny_model(seed=0)
    with torch.no_grad():
        torch.nn.init.normal_(other.backbone.stages[2].conv1.weight)
    images = torch.rand(12, 1, 48, 48)
    table = layer_similarity(model, other, images)
    assert list(table["layer"]) == [1, 2, 3]
    assert table["linear_cka"][:2].to_numpy() == pytest.approx(1)
    assert table["svcca"][:2].to_numpy() == pytest.approx(1)
    assert table["linear_cka"][2] < 0.99
    fewer = layer_similarity(model, other, images, cells=100)
    assert not table["linear_cka"].equals(fewer["linear_cka"])
    assert layer_similarity(model, other, images, cells=3)["svcca"].isna().all()


def test_the_command_compares_models_of_a_run(tiny_run: Path) -> None:
    alike = hospitals.hilum("similarity", tiny_run, "seed_0/pooled/pooled", "seed_0/pooled/pooled")
    assert alike.status == 0, alike.err
    head, *rows = alike.out.splitlines()
    assert head.split() == ["stage", "linear", "CKA", "SVCCA"]
    assert [row.split() for row in rows] == [[str(k), "1.000", "1.000"] for k in (1, 2, 3)]
    seeds = hospitals.hilum("similarity", tiny_run, "seed_0/initial", "seed_1/initial", "--other-run", tiny_run)
    assert seeds.status == 0, seeds.err
    assert all(float(row.split()[1]) < 1 for row in seeds.out.splitlines()[1:])
    wrong = hospitals.hilum("similarity", tiny_run, "seed_0/pooled/north", "seed_0/initial")
    assert wrong.status == 1
    assert "seed_0/federated/federated" in wrong.err
    assert "found 'seed_0/pooled/north'" in wrong.err


def test_the_command_compares_files_of_weights(tiny_run: Path, tmp_path: Path) -> None:
    """Of a round, of a donor below another head; neither a file of another trunk nor one that is no weights."""
    donor, other, text = (tmp_path / f"{name}.safetensors" for name in ("donor", "other", "text"))
    final = tiny_run / "models/seed_0/pooled/pooled/model.safetensors"
    state = load_state(final)
    save_state(donor, {**state, "head.weight": torch.zeros(9, 8, 1, 1)})
    save_state(
        other, copy_state(build_model({"name": "cbr", "widths": (4, 8), "output_stride": 4}, {"name": "max"}, 2, 0))
    )
    text.write_text("no weights")
    last = tiny_run / "rounds/seed_0/pooled/pooled/round_0002/server.safetensors"
    before = last.parents[1] / "round_0001/server.safetensors"
    for file in (final, donor, last):
        alike = hospitals.hilum("similarity", tiny_run, "seed_0/pooled/pooled", file)
        assert alike.status == 0, alike.err
        assert [row.split() for row in alike.out.splitlines()[1:]] == [[str(k), "1.000", "1.000"] for k in (1, 2, 3)]
    moved = hospitals.hilum("similarity", tiny_run, before, last)
    assert moved.status == 0, moved.err
    assert moved.out != alike.out
    for file, found in (
        (other, "others"),
        (text, "no file that can be read"),
        (tmp_path / "none.safetensors", "no fi"),
    ):
        wrong = hospitals.hilum("similarity", tiny_run, "seed_0/initial", file)
        assert wrong.status == 1
        assert f"Expected in {file} weights of the trunk 'residual'" in wrong.err
        assert f"found {found}" in wrong.err
        assert wrong.err.count("\n") == 1


def test_trunks_of_other_strides_are_compared_on_the_coarser_grid() -> None:
    wide = build_model({"name": "cbr", "widths": (4, 8, 8), "kernel": 3, "output_stride": 8}, {"name": "max"}, 2, 0)
    table = layer_similarity(tiny_model(), wide, torch.rand(6, 1, 48, 48))
    assert table[["linear_cka", "svcca"]].to_numpy().max() < 0.999
    with pytest.raises(RunError, match=r"^Expected two trunks of as many stages, to compare one by one; found 3 and 2"):
        layer_similarity(
            tiny_model(),
            build_model({"name": "cbr", "widths": (4, 8), "output_stride": 4}, {"name": "max"}, 2, 0),
            torch.rand(2, 1, 32, 32),
        )
