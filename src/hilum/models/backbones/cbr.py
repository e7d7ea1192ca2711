"""The CBR family: convolution, batch normalization, rectifier, pooling, and the same again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hilum.models.backbones.base import ReceptiveField, StagedBackbone, in_turn


class CBR(StagedBackbone):
    """Plain convolutions with max pooling in between (Raghu et al. 2019, "Transfusion"), output stride 16.

    The default is CBR-Small: 7 × 7 convolutions of ``widths`` 32, 64, 128 and 256, a receptive field of 121 px.
    LargeW is 64, 128, 256, 512; LargeT 32, 64, 128, 256, 512; Tiny has a ``kernel`` of 5. The first layers are followed
    by 3 × 3 max pooling of stride 2, as many as it takes to ``output_stride``. Raises ``ValueError``.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256), kernel: int = 7, output_stride: int = 16) -> None:
        super().__init__()
        whole = isinstance(widths, Sequence) and all(isinstance(width, int) and width >= 1 for width in widths)
        if not whole or not widths:
            raise ValueError(f"expected whole numbers above 0 as widths; found {widths}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel of at least 1; found {kernel}")
        strides = [2**k for k in range(1, len(widths) + 1)]
        if output_stride not in strides:
            raise ValueError(f"expected an output_stride among {', '.join(map(str, strides))}; found {output_stride}")
        field, self.layers = ReceptiveField(), nn.ModuleList()
        for narrow, wide in zip((1, *widths), widths, strict=False):
            layer = [nn.Conv2d(narrow, wide, kernel, 1, kernel // 2, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            field.convolve(kernel)
            if field.stride < output_stride:
                layer.append(nn.MaxPool2d(3, 2, 1))
                field.convolve(3, 2)
            self.layers.append(nn.Sequential(*layer))
        self.widths = tuple(widths)
        self.channels, self.stride, self.receptive_field = widths[-1], field.stride, field.size

    def pyramid(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the map of every layer, after its pooling."""
        return in_turn(2 * x - 1, self.layers)
