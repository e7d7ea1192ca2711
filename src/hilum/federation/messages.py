"""What crosses between a server and a site: tensors, counts and feature moments, never images or ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import HilumError, TrainingError
from hilum.models.site_heads import FeatureMoments
from hilum.sites.examples import Examples
from hilum.training.loop import START_ANEW
from hilum.training.state import State

NOBODY: NDArray[np.float64] = np.empty(0)
Moment = tuple[int, int]  # round and wave of a task; (0, 0) is before the first
NEVER: Moment = (0, 0)
AFTER_ALL_WAVES = 9999  # the wave of tasks that follow the training of a round
STATELESS = ("count", "validate")  # tasks whose reply holds no weights


def share_of(share: float, count: int) -> int:
    """Return ⌈share · count⌉, as it is in decimal numbers."""
    return math.ceil(share * count - 1e-9)


@dataclass(frozen=True)
class LabelCounts:
    """Training images of a site, and how many of them have a known and a positive label, per finding (C,)."""

    images: int
    known: NDArray[np.int64]
    positive: NDArray[np.int64]


def counts_of(examples: Examples) -> LabelCounts:
    """Return what a site tells of its training labels."""
    return LabelCounts(len(examples), examples.known().sum(0), examples.positive().sum(0))


@dataclass(frozen=True)
class Task:
    """What a server asks of a site.

    ``kind`` 'count': tell the label counts. 'train': a round from ``state``. 'validate': tell the validation loss of
    ``state``. Closing tasks, with the final state: 'recalibrate', estimate normalization statistics anew;
    'describe', tell the moments of the features. ``round``, ``wave``: when it was asked; a round has several waves
    where sites take turns. ``visit``: the round that the site's learning rate and its draws follow.
    ``extra``: tensors of the strategy. ``taken``: when the server took the site's last reply: what the site kept then
    is what it goes on from. ``lowest``: the same of the lowest validation loss so far.
    """

    kind: str
    round: int
    state: State = field(default_factory=dict)
    global_prior: NDArray[np.float64] = field(default_factory=lambda: NOBODY)
    wave: int = 0
    visit: int = 0
    extra: State = field(default_factory=dict)
    taken: Moment = NEVER
    lowest: Moment = NEVER


@dataclass(frozen=True)
class Reply:
    """A site's answer: its state, its label counts, its mean training loss and the updates it made.

    ``moments``: of the features of its images, in the reply to 'describe'. ``validation``: loss of each source of its
    images, in the reply to 'validate'. ``extra``: tensors of the strategy.
    """

    site: str
    round: int
    state: State
    counts: LabelCounts
    loss: float = float("nan")
    updates: int = 0
    moments: FeatureMoments | None = None
    validation: Mapping[str, float] = field(default_factory=dict)
    extra: State = field(default_factory=dict)


@dataclass(frozen=True)
class Lost:
    """A site that did not answer, or could not, and why, without a word of its images.

    ``error``: what was raised, where the site is in this process.
    """

    site: str
    reason: str
    error: HilumError | None = None


@dataclass(frozen=True)
class ServerState:
    """What the server knows after ``round`` rounds; ``extra`` holds a strategy's own tensors.

    After the last round, ``extra`` may hold, under 'heads/', what ``models.site_heads.SiteHeads`` is made of.
    ``counts``: of every site that was ever there; ``present``: those that are there in this round, sorted. ``taken``:
    when each site's last reply was taken; ``lowest``: the same at the lowest validation loss.
    """

    round: int
    state: State
    extra: State = field(default_factory=dict)
    counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    taken: Mapping[str, Moment] = field(default_factory=dict)
    lowest: Mapping[str, Moment] = field(default_factory=dict)

    def members(self) -> dict[str, LabelCounts]:
        """Return the label counts of the sites that are there; before the first round, of all."""
        return {site: self.counts[site] for site in self.present} if self.present else dict(self.counts)


def check_reply(reply: Reply, task: Task) -> None:
    """Refuse a reply of another round, of other shapes, or with values that are not finite (``TrainingError``)."""
    if reply.round != task.round:
        raise TrainingError(f"Expected a reply to round {task.round} from '{reply.site}'; found round {reply.round}.")
    if task.kind not in STATELESS:
        _check_state(reply, task)
    for name, tensor in reply.extra.items():
        _check_extra(reply, task, name, tensor)
        _check_finite(reply, task, name, tensor)
    if not all(math.isfinite(loss) for loss in reply.validation.values()):
        raise TrainingError(
            f"Expected a finite validation loss from '{reply.site}'; found NaN or infinity. {START_ANEW}"
        )
    moments = reply.moments
    if moments is not None and not (np.isfinite(moments.mean).all() and np.isfinite(moments.second).all()):
        raise TrainingError(f"Expected finite feature moments from '{reply.site}'; found NaN or infinity. {START_ANEW}")


def _check_state(reply: Reply, task: Task) -> None:
    for name, tensor in task.state.items():
        found = reply.state.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else tuple(found.shape)
            raise TrainingError(f"Expected '{name}' of shape {tuple(tensor.shape)} from '{reply.site}'; found {shape}.")
        _check_finite(reply, task, name, found)


def _check_extra(reply: Reply, task: Task, name: str, tensor: torch.Tensor) -> None:
    """Refuse a strategy's tensor that is neither a number nor of the shape of the weights that it is named after."""
    weights = task.state.get(name.partition("/")[2])
    if tensor.shape != (torch.Size() if weights is None else weights.shape):
        raise TrainingError(f"Expected '{name}' of another shape from '{reply.site}'; found {tuple(tensor.shape)}.")


def _check_finite(reply: Reply, task: Task, name: str, tensor: torch.Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise TrainingError(
            f"Expected finite weights from '{reply.site}' in round {task.round}; '{name}' holds NaN or infinity. "
            f"{START_ANEW}"
        )
