"""The largest entries alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hilum.errors import StudyError, TrainingError
from hilum.federation.compression.int8 import LEVELS, SCALE, dequantize, quantize
from hilum.federation.compression.update import Parts, UpdateCompression, require

ENTRIES, GAPS = "entries", "gaps"
VALUES = ("float16", "int8")
GREATEST = torch.finfo(torch.float16).max
WHOLE_NUMBERS = (torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True)
class TopK(UpdateCompression):
    """The entries of the update that are largest by absolute value; the others follow when they have grown.

    ``share``: of the entries of each tensor, at least one. ``values``: one of ``VALUES``. Where the entries are is
    told by the distance from one to the next, in the smallest whole numbers that hold them. Sources: Aji and
    Heafield 2017; Stich et al. 2018 for the convergence with error feedback.
    """

    share: float = 0.05
    values: str = "float16"

    def __post_init__(self) -> None:
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise StudyError(f"Expected compression.share above 0 and at most 1; found {self.share!r}.")
        if self.values not in VALUES:
            raise StudyError(f"Expected compression.values among {', '.join(VALUES)}; found {self.values!r}.")

    def pack(self, update: Tensor) -> Parts:
        """Return the values of the largest entries, and their gaps."""
        flat = update.reshape(-1)
        count = max(1, math.ceil(self.share * len(flat) - 1e-9))
        where = torch.sort(torch.topk(flat.abs(), count, sorted=False).indices).values
        gaps = torch.diff(where, prepend=where.new_zeros(1))
        chosen, most = flat[where], int(gaps.max())
        smallest = next(kind for kind in WHOLE_NUMBERS if most <= torch.iinfo(kind).max)
        kept = quantize(chosen) if self.values == "int8" else {ENTRIES: chosen.clamp(-GREATEST, GREATEST).half()}
        return {**kept, GAPS: gaps.to(smallest)}

    def unpack(self, parts: Parts, like: Tensor) -> Tensor:
        """Return the update, 0 where nothing was sent; raises ``TrainingError`` where the parts do not fit."""
        packed = {LEVELS, SCALE} if self.values == "int8" else {ENTRIES}
        if set(parts) != packed | {GAPS} or parts[GAPS].dtype not in WHOLE_NUMBERS:
            raise TrainingError(
                f"expected the parts {', '.join(sorted(packed))} and whole {GAPS}; found {', '.join(sorted(parts))}."
            )
        gaps = require(parts, GAPS, parts[GAPS].dtype, None).long()
        if self.values == "int8":
            values = dequantize(parts, gaps.shape)
        else:
            values = require(parts, ENTRIES, torch.float16, gaps.shape).float()
        where = gaps.cumsum(0)
        if len(gaps) == 0 or int(gaps.min()) < 0 or bool((gaps[1:] == 0).any()) or int(where[-1]) >= like.numel():
            raise TrainingError(f"expected ascending entries below {like.numel()}; found others.")
        flat = torch.zeros(like.numel())
        flat[where] = values
        return flat.view(like.shape)
