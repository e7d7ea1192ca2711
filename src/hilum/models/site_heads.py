"""Head rows of several hospitals in one model, weighed by how much an image looks like theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from hilum.models.pooling.base import Pooling

SHRINKAGE = 0.1
LEAST_IMAGES = 20


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


def gate_of(moments: Sequence[FeatureMoments]) -> dict[str, Tensor]:
    """Return the linear discriminant between hospitals with equal priors: ``gate.weight`` (K, D), ``gate.bias`` (K,).

    The covariance within the hospitals is pooled from their moments, so it is that of all images together, and
    shrunk towards a multiple of the identity by ``SHRINKAGE``.
    """
    means = np.stack([m.mean for m in moments])
    images = np.array([m.images for m in moments], np.float64)
    within = sum(n * (m.second - np.outer(m.mean, m.mean)) for n, m in zip(images, moments, strict=True)) / images.sum()
    size = len(within)
    scale = max(float(np.trace(within)) / size, 1e-12)
    weight = np.linalg.solve((1 - SHRINKAGE) * within + SHRINKAGE * scale * np.eye(size), means.T).T
    bias = -0.5 * (weight * means).sum(1)
    return {"gate.weight": torch.from_numpy(weight).float(), "gate.bias": torch.from_numpy(bias).float()}


class SiteHeads(nn.Module):
    """Mixture of the hospitals' heads for an image of unknown origin.

    P(y_c | x) = Σ_k P(k | x) σ(s_kc(x)) over the hospitals k that have a row of their own for finding c; P(k | x) is
    the posterior of ``gate_of``. ``tensors``: ``gate.weight``, ``gate.bias``, ``own`` (K, C), and
    ``rows.<name>`` (K, …) of every tensor of head and pooling that has a row a finding.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = dict(tensors)

    def forward(self, features: Tensor, head: nn.Module, pooling: Pooling) -> tuple[Tensor, Tensor]:
        """Return logits (B, C) and maps (B, C, h, w) of features (B, D, h, w)."""
        shares = self.shares(features)
        rows = {name[len("rows.") :]: t for name, t in self.tensors.items() if name.startswith("rows.")}
        probabilities, maps = torch.zeros(()), torch.zeros(())
        for k in range(shares.shape[1]):
            cells = functional_call(head, _part(rows, "head.", k), (features,))
            logits, heat = functional_call(pooling, _part(rows, "pooling.", k), (cells, features))
            probabilities = probabilities + shares[:, k] * logits.sigmoid()
            maps = maps + shares[:, k, :, None, None] * heat
        return torch.logit(probabilities, eps=1e-6), maps

    def shares(self, features: Tensor) -> Tensor:
        """Return P(k | x) among the hospitals that own a row of finding c: (B, K, C)."""
        scores = features.mean((2, 3)) @ self.tensors["gate.weight"].T + self.tensors["gate.bias"]
        return torch.where(self.tensors["own"] > 0, scores[:, :, None], -torch.inf).softmax(1)


def _part(rows: Mapping[str, Tensor], prefix: str, k: int) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor[k] for name, tensor in rows.items() if name.startswith(prefix)}
