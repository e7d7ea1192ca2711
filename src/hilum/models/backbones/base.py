"""What every trunk tells about itself."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class Backbone(nn.Module):
    """A convolutional trunk whose cells see only their receptive field.

    ``forward``: images (B, 1, H, W) in [0, 1] → features (B, ``channels``, h, w) with
    h = ceil(H / ``stride``). ``receptive_field`` is the side, in input pixels, of what one cell can see.
    """

    channels: int
    stride: int
    receptive_field: int

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch of images."""
        raise NotImplementedError

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the trunk's stages, fine to coarse; the last is what ``forward`` returns."""
        return (self(x),)

    def fold(self, maps: Tensor) -> Tensor:
        """Return maps of places from maps of cells, both (B, C, h, w): the same, where a cell is one place."""
        return maps

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps of ``pyramid``."""
        return (self.channels,)


class StagedBackbone(Backbone):
    """A trunk each of whose stages leaves a map: ``pyramid`` returns them all, ``forward`` the last.

    ``widths``: their channels.
    """

    widths: tuple[int, ...]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps of ``pyramid``."""
        return self.widths

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, channels, h, w) of images (B, 1, H, W) in [0, 1]."""
        return self.pyramid(x)[-1]


def in_turn(x: Tensor, stages: Iterable[nn.Module]) -> tuple[Tensor, ...]:
    """Return the map that every stage makes of the one before it, the first of ``x``."""
    maps: list[Tensor] = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps)


class ReceptiveField:
    """Running stride and receptive field, in input pixels, of a chain of convolutions (Araujo et al. 2019)."""

    def __init__(self) -> None:
        self.stride = 1
        self.size = 1

    def convolve(self, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        """Append one convolution or pooling layer."""
        self.size += (kernel - 1) * dilation * self.stride
        self.stride *= stride
