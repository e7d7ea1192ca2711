"""An image as a bag of overlapping crops, each seen alone by another trunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from hilum.models import BACKBONES
from hilum.models.backbones.base import Backbone
from hilum.models.patches import patch_bag

Cell = Literal["mean", "centre"]


class PatchBag(Backbone):
    """The patch form of multiple instance learning (Schwab et al. 2020): a cell of the map is a crop, seen alone.

    Crops of ``size`` px every ``stride`` px go through ``trunk``, a backbone's name or name with options; black lies
    beyond the border. ``cell`` 'mean': the features of a crop are the mean over its own map, as of a patch classifier,
    and the map of an image is at every place the mean over the crops that cover it. 'centre': its map's central cell.
    With s the trunk's stride, it is the cell of the fully convolutional form, away from the border, where ``stride``
    and ``size`` are multiples of s and ``size`` is at least the trunk's receptive field + 2 s (of ``residual``, the
    receptive field itself will do); smaller crops cut the field off. That form is much quicker. Raises ``ValueError``,
    ``UnknownName``.
    """

    def __init__(
        self, trunk: str | Mapping[str, Any] = "residual", size: int = 32, stride: int = 16, cell: Cell = "mean"
    ) -> None:
        super().__init__()
        if size < 1 or stride < 1:
            raise ValueError(f"expected a size and a stride of at least 1; found {size} and {stride}")
        if stride > size:
            raise ValueError(f"expected a stride of at most the size, so that every px is seen; found {stride}, {size}")
        if cell not in get_args(Cell):
            raise ValueError(f"expected cell among {', '.join(get_args(Cell))}; found '{cell}'")
        named = {"name": trunk} if isinstance(trunk, str) else dict(trunk)
        name = named.pop("name", "")
        BACKBONES.check(name, named)
        self.trunk: Backbone = BACKBONES.load(name)(**named)
        self.size, self.stride, self.cell = size, stride, cell
        self.centre = (-(-size // self.trunk.stride) - 1) // 2
        self.channels = self.trunk.channels
        self.receptive_field = size if cell == "mean" else min(size, self.trunk.receptive_field)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels, ceil(H / stride), ceil(W / stride)) of images (B, 1, H, W) in [0, 1]."""
        before = self.centre * self.trunk.stride if self.cell == "centre" else self._margin
        rows, columns = (-(-side // self.stride) for side in x.shape[2:])
        below, right = (
            (cells - 1) * self.stride + self.size - before - side
            for cells, side in ((rows, x.shape[2]), (columns, x.shape[3]))
        )
        crops, _ = patch_bag(F.pad(x, (before, right, before, below)), self.size, self.stride)
        maps = self.trunk(crops.flatten(0, 1))
        cells = maps.mean((2, 3)) if self.cell == "mean" else maps[:, :, self.centre, self.centre]
        return cells.unflatten(0, (len(x), rows, columns)).permute(0, 3, 1, 2)

    def fold(self, maps: Tensor) -> Tensor:
        """Return, for each square of ``stride`` px, the mean score of the crops that cover a pixel, over its pixels.

        ``fold_scores`` axis by axis. The crop's centre is a place of its own, so with ``cell`` 'centre' maps stay.
        """
        if self.cell == "centre" or self.stride == self.size:
            return maps
        rows, columns = (self._shares(cells).to(maps) for cells in maps.shape[2:])
        return torch.einsum("ih,bchw,jw->bcij", rows, maps, columns)

    def _shares(self, cells: int) -> Tensor:
        """Return how much each crop along an axis counts in each square, (cells, cells); rows add up to 1."""
        pixels, first = torch.arange(cells * self.stride)[:, None], torch.arange(cells) * self.stride - self._margin
        covers = ((first <= pixels) & (pixels < first + self.size)).double()
        return (covers / covers.sum(1, keepdim=True)).unflatten(0, (cells, self.stride)).mean(1)

    @property
    def _margin(self) -> int:
        """Pixels by which a crop begins before its square."""
        return (self.size - self.stride) // 2
