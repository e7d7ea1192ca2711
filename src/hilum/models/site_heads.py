"""Head rows of several hospitals in one model, weighed by how much an image looks like theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from hilum.models.pooling.base import Pooling
from hilum.models.taxonomy import Taxonomy

SHRINKAGE = 0.1
HOME = "home.features"  # of what a site keeps: the mean (D,) of its features under the shared weights
GATE = ("gate.weight", "gate.bias")


@dataclass(frozen=True)
class FeatureMoments:
    """Mean (D,) and second moment (D, D) of the features of ``images`` images, each averaged over its cells."""

    images: int
    mean: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def of(cls, features: Sequence[Tensor]) -> FeatureMoments:
        """Return the moments of features (B, D, h, w)."""
        rows = torch.cat([f.double().mean((2, 3)) for f in features]).numpy()
        return cls(len(rows), rows.mean(0), rows.T @ rows / len(rows))


def gate_of(moments: Sequence[FeatureMoments]) -> tuple[Tensor, Tensor]:
    """Return the linear discriminant between hospitals with equal priors: weights (K, D) and biases (K,).

    The covariance within the hospitals is pooled from their moments, so it is that of all their images together, and
    shrunk towards a multiple of the identity by ``SHRINKAGE``.
    """
    means = np.stack([m.mean for m in moments])
    images = np.array([m.images for m in moments], np.float64)
    within = sum(n * (m.second - np.outer(m.mean, m.mean)) for n, m in zip(images, moments, strict=True)) / images.sum()
    size = len(within)
    scale = max(float(np.trace(within)) / size, 1e-12)
    weight = np.linalg.solve((1 - SHRINKAGE) * within + SHRINKAGE * scale * np.eye(size), means.T).T
    bias = -0.5 * (weight * means).sum(1)
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def pack_heads(
    moments: Mapping[str, FeatureMoments], own: Mapping[str, Tensor], rows: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of ``SiteHeads``: what each hospital, by name, tells of its features, rows and head."""
    sites = sorted(moments)
    weights, biases = gate_of([moments[site] for site in sites])
    tensors: dict[str, Tensor] = {}
    for k, site in enumerate(sites):
        parts = {"gate.weight": weights[k], "gate.bias": biases[k], "own": own[site], **rows[site]}
        tensors |= {f"{site}/{name}": tensor for name, tensor in parts.items()}
    return tensors


class SiteHeads(nn.Module):
    """Mixture of the hospitals' heads for an image of unknown origin.

    P(y_c | x) = Σ_k P(k | x) σ(s_kc(x)) over the hospitals k that have a row of their own for finding c; P(k | x) is
    the posterior of ``gate_of``. With a taxonomy s_kc is that of the finding itself, and of c given its parent a
    hospital says as much as P(k | x) times what it says of the parent. Of a finding of which none has its own row, all
    hold the same one. ``tensors``: of ``pack_heads``. ``home``: the hospital that the images come from; its own rows
    stand alone, and of the rest the others speak as ``settle`` says. ``at_home``: which rows are its own, as 'own'
    (C,), and its model, for a home that is not among ``tensors`` since it had left before the last round. Raises
    ``KeyError`` for an absent tensor.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], home: str | None = None, at_home: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        sites = sorted({name.partition("/")[0] for name in tensors})
        if home is not None and home not in sites and at_home:
            names = [name.partition("/")[2] for name in tensors if name.startswith(f"{sites[0]}/")]
            silent = {part: torch.zeros_like(tensors[f"{sites[0]}/{part}"]) for part in GATE}  # it speaks alone or not
            tensors = {**tensors, **{f"{home}/{name}": (silent | dict(at_home))[name] for name in names}}
            sites = [*sites, home]
        self.gate = tuple(torch.stack([tensors[f"{site}/{part}"] for site in sites]) for part in GATE)
        self.rows = [{n.partition("/")[2]: t for n, t in tensors.items() if n.startswith(f"{site}/")} for site in sites]
        own = torch.stack([tensors[f"{site}/own"] for site in sites])
        if home in sites:
            here = torch.tensor([site == home for site in sites])[:, None]
            own = torch.where(own[sites.index(home)], here, own)
        self.speaks = own | ~own.any(0)
        self.settled: Tensor | None = None

    def settle(self, features: Tensor) -> None:
        """Let all images be those of one hospital, whose mean features (D,) under the shared statistics these are.

        Its own statistics take out of the features what tells it from the others, so that they must not be asked.
        """
        self.settled = features

    def forward(
        self, features: Tensor, head: nn.Module, pooling: Pooling, taxonomy: Taxonomy | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and maps (B, C, h, w) of features (B, D, h, w), with a taxonomy given the parents."""
        said = []
        for rows in self.rows:
            placed = {name: tensor.to(features.device) for name, tensor in rows.items()}
            cells = functional_call(head, _part(placed, "head."), (features,))
            said.append(functional_call(pooling, _part(placed, "pooling."), (cells, features)))
        logits, maps = (torch.stack(parts, 1) for parts in zip(*said, strict=True))
        of_image = self.log_shares(features)
        of_cell = of_image[..., None, None]
        if taxonomy is not None:
            seen = F.logsigmoid(taxonomy.unconditional(logits.flatten(0, 1)))
            of_image = of_image + taxonomy.of_parents(seen, 0.0).view_as(logits)
            seen = taxonomy.joint(maps.flatten(0, 1)).clamp(min=1e-30).log()
            of_cell = of_cell + taxonomy.of_parents(seen, 0.0).view_as(maps)
        there, absent = (of_image + F.logsigmoid(x) for x in (logits, -logits))
        return there.logsumexp(1) - absent.logsumexp(1), (of_cell.softmax(1) * maps).sum(1)

    def log_shares(self, features: Tensor) -> Tensor:
        """Return log P(k | x) among the hospitals that speak of finding c, −∞ for the others: (B, K, C)."""
        weight, bias = (tensor.to(features.device) for tensor in self.gate)
        seen = features.mean((2, 3)) if self.settled is None else self.settled.to(features).expand(len(features), -1)
        scores = seen @ weight.T + bias
        return torch.where(self.speaks.to(features.device), scores[:, :, None], -torch.inf).log_softmax(1)


def _part(rows: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in rows.items() if name.startswith(prefix)}
