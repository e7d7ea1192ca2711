"""After the last round: every hospital gets the weights, lays its own part over them, and can predict with them.

The server does not write what is one hospital's own, but for its head rows, which go to all; so the weights go there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

import hilum
from hilum.errors import TrainingError
from hilum.federation.messages import Lost, Reply, ServerState, Task, counts_of, share_of
from hilum.federation.runtimes.base import Runtime
from hilum.federation.strategies.fedavg import HEADS_OF
from hilum.federation.worker import Worker
from hilum.study.arms import write_model, write_own
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.spec import Study, dump_study
from hilum.training.state import State, write_atomically

HAND_OUT = "hand out"  # a task
TAUGHT = "taught"
FEDERATION = "federation.json"  # in the server's run directory: its id, sites and study, who lacks the weights


def hand_out(server: ServerState, runtime: Runtime, quorum: float) -> dict[str, str]:
    """Give final weights and heads of all sites to every site that is there; return site → why it has not taken them.

    Raises ``TrainingError`` where fewer than the quorum take them.
    """
    extra = _heads(server.extra) | {TAUGHT: torch.tensor(_taught(server))}
    tasks = {
        site: Task(HAND_OUT, server.round, server.state, extra=extra, taken=server.taken_of(site))
        for site in server.members()
    }
    lost = {answer.site: answer.reason for answer in runtime.exchange(tasks) if isinstance(answer, Lost)}
    if len(tasks) - len(lost) < share_of(quorum, len(tasks)):
        reasons = "".join(f"{site}: {reason} " for site, reason in sorted(lost.items()))
        raise TrainingError(
            f"Expected {quorum:.0%} of {len(tasks)} sites to take the final weights; {len(tasks) - len(lost)} did. "
            f"{reasons}Mend those sites and start the run again: it hands them out again."
        )
    return lost


def take(worker: Worker, task: Task, study: Study, key: ModelKey, run: RunDirectory) -> Reply:
    """Write the weights and the site's own part of them into ``run``, from which 'hilum predict' predicts."""
    name, counts = worker.name, counts_of(worker.trainer.train_examples)
    server = ServerState(task.round, task.state, _heads(task.extra), {name: counts}, taken={name: task.taken})
    write_own(run, key, name, worker.strategy, server)
    describe(run, study, [name], task.extra[TAUGHT].tolist())
    write_model(run.model(key), key, server)
    return Reply(name, task.round, {}, counts)


def describe_server(run: RunDirectory, study: Study, server: ServerState) -> None:
    """Write what 'hilum predict' asks of the server's run."""
    describe(run, study, sorted(server.counts), _taught(server))


def describe(run: RunDirectory, study: Study, sites: Sequence[str], taught: Sequence[bool]) -> None:
    """Write what 'hilum predict' asks of a run of ``sites``; what 'hilum study' has begun has it already."""
    if (run.root / "run.json").is_file():
        return
    write_atomically(run.study, dump_study(study).encode())
    run.write_json("sites.json", [{"name": site, "role": "training"} for site in sites])
    facts = {
        "schema": 1,
        "hilum": hilum.__version__,
        "study": study.name,
        "precision": study.training.precision,
        "seeds": study.seeds,
        "arms": study.arms,
        "findings": study.findings,
        "taught": [finding for finding, known in zip(study.findings, taught, strict=True) if known],
    }
    run.write_json("run.json", facts)


def _heads(extra: State) -> State:
    return {name: tensor for name, tensor in extra.items() if name.startswith(HEADS_OF)}


def classes(server: ServerState) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positive and negative training labels (C,) of all sites that were ever there."""
    positive = np.sum([counts.positive for counts in server.counts.values()], 0)
    return positive, np.sum([counts.known for counts in server.counts.values()], 0) - positive


def _taught(server: ServerState) -> list[bool]:
    """Return of which findings (C,) there were both classes; of the others nothing was learned."""
    return [bool(positive and negative) for positive, negative in zip(*classes(server), strict=True)]
