"""What a runtime answers: which sites are there, and exchange these tasks for replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hilum.federation.messages import LabelCounts, Reply, Task
from hilum.training.state import State


class Runtime(Protocol):
    """Where the sites are. ``site_states``: what each site keeps between rounds."""

    site_states: dict[str, State]

    def sites(self) -> list[str]:
        """Names of the sites that are there."""

    def label_counts(self) -> dict[str, LabelCounts]:
        """Return what each site tells of its labels before training."""

    def exchange(self, tasks: Mapping[str, Task]) -> list[Reply]:
        """Give every site its task and return the replies, in the order of the tasks."""

    def validate(self, state: State) -> dict[str, float]:
        """Return the validation loss of each source at each site."""
