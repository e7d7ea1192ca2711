"""Every cell asks the cells that resemble it, at a coarser scale and in the other lung."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hilum.models.neck.base import Neck

Edges = Literal["learned", "uniform", "random"]
Scales = Literal["two", "one"]


class CrossScaleGraph(Neck):
    """Nearest neighbours across scales, their messages weighted by learned edges (IGNN-style, Zhou et al. 2020).

    Every cell of the map takes messages from the ``neighbours`` cells that resemble it most in the map pooled 2 × 2:
    F + γ W Σ_r a_r V F_r, a = softmax of an edge network on |e_q − e_r| and the relative position; e is a normalized
    1×1 projection to ``width`` channels. γ begins at 0. ``mirror`` adds the cell mirrored left to right, which takes
    upright frontal views. Ablations: ``edges`` 'uniform' weighs neighbours alike, 'random' takes fixed random cells for
    neighbours; ``scales`` 'one' looks for them in the map itself, the cell aside.

    By design a cell sees beyond the trunk's receptive field once γ ≠ 0. Raises ``ValueError``.
    """

    def __init__(
        self,
        channels: Sequence[int],
        findings: int,
        neighbours: int = 5,
        width: int = 32,
        edges: Edges = "learned",
        scales: Scales = "two",
        mirror: bool = False,
    ) -> None:
        super().__init__(channels, findings)
        for name, value in {"neighbours": neighbours, "width": width}.items():
            if value < 1:
                raise ValueError(f"expected {name} of at least 1; found {value}")
        for name, word, known in (("edges", edges, get_args(Edges)), ("scales", scales, get_args(Scales))):
            if word not in known:
                raise ValueError(f"expected {name} among {', '.join(known)}; found '{word}'")
        self.neighbours, self.edges, self.scales, self.mirror = neighbours, edges, scales, mirror
        self.embed = nn.Conv2d(channels[-1], width, 1)
        self.value = nn.Conv2d(channels[-1], width, 1)
        self.out = nn.Conv2d(width, channels[-1], 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        if edges != "uniform":
            self.edge = nn.Sequential(nn.Linear(width + 3, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return features (B, D, h, w)."""
        fine = pyramid[-1]
        coarse = F.avg_pool2d(fine, 2, ceil_mode=True) if self.scales == "two" else fine
        maps = (coarse, fine) if self.mirror else (coarse,)
        asking, asked = _rows(self._embedded(fine)), torch.cat([_rows(self._embedded(m)) for m in maps], 1)
        index = self._index(asking, asked, fine.shape[3])
        values = _gather(torch.cat([_rows(self.value(m)) for m in maps], 1), index)
        weights = values.new_full((*index.shape, 1), 1 / index.shape[2])
        if self.edges != "uniform":
            places = torch.cat([_places(m, fine) for m in maps])
            towards = places[index] - _places(fine, fine)[:, None]
            apart = (_gather(asked, index) - asking[:, :, None]).abs()
            weights = self.edge(torch.cat([apart, towards], 3)).softmax(2)
        message = (weights * values).sum(2).transpose(1, 2).unflatten(2, fine.shape[2:])
        return fine + self.gamma * self.out(message)

    def _embedded(self, features: Tensor) -> Tensor:
        return F.normalize(self.embed(features), dim=1)

    @torch.no_grad()
    def _index(self, asking: Tensor, asked: Tensor, width: int) -> Tensor:
        """Return the cells (B, N, k) that each of N cells asks, as places in ``asked``; the mirrored one comes last."""
        batch, cells = asking.shape[:2]
        others = asked.shape[1] - cells * self.mirror
        alone = self.scales == "one" and cells > 1
        number = min(self.neighbours, others - alone)
        likeness = asking @ asked[:, :others].transpose(1, 2)
        if self.edges == "random":
            likeness = torch.rand(cells, others, generator=torch.Generator().manual_seed(0)).to(asking.device)
            likeness = likeness.expand(batch, -1, -1).clone()
        if alone:
            likeness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        index = likeness.topk(number, 2).indices
        if self.mirror:
            mirrored = torch.arange(cells, device=index.device).view(-1, width).flip(1).flatten() + others
            index = torch.cat([index, mirrored.expand(batch, -1)[:, :, None]], 2)
        return index


def _rows(features: Tensor) -> Tensor:
    """(B, D, h, w) → (B, h·w, D)."""
    return features.flatten(2).transpose(1, 2)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, N, k, D) of (B, M, D) that ``index`` (B, N, k) names."""
    batch, count, width = rows.shape
    start = torch.arange(batch, device=index.device)[:, None, None] * count
    return rows.reshape(-1, width).index_select(0, (index + start).flatten()).view(*index.shape, width)


def _places(features: Tensor, fine: Tensor) -> Tensor:
    """Return column and row of each cell's centre in [0, 1], and 1 where the map is coarser than ``fine``: (h·w, 3).

    The last coarse cell of an odd side is one fine cell wide.
    """
    step = 1 if features.shape[2:] == fine.shape[2:] else 2
    edges = [torch.arange(0, n + step, step, device=fine.device).clamp(max=n) for n in fine.shape[2:]]
    rows, columns = ((edge[:-1] + edge[1:]) / (2 * n) for edge, n in zip(edges, fine.shape[2:], strict=True))
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2).flatten(0, 1)
    return F.pad(grid, (0, 1), value=float(step == 2))
