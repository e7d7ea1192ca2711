"""Every name of the model and of its maps runs in a study: trained, averaged, evaluated."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hospitals
from hilum.models import BACKBONES, NECKS, POOLINGS
from hilum.models.neck.conta import Conta
from hilum.study.arms import new_model
from hilum.study.localizer import build_localizer
from hilum.study.spec import load_study
from hilum.training.state import load_state

pytestmark = pytest.mark.usefixtures("unmeasured")

WITH_MONAI = ("densenet121", "resnet", "conta")
LOCALIZER = "saliency" if find_spec("monai") is None else "grad_cam"
SHORT = ("arms=[federated]", "seeds=[0]", "training.rounds=1", "training.updates=1")
TOGETHER = (
    "model.backbone={name: cbr, widths: [4, 8], kernel: 3, output_stride: 4}",
    "model.neck=triple_attention",
    "model.pooling=dsmil",
)


def study_with(study: Path, out: Path, *values: str) -> hospitals.Outcome:
    settings = (part for value in (*SHORT, *values) for part in ("--set", value))
    return hospitals.hilum("study", study, "--out", out, *settings)


@pytest.fixture(scope="module")
def own_maps(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a backbone, a neck and a pooling together, with the maps of the model itself."""
    run = tmp_path_factory.mktemp("maps") / "run"
    outcome = study_with(tiny_study, run, *TOGETHER)
    assert outcome.status == 0, outcome.err
    return run


def test_a_run_tells_what_its_model_is_made_of(own_maps: Path) -> None:
    told = json.loads((own_maps / "run.json").read_text())["model"]
    assert (told["backbone"], told["neck"], told["pooling"]) == ("cbr", "triple_attention", "dsmil")


def test_conta_trains_under_every_kind_of_strategy_and_makes_maps(
    tiny_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("monai")
    monkeypatch.setattr(Conta, "least", 1)
    kinds = ("scaffold", "fedadam", "fednova", "fedrep", "ditto", "ciil", "surgical")
    others = ", ".join(f"{name}: {{strategy: {name}}}" for name in kinds)
    outcome = study_with(
        tiny_study,
        tmp_path / "run",
        "model.neck={name: conta, grid: 4, width: 4, iterations: 2}",
        "training.rounds=4",
        f"federations={{{others}, gossip: {{topology: gossip}}, top: {{compression: top_k}}}}",
        f"arms=[pooled, federated, gossip, top, {', '.join(kinds)}]",
        "evaluation.localizer=masks",
    )
    assert outcome.status == 0, outcome.err
    for arm in ("pooled", "federated", "gossip", "top", *kinds):
        state = load_state(tmp_path / "run" / "models" / "seed_0" / arm / arm / "model.safetensors")
        assert float(state["neck.mask_counts"].sum()) > 0, arm
        assert bool(state["neck.mask_sums"].isfinite().all()), arm
    own = load_state(tmp_path / "run/models/seed_0/ditto/ditto/site_north.safetensors")
    assert "neck.join.weight" in own
    assert not any("mask_sums" in name or "mask_counts" in name for name in own)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)).save(tmp_path / "film.png")
    outcome = hospitals.hilum("predict", tmp_path / "run", tmp_path / "film.png", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    with np.load(tmp_path / "out/masks/film.npz") as masks, np.load(tmp_path / "out/maps/film.npz") as maps:
        assert {name: masks[name].shape for name in masks} == {name: maps[name].shape for name in maps}
        assert all(np.array_equal(masks[name], maps[name]) for name in masks)  # the localizer is 'masks'


def test_maps_made_after_the_fact_are_written_like_the_models_own(
    own_maps: Path, tiny_study: Path, tmp_path: Path
) -> None:
    outcome = study_with(tiny_study, tmp_path / "run", *TOGETHER, f"evaluation.localizer={LOCALIZER}")
    assert outcome.status == 0, outcome.err
    where = "seed_0/federated/federated/north"
    for kind in ("maps", "shuffled"):
        with (
            np.load(own_maps / kind / f"{where}.npz") as own,
            np.load(tmp_path / "run" / kind / f"{where}.npz") as maps,
        ):
            assert list(own["image_id"]) == list(maps["image_id"])
            assert own["maps"].shape == maps["maps"].shape
            assert 0 <= maps["maps"].min() <= maps["maps"].max() <= 1
            assert not np.array_equal(own["maps"], maps["maps"])
    own, other = (pd.read_csv(run / "predictions" / f"{where}.csv") for run in (own_maps, tmp_path / "run"))
    pd.testing.assert_frame_equal(own, other)


PARTS = (("backbone", BACKBONES), ("neck", NECKS), ("pooling", POOLINGS))


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, registry in PARTS for name in registry])
def test_every_name_is_a_model_of_a_study(part: str, name: str, tiny_study: Path) -> None:
    if name in WITH_MONAI and find_spec("monai") is None:
        pytest.skip("needs MONAI: pip install 'hilum[monai]'")
    pretrained = ", pretrained: false" if name == "efficientnet_lite0" else ""
    study = load_study(tiny_study, [f"model.{part}={{name: {name}{pretrained}}}"])
    model = new_model(study, 0)
    registry = dict(PARTS)[part]
    assert type(getattr(model, part)) is registry.load(name)


