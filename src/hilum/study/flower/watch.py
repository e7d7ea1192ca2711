"""How far a run between hospitals is: written beside the run by the server, read by whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hilum.federation.runtimes.flower import Waiting
from hilum.training.state import write_atomically

FILE = "progress.json"


@dataclass
class Watch:
    """Tells of every task that is sent, every reply and every round of ``models`` × ``rounds``, in ``directory``."""

    directory: Path
    models: int
    rounds: int
    model: str = ""
    models_done: int = 0
    round: int = 0
    waiting: Waiting | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    error: str | None = None

    def begins(self, model: str, round_: int) -> None:
        """A model's training begins after ``round_`` rounds."""
        self.model, self.round, self.waiting = model, round_, None
        self._write()

    def waits(self, waiting: Waiting) -> None:
        """A task was sent, or a reply has arrived."""
        self.waiting = waiting
        self._write()

    def round_done(self, record: Mapping[str, Any]) -> None:
        """A round is over."""
        self.round, self.record = int(record["round"]), {**record, "of": self.model}
        self.seconds.append(float(record["seconds"]))
        self._write()

    def model_done(self) -> None:
        """A model is written."""
        self.round = 0
        self.models_done += 1
        self._write()

    def fails(self, error: str) -> None:
        """The run ends before its last round."""
        self.error = error
        self._write()

    def seconds_left(self) -> float | None:
        """Return the time left if rounds go on as they went, in s."""
        if not self.seconds:
            return None
        rounds = (self.models - self.models_done) * self.rounds - self.round
        return max(0, rounds) * sum(self.seconds) / len(self.seconds)

    def _write(self) -> None:
        left, waiting = self.seconds_left(), self.waiting
        facts = {
            "time": time.time(),
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
        write_atomically(self.directory / FILE, json.dumps(facts, default=str).encode())


def read_progress(directory: Path) -> dict[str, Any] | None:
    """Return what the server has written last; None where it has not begun."""
    try:
        return dict(json.loads((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


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
