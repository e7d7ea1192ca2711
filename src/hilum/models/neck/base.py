"""The interface of a neck, and the neck that does nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Neck(nn.Module):
    """Between trunk and head; at initialization its output is the trunk's features, bit for bit.

    ``channels``: of the maps of the trunk's ``pyramid``, of which it reads the last ``maps``. Unlike a trunk's, a
    neck's cells may see the whole image: its page says what they see.
    """

    maps: int = 1

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return features (B, D, h, w) of the trunk's last ``maps`` maps, the very last of which is (B, D, h, w)."""
        raise NotImplementedError


class NoNeck(Neck):
    """None: the head reads the trunk's features."""

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return the last map."""
        return pyramid[-1]
