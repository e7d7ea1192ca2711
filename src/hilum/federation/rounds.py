"""The round loop: written once, whatever the strategy and the runtime. Every round ends in a checkpoint."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hilum.errors import RunError, TrainingError
from hilum.federation.audit import TAKEN, unlogged
from hilum.federation.compression.base import Compression
from hilum.federation.messages import (
    AFTER_ALL_WAVES,
    HEAD,
    NEVER,
    STATELESS,
    LabelCounts,
    Lost,
    Moment,
    Reply,
    ServerState,
    Task,
    check_counts,
    check_reply,
    contribution,
    share_of,
)
from hilum.federation.runtimes.base import Runtime
from hilum.federation.secure_sum import SecureSum
from hilum.federation.strategies.base import Strategy
from hilum.federation.topology.star import Star
from hilum.federation.turns import Turns
from hilum.randomness import numpy_generator
from hilum.training.loop import smoothed_prior
from hilum.training.state import State, load_state, save_state, write_atomically

KEPT_ROUNDS = 2
BEST = "lowest/"  # weights at the lowest validation loss so far, with early stopping
Record = dict[str, Any]
OnRound = Callable[[Record], None]
OnCounts = Callable[[ServerState], None]
OnReplies = Callable[[Sequence[Record]], None]


@dataclass(frozen=True)
class RoundsPlan:
    """How the rounds go.

    ``validate_every``: rounds between two measurements of the validation loss. ``patience``: measurements without a
    lower mean over the sites after which training stops and the best weights are taken; None trains all rounds.
    ``participation``: share of the sites that train in a round, drawn with ``seed``. ``quorum``: share of the
    asked sites whose replies a round needs.
    """

    rounds: int
    validate_every: int = 5
    patience: int | None = None
    participation: float = 1.0
    quorum: float = 1.0
    seed: int = 0

    def participants(self, round_: int, sites: list[str]) -> list[str]:
        """Return the sites that train in a round: max(⌈share · K⌉, 1) of them, sorted."""
        count = max(1, share_of(self.participation, len(sites)))
        if count == len(sites):
            return sites
        drawn = numpy_generator(self.seed, round_, "participants").choice(len(sites), count, replace=False)
        return [sites[k] for k in sorted(drawn)]


@dataclass
class Traffic:
    """What passed in a round: losses, updates, bytes, visits and what was lost."""

    losses: dict[str, float] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    visits: list[Record] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    taken: dict[str, Moment] = field(default_factory=dict)


def unchecked(server: ServerState) -> None:
    """Take whatever the sites tell of their labels."""


@dataclass(frozen=True)
class Federation:
    """A strategy over a topology on a runtime; its round loop.

    ``on_counts`` hears of sites that have joined. ``secure``: how updates are masked; None where the server sees each.
    ``on_replies`` gets what the audit log says of every reply of an exchange.
    """

    strategy: Strategy
    topology: Star
    compression: Compression
    runtime: Runtime
    plan: RoundsPlan
    on_counts: OnCounts = unchecked
    secure: SecureSum | None = None
    on_replies: OnReplies = unlogged

    def run(self, initial: State, directory: Path, on_round: OnRound) -> ServerState:
        """Run or resume all rounds; return the final server state. The sites hold what they keep.

        ``directory`` receives ``round_0001/`` … each with ``server.safetensors``, ``extra.safetensors`` where the
        strategy has tensors of its own, and ``state.json``; the last two are kept. ``on_round`` gets one record a
        round, before its checkpoint; its ``updates`` are those of the site that has made the most. Raises
        ``TrainingError`` where fewer sites than the quorum answer.
        """
        saved = latest_checkpoint(directory)
        server, progress = saved or (ServerState(0, initial), Progress())
        while server.round < self.plan.rounds and not progress.stopped(self.plan):
            started = time.perf_counter()
            traffic = Traffic()
            server = self._round(server, traffic)
            progress = progress.after(traffic)
            due = server.round % self.plan.validate_every == 0 or server.round == self.plan.rounds
            validation = self._validate(server, traffic) if due else None
            if validation is not None:
                progress, server = progress.validated(self.plan, validation, server)
            on_round(_record(server, traffic, progress, validation, time.perf_counter() - started))
            save_checkpoint(directory, server, progress)
        if self.plan.patience is not None:
            server = _best(server)
        return self._close(server)

    def _round(self, server: ServerState, traffic: Traffic) -> ServerState:
        """Train one round, wave by wave."""
        round_ = server.round + 1
        server = self._with_counts(server, self.runtime.sites(round_), traffic)
        present = [site for site in self.runtime.sites(round_) if site in server.counts]
        if not present:
            raise TrainingError(
                f"Expected at least one site in round {round_}; none is there. {_reasons(traffic)}Start the sites and "
                "repeat the command (hilum study: with --resume), or change federation.presence."
            )
        if tuple(present) != server.present:
            server = self.strategy.regroup(replace(server, present=tuple(present)))
        sites, wave = self.plan.participants(round_, present), 0
        turns = len(self._wave(server, round_, 0, present)) == 1 < len(present)  # were all of them drawn
        while visits := self._wave(server, round_, wave, sites):
            last = not self._wave(server, round_, wave + 1, sites)
            prior = _prior(server.members())
            asked = {site: server.counts[site] for site in visits}
            cohort = self.secure.cohort(server, self.strategy, asked) if self.secure else {}
            tasks = {
                site: Task(
                    "train",
                    round_,
                    self.topology.state_for(site, server),
                    prior,
                    wave,
                    visit,
                    self.strategy.extra_for(site, server),
                    server.taken_of(site),
                    server.lowest.get(site, NEVER),
                    cohort,
                )
                for site, visit in visits.items()
            }
            one_by_one = Turns(self.compression.groups, server)
            with closing(self._exchange(server, tasks, traffic)) as replies:
                taken = one_by_one.added(replies, tasks) if turns else replies
                server = self.topology.at_server(self.strategy, server, taken, asked, last)
            kept = server.extra | one_by_one.counted
            server = replace(server, extra=kept, taken={**server.taken, **traffic.taken})
            if len(visits) == len(sites):
                answered = sum(traffic.taken.get(site) == (round_, wave) for site in visits)
                self._require(answered, len(visits), round_, traffic)
            elif self.plan.quorum >= 1:
                self._require(len(traffic.losses), len(traffic.asked), round_, traffic)
            if turns:
                here = self._validate(replace(server, round=round_), traffic, wave + 1)
                traffic.visits.append({"sites": sorted(visits), "validation_loss": here})
            wave += 1
        self._require(len(traffic.losses), len(traffic.asked), round_, traffic)
        return replace(server, round=round_)

    def _wave(self, server: ServerState, round_: int, wave: int, sites: list[str]) -> Mapping[str, int]:
        return self.topology.next_wave(self.strategy, server, round_, self.plan.rounds, wave, sites)

    def _exchange(
        self, server: ServerState, tasks: Mapping[str, Task], traffic: Traffic
    ) -> Generator[Reply, None, None]:
        """Yield the replies of the sites, checked and decoded, and note what is lost; log both."""
        entries: list[Record] = []
        replies = self._checked(server, tasks, traffic, entries)
        try:
            if self.secure is None or not any(task.cohort for task in tasks.values()):
                yield from replies
            else:
                yield from _summed(self.secure.opened(replies, tasks), entries)
        finally:
            self.on_replies(entries)

    def _checked(
        self, server: ServerState, tasks: Mapping[str, Task], traffic: Traffic, entries: list[Record]
    ) -> Iterator[Reply]:
        traffic.bytes_down += sum(size(task.state) + size(task.extra) for task in tasks.values())
        traffic.asked |= {site for site, task in tasks.items() if task.kind == "train"}
        for reply in self.runtime.exchange(tasks):
            task = tasks[reply.site]
            entry: Record = {"site": reply.site, "kind": task.kind, "round": task.round, "wave": task.wave}
            entries.append(entry)
            if isinstance(reply, Lost):
                entry["outcome"] = reply.reason
                if self.plan.quorum >= 1 and reply.error is not None:
                    raise reply.error
                traffic.lost[reply.site] = reply.reason
                continue
            sent = size(reply.state) + size(reply.extra)
            traffic.bytes_up += sent
            entry |= {"images": reply.counts.images, "bytes": sent}
            received = reply
            try:
                if task.cohort and self.secure is not None:
                    self.secure.check(reply, task)
                elif task.kind == "train":
                    reply = self._decoded(reply, task)
                check_reply(reply, task)
                check_counts(reply, len(server.state[HEAD]), server.counts.get(reply.site))
                self.strategy.check(reply, task)
            except TrainingError as error:
                entry["outcome"] = str(error)
                if self.plan.quorum >= 1:
                    raise
                traffic.lost[reply.site] = str(error)
                continue
            entry |= {"outcome": TAKEN, "sha256": contribution(received)}
            if task.kind not in STATELESS:
                traffic.taken[reply.site] = (task.round, task.wave)
            if task.kind == "train":
                traffic.losses[reply.site] = reply.loss
                traffic.updates[reply.site] = traffic.updates.get(reply.site, 0) + reply.updates
                norm = None if task.cohort else self._norm(reply.state, task.state)
                entry |= {"updates": reply.updates, "update_norm": norm, "masked": bool(task.cohort)}
            yield reply

    def _norm(self, state: State, start: State) -> float:
        """Return ‖state − start‖₂ over what is learned in common."""
        common = [n for n, group in self.compression.groups.items() if group not in self.compression.whole]
        norms = [float(torch.linalg.vector_norm(state[n].float() - start[n].float())) for n in common if n in start]
        return math.hypot(*norms)

    def _decoded(self, reply: Reply, task: Task) -> Reply:
        try:
            return replace(reply, state=self.compression.decode(reply.state, task.state))
        except TrainingError as error:
            raise TrainingError(f"Expected a compressed update from '{reply.site}'; {error}") from None

    def _require(self, answered: int, asked: int, round_: int, traffic: Traffic) -> None:
        """Refuse less than the quorum."""
        if answered < share_of(self.plan.quorum, asked):
            raise TrainingError(
                f"Expected replies from {self.plan.quorum:.0%} of {asked} sites in round {round_}; {answered} "
                f"answered. {_reasons(traffic)}Mend those sites and repeat the command (hilum study: with "
                "--resume), or lower federation.quorum."
            )

    def _with_counts(self, server: ServerState, sites: list[str], traffic: Traffic) -> ServerState:
        """Ask the sites that were never there before what they tell of their labels."""
        new = {site: Task("count", server.round) for site in sites if site not in server.counts}
        replies = list(self._exchange(server, new, traffic)) if new else []
        told = {reply.site: reply.counts for reply in replies}
        if self.plan.quorum >= 1:
            self._require(len(told), len(new), server.round + 1, traffic)
        if told:
            keys = {reply.site: reply.key for reply in replies if reply.key}
            server = replace(self.strategy.join(server, told), keys={**server.keys, **keys})
            self.on_counts(server)
        return server

    def _validate(self, server: ServerState, traffic: Traffic, wave: int = AFTER_ALL_WAVES) -> dict[str, float]:
        """Return the validation loss of each source at each site."""
        losses: dict[str, float] = {}
        answered = 0
        tasks = {
            site: Task(
                "validate",
                server.round,
                self.topology.model_for(site, server),
                wave=wave,
                taken=server.taken_of(site),
            )
            for site in server.members()
        }
        for reply in self._exchange(server, tasks, traffic):
            losses |= reply.validation
            answered += 1
        self._require(answered, len(tasks), server.round, traffic)
        return losses

    def _close(self, server: ServerState) -> ServerState:
        """Give the sites the tasks that follow the last round."""
        sites = list(server.members())
        for k, kind in enumerate(self.strategy.closing(len(sites))):
            task = Task(kind, server.round, server.state, _prior(server.members()), AFTER_ALL_WAVES + k)
            tasks = {site: replace(task, taken=server.taken_of(site)) for site in sites}
            traffic = Traffic()
            with closing(self._exchange(server, tasks, traffic)) as replies:
                server = self.strategy.close_at_server(kind, server, replies)
            self._require(len(traffic.taken), len(tasks), server.round, traffic)
            server = replace(server, taken={**server.taken, **traffic.taken})
        return server


@dataclass(frozen=True)
class Progress:
    """What the loop knows beside the server's state: updates so far, the best validation losses and their age."""

    updates: int = 0
    best: Mapping[str, float] = field(default_factory=dict)
    age: int = 0

    def stopped(self, plan: RoundsPlan) -> bool:
        """Tell whether the validation loss has not fallen for ``patience`` measurements."""
        return plan.patience is not None and self.age >= plan.patience

    def after(self, traffic: Traffic) -> Progress:
        """Return the progress after a round."""
        return replace(self, updates=self.updates + max(traffic.updates.values(), default=0))

    def validated(
        self, plan: RoundsPlan, losses: Mapping[str, float], server: ServerState
    ) -> tuple[Progress, ServerState]:
        """Return the progress after a measurement, and the server's state with the best weights so far.

        The best are those with the lowest mean over the sources that both measurements hold: sites come and go.
        """
        if plan.patience is None or not losses:
            return self, server
        common = losses.keys() & self.best.keys()
        if common and not sum(losses[name] for name in common) < sum(self.best[name] for name in common):
            return replace(self, age=self.age + 1), server
        best = {BEST + name: tensor for name, tensor in server.state.items()}
        return replace(self, best=losses, age=0), replace(server, extra=server.extra | best, lowest=server.taken)


