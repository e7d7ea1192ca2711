"""Every localizer gives maps of the same form, and finds what a trained model has learned to see."""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from hilum.errors import MissingExtra
from hilum.localization.localizers import LOCALIZERS
from hilum.localization.localizers.base import scaled
from hilum.localization.localizers.saliency import saliency
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.taxonomy import Taxonomy
from hilum.training.inference import infer
from hilum.training.losses.masked_bce import masked_bce

SIDE, BOX = 48, 14
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="needs MONAI: pip install 'hilum[monai]'")
CAMS = ("cam", "grad_cam", "grad_cam_pp")
NAMES = [pytest.param(name, marks=needs_monai if name in CAMS else ()) for name in LOCALIZERS if name != "masks"]


def films(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy films, a bright disc of finding 0, a dark one of finding 1; labels (N, 2) and corners (N, 2, 2)."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.5, 0.1, (count, SIDE, SIDE)).astype(np.float32)
    labels, corners = rng.integers(0, 2, (count, 2)), rng.integers(0, SIDE - BOX, (count, 2, 2))
    y, x = np.mgrid[:BOX, :BOX] - (BOX - 1) / 2
    disc = (y**2 + x**2 < (BOX / 2) ** 2).astype(np.float32)
    for k, c in np.argwhere(labels == 1):
        row, column = corners[k, c]
        images[k, row : row + BOX, column : column + BOX] += (0.3 - 0.6 * c) * disc
    return (
        torch.from_numpy(images).unsqueeze(1).clamp(0, 1),
        torch.from_numpy(labels).float(),
        torch.from_numpy(corners),
    )


@pytest.fixture(scope="module")
def trained() -> LocalizingClassifier:
    backbone = {"name": "residual", "widths": (8, 8, 16)}
    model = build_model(backbone, {"name": "log_sum_exp"}, 2, 0)
    optimizer, (images, labels, _) = torch.optim.Adam(model.parameters(), 1e-2), films(64, 0)
    for _ in range(60):
        loss = masked_bce(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad()
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_most_of_the_mass_is_where_the_lesion_is(name: str, trained: LocalizingClassifier) -> None:
    """Card 7: the mass within the lesion's box is more than twice its share of the image, on films not trained on."""
    images, labels, corners = films(24, 1)
    maps = infer(trained, [images], localize=LOCALIZERS.load(name)(), flip=False).maps
    assert maps.shape == (24, 2, 6, 6)
    assert 0 <= maps.min() <= maps.max() <= 1
    pixels = torch.from_numpy(maps).repeat_interleave(8, 2).repeat_interleave(8, 3)
    shares = []
    for k, c in labels.nonzero().tolist():
        row, column = corners[k, c].tolist()
        inside = pixels[k, c, row : row + BOX, column : column + BOX].sum()
        shares.append(float(inside / pixels[k, c].sum().clamp(min=1e-6)))
    assert np.mean(shares) > 2 * (BOX / SIDE) ** 2


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_the_model_as_it_was(name: str, trained: LocalizingClassifier) -> None:
    before = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    LOCALIZERS.load(name)()(trained, films(2, 2)[0])
    assert not trained.training
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in trained.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks for m in trained.modules())


@needs_monai
def test_cam_is_the_cell_logit_without_its_bias(trained: LocalizingClassifier) -> None:
    images = films(2, 3)[0]
    with torch.no_grad():
        features = trained.features(images)
        evidence = trained.head(features) - trained.head.bias[:, None, None]
    torch.testing.assert_close(LOCALIZERS.load("cam")()(trained, images), scaled(evidence))


@needs_monai
def test_grad_cam_is_its_formula(trained: LocalizingClassifier) -> None:
    images = films(2, 3)[0]
    features = trained.features(images).detach().requires_grad_()
    maps = []
    for c in range(2):
        (gradient,) = torch.autograd.grad(trained.read(features).logits[:, c].sum(), features)
        maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1))
    expected = scaled(torch.stack(maps, 1).detach())
    torch.testing.assert_close(LOCALIZERS.load("grad_cam")()(trained, images), expected)


def test_saliency_is_the_slope_of_the_logit(trained: LocalizingClassifier) -> None:
    images, step = films(1, 4)[0].double(), 1e-6
    model = build_model({"name": "residual", "widths": (8, 8, 16)}, {"name": "log_sum_exp"}, 2, 0).eval()
    model.load_state_dict(trained.state_dict())
    slopes = saliency(model, images.float())
    assert slopes.shape == (1, 2, SIDE, SIDE)
    row, column = divmod(int(slopes[0, 0].argmax()), SIDE)
    moved = images.clone()
    moved[..., row, column] += step
    features = [model.double().backbone(x) for x in (images, moved)]
    logits = [model.pooling(model.head(f), f)[0][0, 0] for f in features]
    assert float((logits[1] - logits[0]).detach().abs()) / step == pytest.approx(float(slopes[0, 0].max()), rel=0.01)


AFTERWARDS = ["saliency", "occlusion", *(pytest.param(name, marks=needs_monai) for name in CAMS if name != "cam")]


@pytest.mark.parametrize("name", AFTERWARDS)
def test_a_child_is_explained_with_its_parent(name: str, trained: LocalizingClassifier) -> None:
    """A child that is sure everywhere, given its parent, is where its parent is."""
    model, images = copy.deepcopy(trained), films(3, 5)[0]
    with torch.no_grad():
        model.head.weight[0] = 0
        assert model.head.bias is not None
        model.head.bias[0] = 8
        assert float(LOCALIZERS.load(name)()(model, images)[:, 0].max()) == 0
        model.taxonomy = Taxonomy(["Mass", "Nodule/Mass"])
    maps = LOCALIZERS.load(name)()(model, images).flatten(2)
    assert all(float(torch.corrcoef(pair)[0, 1]) > 0.9 for pair in maps)


def test_a_map_without_evidence_stays_empty() -> None:
    maps = torch.tensor([[[[-1.0, -2.0]], [[2.0, -4.0]]]])
    assert scaled(maps).tolist() == [[[[0, 0]], [[1, 0]]]]


@pytest.mark.parametrize("name", CAMS)
def test_absent_monai_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("monai", "monai.visualize"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"'monai'.*pip install 'hilum\[monai\]'"):
        LOCALIZERS.load(name)()


def test_squares_that_leave_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^expected a stride of at least 1 and at most the size, 8; found 9"):
        LOCALIZERS.load("occlusion")(size=8, stride=9)
