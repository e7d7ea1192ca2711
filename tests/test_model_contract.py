"""Every backbone, neck and pooling of the registries learns at two hospitals and is averaged: one federated round."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from fakes import Hospitals, fake_site
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models import BACKBONES, NECKS, POOLINGS
from hilum.models.classifier import build_model
from hilum.training.state import copy_state

SMALL: dict[str, dict[str, Any]] = {
    "residual": {"widths": [4, 4, 8]},
    "efficientnet_lite0": {"blocks": 3, "pretrained": False, "frozen_blocks": 1},
    "cbr": {"widths": [4, 8], "kernel": 3, "output_stride": 4},
    "densenet121": {"blocks": 1},
    "resnet": {"depth": 10, "stages": 1},
    "patch_bag": {"trunk": {"name": "residual", "widths": [4, 4, 8]}, "size": 16},
}
CASES = [
    *((backbone, "none", "lse_lba") for backbone in BACKBONES),
    *(("residual", "none", pooling) for pooling in POOLINGS),
    *(("residual", neck, "linear_softmax") for neck in NECKS),
]
# The second hospital knows nothing of one finding.
SITES = (fake_site("a", size=32), fake_site("b", size=32, unknown=[1], seed=1))


@pytest.mark.parametrize(("backbone", "neck", "pooling"), CASES)
def test_a_federated_round_trains_and_averages_every_tensor(
    backbone: str, neck: str, pooling: str, tmp_path: Path
) -> None:
    if {backbone, neck} & {"densenet121", "resnet", "conta"} and find_spec("monai") is None:
        pytest.skip("needs MONAI: pip install 'hilum[monai]'")
    options = {"name": backbone, **SMALL.get(backbone, {})}
    model = build_model(options, {"name": pooling}, 2, 0, {"name": neck})
    start, groups = copy_state(model), model.state_groups()
    assert set(groups) == {name for name, tensor in start.items() if tensor.is_floating_point()}
    assert all(start[name].shape[0] == 2 for name, group in groups.items() if group == "head")
    strategy = FedAvg(groups, normalization="averaged", head="shared", weighting="known")
    hospitals = Hospitals.of(tmp_path, strategy, *SITES, model=model, updates=1, batch=2)
    server, replies = hospitals.rounds(1, hospitals.start(start))
    assert all(tensor.isfinite().all() for tensor in server.state.values())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    learned = {name for name in trained if not torch.equal(server.state[name], start[name])}
    assert {"head.weight", "head.bias"} <= learned
    assert len(learned) > 0.6 * len(trained)
    # The row of a finding that one hospital alone labels is that hospital's.
    (own,) = [reply.state for reply in replies if reply.site == "a"]
    assert torch.equal(server.state["head.weight"][1], own["head.weight"][1])
