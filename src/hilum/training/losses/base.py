"""What every loss has in common: costs of labels, and their mean over those that are known."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

TINY = 1e-12  # a share below which nothing is learned from it


class Loss:
    """Mean cost of the known labels, 0 where none is known.

    ``positive``, ``known`` (C,): how many labels of each finding the images have that the participant trains on, shared
    ones included, as often as they are drawn; without them every loss takes findings for balanced. Options out of range
    raise ``ValueError``.
    """

    def __init__(self, positive: NDArray[Any] | None = None, known: NDArray[Any] | None = None) -> None:
        self.positive = torch.ones(1) if positive is None else torch.from_numpy(positive).float()
        self.negative = torch.ones(1) if known is None else torch.from_numpy(known).float() - self.positive

    def cost(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the cost of every label: (B, C) of logits and targets in [0, 1]; what is unknown is 0 here."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits (B, C) and targets (B, C) in [0, 1] or NaN, unknown."""
        known = ~targets.isnan()
        return (self.cost(logits, targets.nan_to_num(0.0)) * known).sum() / known.sum().clamp(min=1)

    def balanced(self, positive: Tensor, negative: Tensor, targets: Tensor) -> Tensor:
        """Return weights (B, C) of labels from those of the two classes (C,), scaled to a mean of 1 over its labels.

        So a rare finding counts as much as a common one.
        """
        present = (self.positive > 0) & (self.negative > 0)
        weighed = self.positive * positive + self.negative * negative
        scale = torch.where(present, (self.positive + self.negative) / weighed, torch.ones(()))
        positive = torch.where(present, positive * scale, torch.ones(())).to(targets.device)
        negative = torch.where(present, negative * scale, torch.ones(())).to(targets.device)
        return targets * positive + (1 - targets) * negative


def in_range(option: str, value: float, low: float, high: float) -> float:
    """Return the value of an option; raises ``ValueError`` where it is not within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"expected {option} of {low:g} to {high:g}; found {value}")
    return float(value)


def power(share: Tensor, gamma: float) -> Tensor:
    """Return share^γ of a share in [0, 1]. With γ < 1, its gradient, infinite at 0, is 0 there."""
    return (share.clamp(min=TINY) if gamma < 1 else share) ** gamma
