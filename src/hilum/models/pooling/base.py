"""The interface of a pooling."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hilum.models.cells import cell_probabilities


class Pooling(nn.Module):
    """Turns the logits of cells into the logit of an image, one finding at a time.

    ``per_finding`` names the parameters whose rows belong to findings, as the head's do.
    """

    per_finding: tuple[str, ...] = ()

    def __init__(self, channels: int, findings: int) -> None:
        super().__init__()

    def forward(self, cells: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return image logits (B, C) and maps (B, C, h, w) in [0, 1].

        Shapes: ``cells`` logits (B, C, h, w); ``features`` (B, D, h, w).
        """
        return self.pool(cells.flatten(2)), cell_probabilities(cells)

    def pool(self, logits: Tensor) -> Tensor:
        """Return image logits (B, C) of cell logits (B, C, N)."""
        raise NotImplementedError


def attention_maps(weights: Tensor, logits: Tensor) -> Tensor:
    """Return attention over its highest × probability, of attention and cell logits, all (B, C, N)."""
    return weights / weights.amax(2, keepdim=True) * cell_probabilities(logits)


def log_mean_exp(logits: Tensor, sharpness: Tensor | float) -> Tensor:
    """Return (1/r) log[(1/N) Σ exp(r s_i)], (B, C), of cell logits (B, C, N); ``sharpness`` r > 0, (C, 1) or one."""
    mean = torch.logsumexp(sharpness * logits, 2, keepdim=True) - math.log(logits.shape[2])
    return (mean / sharpness).squeeze(2)
