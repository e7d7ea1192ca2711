"""The classifier: what a server may average of it, and that its weights depend on the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fakes import tiny_model
from hilum.errors import UnknownName
from hilum.models import BACKBONES, POOLINGS
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.training.state import fingerprint

TRUNKS: dict[str, dict[str, Any]] = {
    "residual": {"widths": (4, 4, 8)},
    "efficientnet_lite0": {"blocks": 3, "pretrained": False, "frozen_blocks": 1},
    "cbr": {"widths": (4, 8), "kernel": 3, "output_stride": 4},
    "tuberculosis_net": {},
    "densenet121": {"blocks": 1},
    "resnet": {"depth": 10, "stages": 1},
    "patch_bag": {"trunk": {"name": "residual", "widths": (4, 4, 8)}, "size": 16},
}
FINDINGS = 5
OTHER_POOLINGS = [("residual", pooling) for pooling in POOLINGS if pooling != "gated_attention"]
PAIRS = [*((trunk, "gated_attention") for trunk in BACKBONES), *OTHER_POOLINGS]


def build(trunk: str, pooling: str, seed: int = 0) -> LocalizingClassifier:
    if trunk in ("densenet121", "resnet"):
        pytest.importorskip("monai")
    return build_model({"name": trunk, **TRUNKS[trunk]}, {"name": pooling}, FINDINGS, seed)


@pytest.mark.parametrize(("trunk", "pooling"), PAIRS)
def test_every_floating_tensor_has_one_group(trunk: str, pooling: str) -> None:
    model = build(trunk, pooling)
    state, groups = model.state_dict(), model.state_groups()
    assert set(groups) == {name for name, tensor in state.items() if tensor.is_floating_point()}
    head = {name for name, group in groups.items() if group == "head"}
    assert {"head.weight", "head.bias"} <= head
    assert all(state[name].shape[0] == FINDINGS for name in head)
    assert {n for n, g in groups.items() if g == "norm_stats"} == {n for n in state if n.endswith(("_mean", "_var"))}
    learned = set(dict(model.named_parameters()))
    assert {n for n, g in groups.items() if g == "norm_affine"} == {
        n for n in learned if n.rpartition(".")[0] + ".running_mean" in state
    }
    convolutions = {n for n, m in model.backbone.named_modules(prefix="backbone") if isinstance(m, nn.Conv2d)}
    assert {n.rpartition(".")[0] for n, g in groups.items() if g == "trunk" and "pooling" not in n} == convolutions


def test_a_finding_reads_and_writes_its_own_rows_alone() -> None:
    for pooling in POOLINGS:
        model = build("residual", pooling).eval()
        images = torch.rand(2, 1, 48, 48)
        before = model(images)
        with torch.no_grad():
            for name, group in model.state_groups().items():
                if group == "head":
                    model.state_dict()[name][3] += 1.0
        after = model(images)
        others = [c for c in range(FINDINGS) if c != 3]
        assert torch.equal(before.logits[:, others], after.logits[:, others])
        assert torch.equal(before.maps[:, others], after.maps[:, others])
        assert not torch.equal(before.logits[:, 3], after.logits[:, 3])


@pytest.mark.parametrize("trunk", BACKBONES)
def test_the_seed_alone_decides_the_weights(trunk: str) -> None:
    torch.manual_seed(1)
    first = build(trunk, "gated_attention")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = build(trunk, "gated_attention")
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())
    assert fingerprint(build(trunk, "gated_attention", 1).state_dict()) != fingerprint(first.state_dict())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_prediction_is_a_logit_and_a_map_for_each_finding(pooling: str) -> None:
    prediction = build("residual", pooling).eval()(torch.rand(3, 1, 40, 56))
    assert prediction.logits.shape == (3, FINDINGS)
    assert prediction.maps.shape == (3, FINDINGS, 5, 7)
    assert bool(((prediction.maps >= 0) & (prediction.maps <= 1)).all())


def test_before_training_findings_are_rare_rather_than_a_coin_toss() -> None:
    probabilities = tiny_model(pooling="mean").eval()(torch.rand(4, 1, 32, 32)).logits.detach().sigmoid()
    assert float(probabilities.max()) < 0.3
    assert float(probabilities.min()) > 0.01


def test_half_precision_ends_at_the_head() -> None:
    model, images = tiny_model().eval(), torch.rand(2, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = model(images)
    assert prediction.logits.dtype == prediction.maps.dtype == torch.float32
    torch.testing.assert_close(prediction.logits, model(images).logits, rtol=0.05, atol=0.05)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'residual'"):
        build_model({"name": "residuals"}, {"name": "mean"}, 1, 0)
    with pytest.raises(UnknownName, match="Expected a pooling among"):
        build_model({"name": "residual"}, {"name": "average"}, 1, 0)
