"""The interface of a neck, and the neck that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Neck(nn.Module):
    """Between trunk and head; at initialization its output is the trunk's features, bit for bit.

    ``channels``: of the maps of the trunk's ``pyramid``, of which it reads the last ``maps``. Unlike a trunk's, a
    neck's cells may see the whole image: its page says what they see. ``sums`` names buffers that are sums over
    training images that show a finding: those of several sites add up to that of all. Of a finding that fewer than
    ``least`` patients show at a site there are none. ``segments``: makes masks.
    """

    maps: int = 1
    sums: tuple[str, ...] = ()
    least: int = 0
    segments: bool = False

    def __init__(self, channels: Sequence[int], findings: int) -> None:
        super().__init__()

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return features (B, D, h, w) of the trunk's last ``maps`` maps, the very last of which is (B, D, h, w)."""
        raise NotImplementedError

    def look(self, joint: Callable[[Tensor], Tensor], *pyramid: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what ``forward`` does, and masks (B, C, h, w) in [0, 1] where the neck segments.

        ``joint``: makes masks of findings those of findings under their parents, where the model has a taxonomy.
        """
        return self(*pyramid), None

    def loss(self, maps: Tensor, masks: Tensor, targets: Tensor) -> Tensor | None:
        """Return what the neck's masks (B, C, h, w) add to the loss of a batch, from maps and targets (B, C)."""
        return None

    def counts_in(self, round_: int, rounds: int) -> bool:
        """Tell whether a site counts its ``sums`` anew in a round, 1 … ``rounds``."""
        return False

    def count(self, masks: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the ``sums`` of a batch from its masks (B, C, h, w) and targets (B, C), NaN where unknown."""
        return {}

    def released(self, sums: dict[str, Tensor], patients: Tensor) -> dict[str, Tensor]:
        """Return what may leave a site of the ``sums`` over its images; ``patients`` (C,) show the findings."""
        return sums


class NoNeck(Neck):
    """None: the head reads the trunk's features."""

    def forward(self, *pyramid: Tensor) -> Tensor:
        """Return the last map."""
        return pyramid[-1]