def test_the_models_own_map_needs_no_localizer(tiny_study: Path) -> None:
    assert build_localizer(load_study(tiny_study)) is None


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("evaluation.localizer=gradcam", "Expected a localizer among cam, grad_cam"),
        ("evaluation.localizer={name: occlusion, sise: 8}", "'occlusion' has no option 'sise'. Did you mean 'size'?"),
        ("evaluation.localizer={name: occlusion, size: 4}", "expected a stride of at least 1 and at most the size, 4"),
        ("model.neck={name: cross_scale_graph, edges: none}", "expected edges among learned, uniform, random"),
        (
            "model.neck={name: cross_scale_graph, neighbours: 2.5}",
            "expected a whole number for the option 'neighbours'",
        ),
        ('model.neck={name: cross_scale_graph, mirror: "no"}', "expected true or false for the option 'mirror'"),
        ('model.neck={name: triple_attention, channel: "off"}', "expected true or false for the option 'channel'"),
        ("model.neck={name: conta, weight: .nan}", "expected a finite number for the option 'weight'; found nan"),
        ("model.neck={name: conta, weight: .inf}", "expected a finite number for the option 'weight'; found inf"),
        ("model.pooling={name: top_k, fraction: true}", "expected a finite number for the option 'fraction'"),
        ("model.backbone={name: patch_bag, size: 16.5}", "expected a whole number for the option 'size'; found 16.5"),
        ("model.backbone={name: residual, dilation: 1.5}", "expected a whole number for the option 'dilation'"),
        ("model.backbone={name: residual, dilation: true}", "expected a whole number for the option 'dilation'"),
        (
            "model.backbone={name: patch_bag, trunk: {name: residual, dilation: 1.5}}",
            "expected a whole number for the option 'dilation'; found 1.5",
        ),
        (
            'model.backbone={name: efficientnet_lite0, pretrained: "no"}',
            "expected true or false for the option 'pretrained'; found 'no'",
        ),
        (
            "evaluation.localizer={name: occlusion, size: 8.5}",
            "expected a whole number for the option 'size'; found 8.5",
        ),
        ("model.taxonomy=true", "Expected a finding that is a kind of another, such as Nodule beside Nodule/Mass, for"),
        ("model.neck=graph", "Expected a neck among conta, cross_scale_graph, none, triple_attention"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(value: str, told: str, tiny_study: Path, tmp_path: Path) -> None:
    outcome = study_with(tiny_study, tmp_path / "run", value)
    assert outcome.status != 0
    assert told in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()
