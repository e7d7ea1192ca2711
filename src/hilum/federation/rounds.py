"""The round loop: written once, whatever the strategy and the runtime. Every round ends in a checkpoint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilum.errors import RunError
from hilum.federation.messages import Reply, ServerState, Task, check_reply
from hilum.federation.runtimes.base import Runtime
from hilum.federation.strategies.base import Strategy
from hilum.training.loop import smoothed_prior
from hilum.training.state import State, load_state, save_state, write_atomically

KEPT_ROUNDS = 2
OnRound = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class RoundsPlan:
    """Number of rounds, and after how many of them the validation loss is measured."""

    rounds: int
    validate_every: int = 5


def run_rounds(
    strategy: Strategy, runtime: Runtime, initial: State, plan: RoundsPlan, directory: Path, on_round: OnRound
) -> ServerState:
    """Run or resume all rounds; return the final server state. ``runtime`` holds the final site states.

    ``directory`` receives ``round_0001/`` … each with ``server.safetensors``, ``site_<name>.safetensors`` and
    ``state.json``; the last two are kept. ``on_round`` gets one record a round, before its checkpoint;
    its ``updates`` are those of the site that has made the most.
    """
    counts = runtime.label_counts()
    prior = smoothed_prior(
        np.sum([c.positive for c in counts.values()], 0), np.sum([c.known for c in counts.values()], 0)
    )
    server = latest_checkpoint(directory, runtime) or ServerState(0, initial)
    while server.round < plan.rounds:
        started = time.perf_counter()
        task = Task("train", server.round + 1, server.state, prior)
        replies = _exchange(runtime, task)
        server = strategy.at_server(server, replies)
        seconds = time.perf_counter() - started
        due = server.round % plan.validate_every == 0 or server.round == plan.rounds
        on_round(
            {
                "round": server.round,
                "updates": max(reply.updates for reply in replies) * server.round,
                "seconds": round(seconds, 3),
                "train_loss": {reply.site: reply.loss for reply in replies},
                "validation_loss": runtime.validate(server.state) if due else None,
            }
        )
        save_checkpoint(directory, server, runtime)
    for kind in strategy.closing(len(runtime.sites())):
        task = Task(kind, server.round, server.state, prior)
        server = strategy.close_at_server(kind, server, _exchange(runtime, task))
    return server


def _exchange(runtime: Runtime, task: Task) -> list[Reply]:
    """Give every site the task; return the replies, none of which is refused."""
    replies = runtime.exchange({name: task for name in runtime.sites()})
    for reply in replies:
        check_reply(reply, task)
    return replies


def save_checkpoint(directory: Path, server: ServerState, runtime: Runtime) -> None:
    """Write the round's checkpoint, whole or not at all, and remove all but the last two."""
    final = directory / f"round_{server.round:04d}"
    temporary = directory / f".round_{server.round:04d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    save_state(temporary / "server.safetensors", server.state)
    for name, state in runtime.site_states.items():
        if state:
            save_state(temporary / f"site_{name}.safetensors", state)
    if server.extra:
        save_state(temporary / "extra.safetensors", server.extra)
    write_atomically(temporary / "state.json", json.dumps({"round": server.round}).encode())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in completed_rounds(directory)[:-KEPT_ROUNDS]:
        shutil.rmtree(old)


def completed_rounds(directory: Path) -> list[Path]:
    """Return the checkpoints of a directory, oldest first."""
    return sorted(p for p in directory.glob("round_*") if (p / "state.json").is_file())


def last_round(directory: Path) -> int:
    """Return the number of the last checkpoint of a directory, 0 when there is none; raises ``RunError``."""
    rounds = completed_rounds(directory)
    if not rounds:
        return 0
    try:
        return int(json.loads((rounds[-1] / "state.json").read_text())["round"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Expected a round number in {rounds[-1] / 'state.json'}; remove the folder {rounds[-1]}."
        ) from error


def latest_checkpoint(directory: Path, runtime: Runtime) -> ServerState | None:
    """Load the last checkpoint and give the sites their states back; None when there is none."""
    number = last_round(directory)
    if number == 0:
        return None
    last = completed_rounds(directory)[-1]
    extra = last / "extra.safetensors"
    for name in runtime.sites():
        kept = last / f"site_{name}.safetensors"
        runtime.site_states[name] = load_state(kept) if kept.is_file() else {}
    return ServerState(number, load_state(last / "server.safetensors"), load_state(extra) if extra.is_file() else {})
