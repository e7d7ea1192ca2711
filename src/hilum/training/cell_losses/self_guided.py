"""Cells that are sure teach themselves, and every cell of a negative image is negative."""

from __future__ import annotations

from torch import Tensor

from hilum.models.cells import cell_cross_entropy
from hilum.training.cell_losses.base import CellLoss
from hilum.training.losses.base import in_range


class SelfGuided(CellLoss):
    """Cross-entropy of cells with labels that the model gives them itself (Seibold et al. 2020, self-guided loss).

    Without a finding, every cell is negative. With it, cells above ``high`` are positive, those below ``low`` negative
    and those between are left out; a soft label counts as positive from 0.5. Each known label's cells weigh as much as
    another's. ``weight``: of the term at the end of training, to which it rises on a line from 0 after the share
    ``start`` of the rounds. Raises ``ValueError``.
    """

    def __init__(self, weight: float = 0.5, high: float = 0.7, low: float = 0.2, start: float = 1 / 3) -> None:
        self.weight, self.start = in_range("weight", weight, 0, 100), in_range("start", start, 0, 1 - 1e-6)
        self.high, self.low = in_range("high", high, 0, 1), in_range("low", low, 0, 1)
        if self.low > self.high:
            raise ValueError(f"expected low of at most high; found {low} and {high}")

    def __call__(self, maps: Tensor, targets: Tensor, progress: float) -> Tensor | None:
        """Return the weighted term; None before ``start`` and where no label is known."""
        if progress <= self.start:
            return None
        cost = cell_cross_entropy(maps, targets, maps > self.high, maps < self.low)
        rise = (progress - self.start) / (1 - self.start)
        return None if cost is None else self.weight * rise * cost
