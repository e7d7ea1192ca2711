"""The highest cell, and every cell as far as it resembles it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hilum.models.pooling.base import Pooling, attention_maps


class DsmilPooling(Pooling):
    """Two streams: the highest cell, and an attention of all cells to it (DSMIL, Li et al. 2021).

    One finding does not read another's cells. Of equal highest cells, the mean is the query. ``hidden``: width of
    queries and values, at least 1 (``ValueError``). The map is the mean of both streams' cell logits as a
    probability, times the attention over its highest.
    """

    per_finding = ("rows", "bias")

    def __init__(self, channels: int, findings: int, hidden: int = 64) -> None:
        super().__init__(channels, findings)
        if hidden < 1:
            raise ValueError(f"expected a hidden width of at least 1; found {hidden}")
        self.query = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, hidden, 1)
        self.rows = nn.Parameter(0.01 * torch.randn(findings, hidden))
        self.bias = nn.Parameter(torch.full((findings,), -2.0))

    def forward(self, cells: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return S = ½ (max s_i + w·Σ a_i v_i + b), a = softmax⟨q_i, q_m⟩ / √d, m the highest cell, and the maps."""
        flat, queries = cells.flatten(2), self.query(features).flatten(2)
        highest = flat.amax(2, keepdim=True)
        critical = (flat == highest).to(queries.dtype)
        critical = critical / critical.sum(2, keepdim=True)
        wanted = torch.einsum("bcn,bdn->bcd", critical, queries)
        scores = torch.einsum("bcd,bdn->bcn", wanted, queries) / math.sqrt(queries.shape[1])
        weights = scores.softmax(2)
        second = torch.einsum("cd,bdn->bcn", self.rows, self.value(features).flatten(2)) + self.bias[:, None]
        logits = (highest[:, :, 0] + (weights * second).sum(2)) / 2
        return logits, attention_maps(weights, (flat + second) / 2).view_as(cells)
