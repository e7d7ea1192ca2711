"""What a server sums up of the replies of a wave: as many sums as there are tensors, however many the sites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hilum.federation.aggregation import WeightedMean
from hilum.models.classifier import StateGroup
from hilum.training.state import State


@dataclass
class Tally:
    """``mean``: of the states, weighted among the sites that were asked. ``extra``: Σ p_k of the strategy's own
    tensors, p_k among all sites of the federation. ``steps``, ``row_steps`` (C,): of effective local steps, weighted
    like trunk and head rows of ``mean``. ``told``: the strategy's own tensors of the last reply.
    """

    groups: Mapping[str, StateGroup]
    mean: WeightedMean = field(init=False)
    extra: WeightedMean = field(init=False)
    steps: float = 0.0
    row_steps: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    told: State = field(default_factory=dict)
    replies: int = 0

    def __post_init__(self) -> None:
        self.mean, self.extra = WeightedMean(self.groups), WeightedMean(self.groups)

    def merge(self, other: Tally) -> None:
        """Add what another server, of a region, has summed up."""
        self.mean.merge(other.mean)
        self.extra.merge(other.extra)
        self.steps += other.steps
        self.row_steps = self.row_steps + other.row_steps
        self.replies += other.replies

    def fill(self, other: Tally) -> None:
        """Take the mean of another tally in what nobody weighs in here."""
        self.mean.fill(other.mean)
