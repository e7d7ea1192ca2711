"""The small residual trunk: output stride 8, trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from hilum.models.backbones.base import ReceptiveField, StagedBackbone, in_turn


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalization and a projected shortcut (He et al. 2016).

    The shortcut takes every ``stride``-th cell and then a 1×1 convolution of stride 1. A strided one is the same sum,
    but its backward pass writes beyond its memory in oneDNN on processors with AVX2 (uxlfoundation/oneDNN #6035).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, dilation, dilation, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, h, w) → (B, channels_out, h / stride, w / stride)."""
        z = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(z)) + self.shortcut(x[:, :, :: self.stride, :: self.stride]))


class ResidualTrunk(StagedBackbone):
    """A small residual trunk with output stride 8, trained from scratch (0.17 M weights).

    Batch normalization only: group, instance and layer normalization let every cell see the whole image,
    and the map is lost while the classification still looks plausible.
    ``widths``: channels of the three stages. ``dilation``: of the last stage; the receptive field is 81 px
    with 1 and 113 px with 2. Raises ``ValueError`` for numbers below 1.
    """

    def __init__(self, widths: Sequence[int] = (24, 48, 96), dilation: int = 1) -> None:
        super().__init__()
        whole = isinstance(widths, Sequence) and all(isinstance(width, int) and width >= 1 for width in widths)
        if not whole or len(widths) != 3:
            raise ValueError(f"expected three whole numbers above 0 as widths; found {widths}")
        if dilation < 1:
            raise ValueError(f"expected a dilation of at least 1; found {dilation}")
        w0, w1, w2 = widths
        self.stem = nn.Sequential(
            nn.Conv2d(1, w0, 5, 2, 2, bias=False), nn.BatchNorm2d(w0), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.Sequential(
            ResidualBlock(w0, w0, 1, 1), ResidualBlock(w0, w1, 2, 1), ResidualBlock(w1, w2, 1, dilation)
        )
        field = ReceptiveField()
        for kernel, stride, d in ((5, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 1)):
            field.convolve(kernel, stride, d)
        field.convolve(3, 1, dilation)
        field.convolve(3, 1, dilation)
        self.widths = (w0, w1, w2)
        self.channels, self.stride, self.receptive_field = w2, field.stride, field.size

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the three stages, of strides 4, 8 and 8."""
        return in_turn(self.stem(2 * x - 1), self.stages)
