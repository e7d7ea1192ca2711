"""Sites that train at once, in processes of this machine."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from hilum.errors import HilumError, RunError, TrainingError
from hilum.federation.messages import Lost, Reply, Task
from hilum.federation.payload import reply_of, reply_payload, task_of, task_payload
from hilum.federation.runtimes.base import Tell, tell_of, unheard
from hilum.federation.runtimes.in_process import Presence
from hilum.federation.worker import Worker

Build = Callable[[], Sequence[Worker]]
AHEAD = 2  # replies that may wait for their turn, for each process
PATIENCE = 5.0  # seconds that a process has to end
OF_A_SITE: dict[str, type[HilumError]] = {"TrainingError": TrainingError, "RunError": RunError}


@dataclass
class _Child:
    process: BaseProcess
    connection: Connection
    site: str | None = None

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Processes:
    """Sites that train at once in ``processes`` processes of this machine; the result is that of ``InProcess``.

    ``build`` makes the workers; every process calls it once, so that it has to be importable with what it holds. Any
    process does any site's task, since a site's memory lies on disk. A process that dies costs its site the task, and
    another takes its place. ``tell`` hears who has answered. Use it as a context, which ends the processes.
    """

    def __init__(
        self,
        build: Build,
        names: Sequence[str],
        processes: int,
        presence: Mapping[str, Presence] | None = None,
        tell: Tell = unheard,
    ) -> None:
        self.build, self.names, self.presence, self.tell = build, sorted(names), dict(presence or {}), tell
        self.processes = min(processes, len(self.names))
        self.children: list[_Child] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.end()
        self.children = []

    def sites(self, round_: int) -> list[str]:
        """Names of the sites that are there in a round, sorted."""
        return [name for name in self.names if round_ in self.presence.get(name, Presence())]

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        """Give the processes the tasks as they come free, and yield the replies sorted by the name of the site."""
        names, given, done = sorted(tasks), 0, dict[str, Reply | Lost]()
        for turn, name in enumerate(names):
            while name not in done:
                free = self._free()
                while free and given < min(len(names), turn + 1 + AHEAD * self.processes):
                    self._give(free.pop(0), names[given], tasks[names[given]])
                    given += 1
                tell_of(tasks, {*names[:turn], *done}, self.tell)
                done |= self._finished()
            yield done.pop(name)
        tell_of(tasks, set(names), self.tell)

    def _free(self) -> list[_Child]:
        """Return the processes that have no task; start those that are not there."""
        self.children += [self._start() for _ in range(self.processes - len(self.children))]
        return [child for child in self.children if child.site is None]

    def _start(self) -> _Child:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(self.build, theirs), daemon=True)
        with _interrupts_held():
            process.start()
        theirs.close()
        return _Child(process, ours)

    def _give(self, child: _Child, site: str, task: Task) -> None:
        child.site = site
        with suppress(OSError):  # where it has died, the wait for its answer finds out
            child.connection.send((site, task_payload(task)))

    def _finished(self) -> dict[str, Reply | Lost]:
        """Wait for one or more processes at work, and return what they answer."""
        busy = {child.connection: child for child in self.children if child.site is not None}
        return dict(self._answer(busy[ready]) for ready in wait(list(busy)))  # type: ignore[index]

    def _answer(self, child: _Child) -> tuple[str, Reply | Lost]:
        site, child.site = str(child.site), None
        try:
            kind, content = child.connection.recv()
        except (EOFError, OSError):
            child.end()
            self.children.remove(child)
            return site, _dead(site, child.process.exitcode)
        return site, reply_of(content) if kind == "reply" else _failed(site, kind, content)


def _failed(site: str, kind: str, message: str) -> Lost:
    if kind not in OF_A_SITE:
        raise HilumError(message)
    return Lost(site, message, OF_A_SITE[kind](message))


def _dead(site: str, code: int | None) -> Lost:
    how = f"signal {-code}" if code is not None and code < 0 else f"status {code}"
    reason = (
        f"Expected a reply from the process that trains '{site}'; it ended with {how}. Out of memory is a frequent "
        "cause: lower federation.processes. Earlier rounds are kept: go on with --resume."
    )
    return Lost(site, reason, RunError(reason))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back; a process that is started meanwhile never hears it, the one that gives it tasks ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(build: Build, connection: Connection) -> None:
    """Do tasks until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers: dict[str, Worker] | None = None
    while True:
        try:
            site, content = connection.recv()
        except EOFError:
            return
        answer: tuple[str, Any]
        try:
            if workers is None:
                workers = {worker.name: worker for worker in build()}
            answer = ("reply", reply_payload(workers[site].do(task_of(content))))
        except HilumError as error:
            answer = (type(error).__name__, str(error))
        try:
            connection.send(answer)
        except OSError:
            return