def _summed(replies: Iterator[Reply], entries: list[Record]) -> Iterator[Reply]:
    """Yield the replies of a secure sum; where there is none, no reply was taken."""
    there, why = False, "no sum: another site has not answered."
    try:
        for reply in replies:
            there = True
            yield reply
    except TrainingError as error:
        why = str(error)
        raise
    finally:
        for entry in entries if not there else ():
            if entry.get("outcome") == TAKEN:
                entry["outcome"] = why


def _best(server: ServerState) -> ServerState:
    """Return the server's state with the weights at the lowest validation loss, and what the sites kept then."""
    best = {n.removeprefix(BEST): t for n, t in server.extra.items() if n.startswith(BEST)}
    rest = {n: t for n, t in server.extra.items() if not n.startswith(BEST)}
    return replace(server, state=best, extra=rest, taken=server.lowest) if best else server


def _reasons(traffic: Traffic) -> str:
    return "".join(f"{site}: {reason} " for site, reason in sorted(traffic.lost.items()))


def _prior(counts: Mapping[str, LabelCounts]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return smoothed_prior(
        np.sum([c.positive for c in counts.values()], 0), np.sum([c.known for c in counts.values()], 0)
    )


def _record(
    server: ServerState, traffic: Traffic, progress: Progress, validation: dict[str, float] | None, seconds: float
) -> Record:
    record: Record = {
        "round": server.round,
        "updates": progress.updates,
        "seconds": round(seconds, 3),
        "train_loss": traffic.losses,
        "validation_loss": validation,
        "bytes_down": traffic.bytes_down,
        "bytes_up": traffic.bytes_up,
    }
    if traffic.visits:
        record["visits"] = traffic.visits
    if traffic.lost:
        record["lost"] = traffic.lost
    return record


def size(state: State) -> int:
    """Return the bytes of a state's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def save_checkpoint(directory: Path, server: ServerState, progress: Progress) -> None:
    """Write the round's checkpoint, whole or not at all, and remove all but the last two."""
    final = directory / f"round_{server.round:04d}"
    temporary = directory / f".round_{server.round:04d}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    save_state(temporary / "server.safetensors", server.state)
    if server.extra:
        save_state(temporary / "extra.safetensors", server.extra)
    facts = {
        "round": server.round,
        "updates": progress.updates,
        "best": progress.best,
        "age": progress.age,
        "counts": {
            site: {"images": c.images, "known": c.known.tolist(), "positive": c.positive.tolist()}
            for site, c in server.counts.items()
        },
        "present": server.present,
        "taken": server.taken,
        "lowest_taken": server.lowest,
        "keys": server.keys,
    }
    write_atomically(temporary / "state.json", json.dumps(facts).encode())
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
    return int(_facts(rounds[-1])["round"]) if rounds else 0


def latest_checkpoint(directory: Path) -> tuple[ServerState, Progress] | None:
    """Load the last checkpoint; None when there is none. Raises ``RunError``."""
    rounds = completed_rounds(directory)
    if not rounds:
        return None
    facts, extra = _facts(rounds[-1]), rounds[-1] / "extra.safetensors"
    state, own = load_state(rounds[-1] / "server.safetensors"), load_state(extra) if extra.is_file() else {}
    try:
        counts = {
            site: LabelCounts(c["images"], np.array(c["known"], np.int64), np.array(c["positive"], np.int64))
            for site, c in facts["counts"].items()
        }
        taken, lowest = _moments(facts["taken"]), _moments(facts["lowest_taken"])
        server = ServerState(facts["round"], state, own, counts, tuple(facts["present"]), taken, lowest, facts["keys"])
        return server, Progress(facts["updates"], facts["best"], facts["age"])
    except KeyError as error:
        raise RunError(
            f"Expected {error} in {rounds[-1] / 'state.json'}, which another version of hilum has written. Go on with "
            "that version, or start the run again with another --out."
        ) from None


def _moments(facts: Mapping[str, list[int]]) -> dict[str, Moment]:
    return {site: (round_, wave) for site, (round_, wave) in facts.items()}


def _facts(checkpoint: Path) -> Record:
    try:
        facts = json.loads((checkpoint / "state.json").read_text())
        int(facts["round"])
        return dict(facts)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"Expected a round number in {checkpoint / 'state.json'}; remove the folder {checkpoint}."
        ) from error
