"""How far a run is: written into its directory as it goes, in every runtime, and shown to whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from hilum.errors import HilumError
from hilum.federation.runtimes.base import Waiting
from hilum.progress import Advance
from hilum.training.state import write_atomically

FILE = "progress.json"


def unseen(steps: int = 1, note: str = "") -> None:
    """Show nobody."""


@dataclass
class Watch:
    """Tells of every task that is sent, every reply and every round of ``models`` × ``rounds``, in ``directory``.

    As a context, it tells of the error that ends the training. ``advance`` moves a bar by rounds. ``pause``: least s
    between two writings of who has answered.
    """

    directory: Path
    models: int
    rounds: int
    advance: Advance = unseen
    pause: float = 0.0
    model: str = ""
    models_done: int = 0
    round: int = 0
    waiting: Waiting | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    error: str | None = None
    written: float = 0.0

    def begins(self, model: str, round_: int) -> None:
        """A model's training begins after ``round_`` rounds."""
        self.model, self.waiting = model, None
        self._move(round_)
        self._write()

    def waits(self, waiting: Waiting) -> None:
        """A task was sent, or a reply has arrived."""
        self.waiting = waiting
        if time.time() - self.written >= self.pause:
            self._write()

    def round_done(self, record: Mapping[str, Any]) -> None:
        """A round is over."""
        self.record = {**record, "of": self.model}
        self.seconds.append(float(record["seconds"]))
        self._move(int(record["round"]))
        self._write()

    def model_done(self) -> None:
        """A model is written; rounds that were not needed count as done."""
        self._move(self.rounds)
        self.round = 0
        self.models_done += 1
        self._write()

    def _move(self, round_: int) -> None:
        self.advance(round_ - self.round)
        self.round = round_

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, HilumError):  # the training ends before its last round
            self.error = str(error)
            with suppress(HilumError):  # a disk that is full has told of itself
                self._write()

    def seconds_left(self) -> float | None:
        """Return the time left if rounds go on as they went, in s."""
        if not self.seconds:
            return None
        rounds = (self.models - self.models_done) * self.rounds - self.round
        return max(0, rounds) * sum(self.seconds) / len(self.seconds)

    def _write(self) -> None:
        left, waiting, self.written = self.seconds_left(), self.waiting, time.time()
        facts = {
            "time": self.written,
            "model": self.model,
            "models": self.models,
            "models_done": self.models_done,
            "round": self.round,
            "rounds": self.rounds,
            "task": waiting.kind if waiting else None,
            "task_round": waiting.round if waiting else None,
            "done": waiting.done if waiting else (),
            "waiting": waiting.waiting if waiting else (),
            "seconds_left": left,
            "last_round": self.record,
            "error": self.error,
        }
        self.advance(0, "\n".join(lines(facts)))
        write_atomically(self.directory / FILE, json.dumps(facts, default=str).encode())


def read_progress(directory: Path) -> dict[str, Any] | None:
    """Return what the server has written last; None where it has not begun."""
    try:
        return dict(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def lines(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the last round was, and what is waited for; empty where there is none yet."""
    return round_line(facts) if facts["last_round"] else "", waiting_line(facts) if facts["task"] else ""


def waiting_line(facts: Mapping[str, Any]) -> str:
    """Return which sites have answered and which have not."""
    done, waiting = ", ".join(facts["done"]) or "none", ", ".join(facts["waiting"]) or "none"
    place = f"{facts['model']} round {facts['task_round']}/{facts['rounds']} {facts['task']}"
    return f"{place}: done {done}; waiting {waiting}"


def round_line(facts: Mapping[str, Any]) -> str:
    """Return a round's losses, bytes and what was lost, and the time left."""
    record = facts["last_round"]
    parts = [f"{record['of']} round {record['round']}/{facts['rounds']}"]
    parts.append("loss " + _figures(record["train_loss"]))
    if record["validation_loss"]:
        parts.append("validation " + _figures(record["validation_loss"]))
    parts.append(f"{record['bytes_down'] / 2**20:.2f} MiB down, {record['bytes_up'] / 2**20:.2f} MiB up")
    parts += [f"lost {site}: {reason}" for site, reason in sorted(record.get("lost", {}).items())]
    if facts["seconds_left"] is not None:
        parts.append(f"{facts['seconds_left']:.0f} s left")
    return "; ".join(parts)


def _figures(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{site} {loss:.4f}" for site, loss in sorted(losses.items())) or "none"
