"""Half of the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hilum.federation.compression.update import Parts, UpdateCompression, require

UPDATE = "update"


@dataclass(frozen=True)
class BFloat16(UpdateCompression):
    """The update in bfloat16, half of the bytes; its relative error is at most 2⁻⁸, and nothing is kept of it."""

    feedback: ClassVar[bool] = False

    def pack(self, update: Tensor) -> Parts:
        """Return the update in bfloat16."""
        return {UPDATE: update.bfloat16()}

    def unpack(self, parts: Parts, like: Tensor) -> Tensor:
        """Return the update; raises ``TrainingError`` where the parts do not fit."""
        return require(parts, UPDATE, torch.bfloat16, like.shape).float()
