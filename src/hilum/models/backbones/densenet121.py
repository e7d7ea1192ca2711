"""DenseNet-121 of MONAI, with the strides that a map can afford."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from hilum.errors import MissingExtra
from hilum.models.backbones.base import ReceptiveField, StagedBackbone, in_turn

LAYERS = (6, 12, 24, 16)
STRIDES = (8, 16, 32)


class DenseNet121(StagedBackbone):
    """DenseNet-121 from scratch (Huang et al. 2017; MONAI, the extra ``monai``): the first ``blocks`` of 4.

    The last average poolings are left out where ``output_stride`` is 8 or 16. A cell sees 59 px after one block
    (stride 4), 255 after two (stride 8), 639 or 1031 after three and 895 to 2071 after four, so that on a usual image
    the cells of more than two blocks are local only as far as training makes them so. Raises ``ValueError``,
    ``MissingExtra``.
    """

    def __init__(self, blocks: int = 4, output_stride: int = 16) -> None:
        super().__init__()
        if not 1 <= blocks <= len(LAYERS):
            raise ValueError(f"expected 1 to {len(LAYERS)} blocks; found {blocks}")
        if output_stride not in STRIDES:
            raise ValueError(f"expected an output_stride among {', '.join(map(str, STRIDES))}; found {output_stride}")
        try:
            from monai.networks.nets.densenet import DenseNet121 as Whole
        except ImportError:
            raise MissingExtra("monai", "monai") from None
        parts = dict(Whole(spatial_dims=2, in_channels=1, out_channels=1).features.named_children())
        field = ReceptiveField()
        field.convolve(7, 2)
        field.convolve(3, 2)
        before: nn.Module = nn.Sequential(*(parts[name] for name in ("conv0", "norm0", "relu0", "pool0")))
        self.stages = nn.ModuleList()
        for k, layers in enumerate(LAYERS[:blocks], start=1):
            self.stages.append(nn.Sequential(before, parts[f"denseblock{k}"]))
            for _ in range(layers):
                field.convolve(3)
            if k == blocks:
                break
            before = cast(nn.Sequential, parts[f"transition{k}"])
            before[-1] = nn.Identity()
            if field.stride < output_stride:
                before[-1] = nn.AvgPool2d(2, ceil_mode=True)
                field.convolve(2, 2)
        self.norm = parts["norm5"] if blocks == len(LAYERS) else cast(nn.Sequential, parts[f"transition{blocks}"])[0]
        self.widths = (256, 512, 1024, 1024)[:blocks]
        self.channels, self.stride, self.receptive_field = self.widths[-1], field.stride, field.size

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every block."""
        *maps, last = in_turn(2 * x - 1, self.stages)
        return (*maps, F.relu(self.norm(last)))
