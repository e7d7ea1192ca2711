"""A quarter of the bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hilum.errors import TrainingError
from hilum.federation.compression.update import Parts, UpdateCompression, require

LEVELS, SCALE = "levels", "scale"
MOST = 127


def quantize(values: Tensor) -> Parts:
    """Return values as whole multiples −127 … 127 of one scale; the error is at most half of the scale."""
    scale = values.abs().max() / MOST
    levels = torch.round(values / scale).nan_to_num(0.0).clamp(-MOST, MOST)  # 0 / 0 where the scale is below float32
    return {LEVELS: levels.to(torch.int8), SCALE: scale}


def dequantize(parts: Parts, shape: torch.Size | None) -> Tensor:
    """Return the values of ``quantize``; raises ``TrainingError`` where the parts do not fit."""
    scale = require(parts, SCALE, torch.float32, torch.Size([]))
    if not bool(torch.isfinite(scale)):
        raise TrainingError(f"expected a finite scale; found {float(scale)}.")
    return require(parts, LEVELS, torch.int8, shape).float() * scale


@dataclass(frozen=True)
class Int8(UpdateCompression):
    """The update in 8 bits with one scale a tensor, a quarter of the bytes; what rounding takes follows later."""

    def pack(self, update: Tensor) -> Parts:
        """Return levels and their scale."""
        return quantize(update)

    def unpack(self, parts: Parts, like: Tensor) -> Tensor:
        """Return the update; raises ``TrainingError`` where the parts do not fit."""
        return dequantize(parts, like.shape)
