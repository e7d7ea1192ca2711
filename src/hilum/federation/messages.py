"""What crosses between a server and a site: tensors, counts and feature moments, never images or ids."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import TrainingError
from hilum.models.site_heads import FeatureMoments
from hilum.sites.examples import Examples
from hilum.training.loop import START_ANEW
from hilum.training.state import State


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
    """What a server asks of a site: 'train' a round from ``state``, or, with the final state, a closing task.

    'recalibrate': estimate normalization statistics anew. 'describe': tell the moments of the features.
    """

    kind: str
    round: int
    state: State
    global_prior: NDArray[np.float64]


@dataclass(frozen=True)
class Reply:
    """A site's answer: its state, its label counts, its mean training loss and the updates it made.

    ``moments``: of the features of its images, in the reply to 'describe'.
    """

    site: str
    round: int
    state: State
    counts: LabelCounts
    loss: float = float("nan")
    updates: int = 0
    moments: FeatureMoments | None = None


@dataclass(frozen=True)
class ServerState:
    """What the server knows after ``round`` rounds; ``extra`` holds a strategy's own tensors.

    After the last round, ``extra`` may hold what ``models.site_heads.SiteHeads`` is made of.
    """

    round: int
    state: State
    extra: State = field(default_factory=dict)


def check_reply(reply: Reply, task: Task) -> None:
    """Refuse a reply of another round, of other shapes, or with values that are not finite (``TrainingError``)."""
    if reply.round != task.round:
        raise TrainingError(f"Expected a reply to round {task.round} from '{reply.site}'; found round {reply.round}.")
    for name, tensor in task.state.items():
        found = reply.state.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else tuple(found.shape)
            raise TrainingError(f"Expected '{name}' of shape {tuple(tensor.shape)} from '{reply.site}'; found {shape}.")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise TrainingError(
                f"Expected finite weights from '{reply.site}' in round {task.round}; '{name}' holds NaN or infinity. "
                f"{START_ANEW}"
            )
    moments = reply.moments
    if moments is not None and not (np.isfinite(moments.mean).all() and np.isfinite(moments.second).all()):
        raise TrainingError(f"Expected finite feature moments from '{reply.site}'; found NaN or infinity. {START_ANEW}")
