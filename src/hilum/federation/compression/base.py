"""What a compression is: encode at the site, decode at the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hilum.models.classifier import StateGroup
from hilum.training.state import State


@dataclass(frozen=True)
class Compression:
    """No compression: a site sends its state as it is.

    ``groups``: of every tensor that is averaged. ``whole``: groups whose values are sent, not what changed in them:
    statistics, and what a site trains from values of its own.
    """

    groups: Mapping[str, StateGroup]
    whole: frozenset[StateGroup] = frozenset({"norm_stats"})

    def encode(self, state: State, start: State, residual: State) -> tuple[State, State]:
        """Return what is sent of ``state``, trained from ``start``, and the residual of what was not.

        ``residual``: that of the round before, which is added to this update (error feedback, Seide et al. 2014).
        """
        return state, residual

    def decode(self, sent: State, start: State) -> State:
        """Return the state that ``sent`` stands for; raises ``TrainingError`` where it does not fit ``start``."""
        return sent
