"""Attention to channels, to places and to scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.models.neck.base import Neck

SCALES = 3


class ChannelAttention(nn.Module):
    """z + g ⊙ z ⊙ σ(W₂ ReLU(W₁ GAP(z))), g = 0 at first (squeeze and excitation, Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.weigh = nn.Sequential(nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1))
        self.gate = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) and the weights of the channels (B, D) in [0, 1]."""
        weights = self.weigh(z.mean((2, 3), keepdim=True)).sigmoid()
        return z + self.gate * (z * weights), weights.flatten(1)


class ElementAttention(nn.Module):
    """z + g ⊙ z ⊙ σ(conv1×1(ReLU(conv3×3(z)))), g = 0 at first."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.mask = nn.Sequential(nn.Conv2d(channels, narrow, 3, 1, 1), nn.ReLU(), nn.Conv2d(narrow, 1, 1))
        self.gate = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) and the mask (B, 1, h, w) in [0, 1]."""
        mask = self.mask(z).sigmoid()
        return z + self.gate * (z * mask), mask


class ScaleAttention(nn.Module):
    """z + g ⊙ Σ_s α_s P_s z_s with α = softmax_s(W [GAP(z_1) … GAP(z_S)]), z the last map, g = 0 at first."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(c, channels[-1], 1) for c in channels)
        self.weigh = nn.Linear(sum(channels), len(channels))
        self.gate = nn.Parameter(torch.zeros(channels[-1], 1, 1))

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D, h, w) of maps (B, D_s, h_s, w_s), and α (B, S)."""
        z = maps[-1]
        alpha = self.weigh(torch.cat([m.mean((2, 3)) for m in maps], 1)).softmax(1)
        grid = (z.shape[2], z.shape[3])
        sized = [m if m.shape[2:] == z.shape[2:] else F.adaptive_avg_pool2d(m, grid) for m in maps]
        parts = torch.stack([project(m) for project, m in zip(self.project, sized, strict=True)], 1)
        return z + self.gate * (alpha[:, :, None, None, None] * parts).sum(1), alpha


class TripleAttention(Neck):
    """Scale, channel and element attention on the trunk's last maps (A3Net-style, Wang et al. 2021).

    The paper sets its channel attention after every dense block; here all three follow the trunk, scale attention over
    the last three maps of its pyramid. ``channel``, ``element``, ``scale``: whether each is on, at least one;
    ``reduction``: by how much the first two narrow the channels. Raises ``ValueError``, also for scale attention
    behind a trunk of one map.

    By design channel and scale weights come from the whole image, so a finding anywhere changes every cell a little:
    group normalization, which does so in every layer, loses the map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        findings: int,
        channel: bool = True,
        element: bool = True,
        scale: bool = True,
        reduction: int = 16,
    ) -> None:
        super().__init__(channels, findings)
        if not (channel or element or scale):
            raise ValueError("expected at least one of channel, element and scale; found none")
        if reduction < 1:
            raise ValueError(f"expected a reduction of at least 1; found {reduction}")
        if scale and len(channels) < 2:
            raise ValueError("expected a backbone of several maps for scale attention, or scale: false; found one map")
        self.maps = min(SCALES, len(channels)) if scale else 1
        self.scale = ScaleAttention(channels[-self.maps :]) if scale else None
        self.channel = ChannelAttention(channels[-1], reduction) if channel else None
        self.element = ElementAttention(channels[-1], reduction) if element else None

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return features (B, D, h, w)."""
        z = self.scale(*pyramid)[0] if self.scale else pyramid[-1]
        z = self.channel(z)[0] if self.channel else z
        return self.element(z)[0] if self.element else z
