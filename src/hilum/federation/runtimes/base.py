"""What a runtime answers: which sites are there, and exchange these tasks for replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from hilum.federation.messages import Lost, Reply, Task


@dataclass(frozen=True)
class Waiting:
    """What an exchange waits for: the task, the sites that have answered, and those that have not."""

    kind: str
    round: int
    done: tuple[str, ...]
    waiting: tuple[str, ...]


Tell = Callable[[Waiting], None]


def unheard(waiting: Waiting) -> None:
    """Tell nobody."""


def tell_of(tasks: Mapping[str, Task], done: set[str], tell: Tell) -> None:
    """Tell which of the sites that were given ``tasks`` have answered."""
    task = next(iter(tasks.values()))
    tell(Waiting(task.kind, task.round, tuple(sorted(done)), tuple(sorted(tasks.keys() - done))))


class Runtime(Protocol):
    """Where the sites are. It moves tasks and replies, and knows nothing of what they ask."""

    def sites(self, round_: int) -> list[str]:
        """Names of the sites that are there in a round, sorted."""

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        """Give every site its task and yield the replies, sorted by the name of the site."""
