"""ResNet of MONAI, with the strides that a map can afford."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.models.backbones.base import ReceptiveField, StagedBackbone, in_turn

DEPTHS = (10, 18, 34, 50)
STRIDES = (8, 16, 32)


class StridedPointwise(nn.Conv2d):
    """1×1 convolution of every ``step``-th cell, by slicing: see ``ResidualBlock``."""

    def __init__(self, strided: nn.Conv2d) -> None:
        super().__init__(strided.in_channels, strided.out_channels, 1, bias=False)
        self.step = strided.stride[0]
        self.weight = strided.weight

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C', ceil(h / step), ceil(w / step))."""
        return super().forward(x[:, :, :: self.step, :: self.step])


class ResNet(StagedBackbone):
    """ResNet from scratch (He et al. 2016; MONAI, the extra ``monai``): the first ``stages`` of 4.

    ``depth``: 10, 18, 34 or 50. The last strides become 1 where ``output_stride`` is 8 or 16. What a cell of ResNet-18
    sees: 43 px after one stage (stride 4), 99 after two (stride 8), 163 or 211 after three and 227 to 435 after four.
    Raises ``ValueError``, ``MissingExtra``.
    """

    def __init__(self, depth: int = 18, stages: int = 4, output_stride: int = 16) -> None:
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"expected a depth among {', '.join(map(str, DEPTHS))}; found {depth}")
        if not 1 <= stages <= 4:
            raise ValueError(f"expected 1 to 4 stages; found {stages}")
        if output_stride not in STRIDES:
            raise ValueError(f"expected an output_stride among {', '.join(map(str, STRIDES))}; found {output_stride}")
        try:
            from monai.networks.nets import resnet
        except ImportError:
            raise MissingExtra("monai", "monai") from None
        given = {"spatial_dims": 2, "n_input_channels": 1, "conv1_t_stride": 2, "bias_downsample": False}
        whole = getattr(resnet, f"resnet{depth}")(**given)
        field = ReceptiveField()
        field.convolve(7, 2)
        field.convolve(3, 2)
        self.stem = nn.Sequential(whole.conv1, whole.bn1, nn.ReLU(), whole.maxpool)
        self.stages = nn.ModuleList()
        for k in range(1, stages + 1):
            stage = getattr(whole, f"layer{k}")
            for block in stage:
                _fit(block, field, output_stride)
            self.stages.append(stage)
        self.widths = tuple(_channels(stage) for stage in self.stages)
        self.channels, self.stride, self.receptive_field = self.widths[-1], field.stride, field.size

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every stage."""
        return in_turn(self.stem(2 * x - 1), self.stages)


def _fit(block: Any, field: ReceptiveField, output_stride: int) -> None:
    """Take a block's stride from it where the map is coarse enough, and append its convolutions to ``field``."""
    dense = field.stride >= output_stride
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    for convolution in convolutions:
        convolution.stride = (1, 1) if dense else convolution.stride
    if block.downsample is not None:
        block.downsample[0] = StridedPointwise(block.downsample[0])
    for convolution in convolutions:
        if convolution.kernel_size == (3, 3):
            field.convolve(3, convolution.stride[0])


def _channels(stage: Any) -> int:
    norms = [m for m in stage[-1].children() if isinstance(m, nn.BatchNorm2d)]
    return norms[-1].num_features
