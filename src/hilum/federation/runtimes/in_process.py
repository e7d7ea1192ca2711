"""All sites in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hilum.errors import RunError, TrainingError
from hilum.federation.messages import Lost, Reply, Task
from hilum.federation.runtimes.base import Tell, tell_of, unheard
from hilum.federation.worker import Worker


@dataclass(frozen=True)
class Presence:
    """Rounds in which a site is there: ``first`` to ``last``, None without an end."""

    first: int = 1
    last: int | None = None

    def __contains__(self, round_: int) -> bool:
        return self.first <= max(round_, 1) and (self.last is None or round_ <= self.last)


class InProcess:
    """All sites in this process, one after the other; the sites share one model as scratch space.

    A reply is made when it is asked for, so that one model's weights are in memory, however many the sites.
    ``presence``: of sites that join late or leave; the others are always there. ``tell`` hears who has answered.
    """

    def __init__(
        self, workers: Sequence[Worker], presence: Mapping[str, Presence] | None = None, tell: Tell = unheard
    ) -> None:
        self.workers = {worker.name: worker for worker in sorted(workers, key=lambda worker: worker.name)}
        self.presence, self.tell = dict(presence or {}), tell

    def sites(self, round_: int) -> list[str]:
        """Names of the sites that are there in a round, sorted."""
        return [name for name in self.workers if round_ in self.presence.get(name, Presence())]

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        """Give every site its task when its reply is asked for, sorted by the name of the site."""
        names = sorted(tasks)
        for turn, name in enumerate(names):
            tell_of(tasks, set(names[:turn]), self.tell)
            try:
                yield self.workers[name].do(tasks[name])
            except (TrainingError, RunError) as error:
                yield Lost(name, str(error), error)
        tell_of(tasks, set(names), self.tell)
