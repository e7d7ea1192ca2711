"""Cells weighted by what a small transformer makes of all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hilum.models.pooling.base import Pooling, attention_maps


class TransformerPooling(Pooling):
    """Cell logits weighted by the attention of a small transformer over the cells (TransMIL-style, Shao et al. 2021).

    The cells attend to each other, then one learned query a finding attends to them; neither positions nor Nyström's
    approximation, which grids of a few hundred cells do without. Layer normalization and attention see the whole
    image, so they set the weights alone: what is weighted is each cell's own logit. The map is attention over its
    highest × cell probability. ``layers``, ``heads``, ``hidden``: at least 1, ``hidden`` a multiple of ``heads``
    (``ValueError``).
    """

    per_finding = ("queries",)

    def __init__(self, channels: int, findings: int, layers: int = 1, heads: int = 2, hidden: int = 32) -> None:
        super().__init__(channels, findings)
        for name, value in {"layers": layers, "heads": heads, "hidden": hidden}.items():
            if value < 1:
                raise ValueError(f"expected {name} of at least 1; found {value}")
        if hidden % heads:
            raise ValueError(f"expected a hidden width that is a multiple of {heads} heads; found {hidden}")
        self.embed = nn.Linear(channels, hidden)
        layer = nn.TransformerEncoderLayer(hidden, heads, 2 * hidden, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.queries = nn.Parameter(torch.randn(findings, hidden))

    def forward(self, cells: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return S = Σ a_i s_i with a = softmax⟨query, token_i⟩ / √d, and the maps."""
        tokens = self.encoder(self.embed(features.flatten(2).transpose(1, 2)))
        weights = (torch.einsum("cd,bnd->bcn", self.queries, tokens) / math.sqrt(tokens.shape[2])).softmax(2)
        flat = cells.flatten(2)
        return (weights * flat).sum(2), attention_maps(weights, flat).view_as(cells)
