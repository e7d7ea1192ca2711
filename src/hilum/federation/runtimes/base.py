"""What a runtime answers: which sites are there, and exchange these tasks for replies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from hilum.federation.messages import Lost, Reply, Task


class Runtime(Protocol):
    """Where the sites are. It moves tasks and replies, and knows nothing of what they ask."""

    def sites(self, round_: int) -> list[str]:
        """Names of the sites that are there in a round, sorted."""

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        """Give every site its task and yield the replies, sorted by the name of the site."""
