"""The interface of a pooling."""

from __future__ import annotations

from torch import Tensor, nn


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
        return self.pool(cells.flatten(2)), cells.sigmoid()

    def pool(self, logits: Tensor) -> Tensor:
        """Return image logits (B, C) of cell logits (B, C, N)."""
        raise NotImplementedError
