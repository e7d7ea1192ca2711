"""The small network for tuberculosis screening."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hilum.models.backbones.base import ReceptiveField, StagedBackbone, in_turn

WIDTHS = (16, 32, 48, 64, 80)
STRIDES = (8, 16, 32, 64)


class TuberculosisBlock(nn.Module):
    """Mean of two 3×3 convolutions and of a 1×1 shortcut, each with batch normalization and rectifier."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.step = stride**2  # of the shortcut, by slicing: see ResidualBlock
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride, 1)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) → (B, channels_out, ceil(h / stride²), ceil(w / stride²))."""
        main = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return (main + F.relu(self.norm(self.shortcut(x[:, :, :: self.step, :: self.step])))) / 2


class TuberculosisNet(StagedBackbone):
    """The network of Pasa et al. 2019: five blocks of 16, 32, 48, 64 and 80 channels.

    With mean pooling and two findings it has the 231,602 parameters of the original, which reads 512 px at
    ``output_stride`` 64. With 8, 16 or 32 the last max poolings are left out; the receptive field is 143 px with 8, 255
    with 16, 415 with 32 and 607 with 64. Poolings are padded, so that small images keep a map. Raises ``ValueError``.
    """

    def __init__(self, output_stride: int = 8) -> None:
        super().__init__()
        if output_stride not in STRIDES:
            raise ValueError(f"expected an output_stride among {', '.join(map(str, STRIDES))}; found {output_stride}")
        field, self.blocks = ReceptiveField(), nn.ModuleList()
        for k, (narrow, wide) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False)):
            stride = 2 if k == 0 else 1
            block: list[nn.Module] = [TuberculosisBlock(narrow, wide, stride)]
            field.convolve(3, stride)
            field.convolve(3, stride)
            if field.stride < output_stride:
                block.append(nn.MaxPool2d(3, 2, 1))
                field.convolve(3, 2)
            self.blocks.append(nn.Sequential(*block))
        self.widths = WIDTHS
        self.channels, self.stride, self.receptive_field = WIDTHS[-1], field.stride, field.size
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every block, after its pooling."""
        return in_turn(2 * x - 1, self.blocks)
