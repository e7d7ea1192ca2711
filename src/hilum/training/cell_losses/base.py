"""The interface of a loss on cells, and the one that asks nothing of them."""

from __future__ import annotations

from torch import Tensor


class CellLoss:
    """No loss on cells: the image's labels teach them through the pooling alone."""

    def __call__(self, maps: Tensor, targets: Tensor, progress: float) -> Tensor | None:
        """Return a term to add to the loss of a batch.

        Shapes: ``maps`` (B, C, h, w) in [0, 1]; ``targets`` (B, C) in [0, 1] or NaN, unknown. ``progress``: share of
        the rounds that are done with this one, in (0, 1].
        """
        return None
