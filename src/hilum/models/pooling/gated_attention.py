"""Cells weighted by a learned, gated attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hilum.models.pooling.base import Pooling, attention_maps


class GatedAttentionPooling(Pooling):
    """Attention-weighted mean of cell logits, one attention a finding (Ilse et al. 2018, eq. 9).

    ``hidden``: width of the gate, at least 1 (``ValueError``). The map is attention × cell probability, scaled by
    the highest attention.
    """

    per_finding = ("attention.weight",)

    def __init__(self, channels: int, findings: int, hidden: int = 64) -> None:
        super().__init__(channels, findings)
        if hidden < 1:
            raise ValueError(f"expected a hidden width of at least 1; found {hidden}")
        self.content = nn.Conv2d(channels, hidden, 1)
        self.gate = nn.Conv2d(channels, hidden, 1)
        self.attention = nn.Conv2d(hidden, findings, 1, bias=False)

    def forward(self, cells: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return S = Σ a_i s_i with a = softmax(wᵀ(tanh(V z) ⊙ σ(U z))), and the maps."""
        scores = self.attention(torch.tanh(self.content(features)) * self.gate(features).sigmoid())
        weights = scores.flatten(2).softmax(2)
        flat = cells.flatten(2)
        return (weights * flat).sum(2), attention_maps(weights, flat).view_as(cells)
