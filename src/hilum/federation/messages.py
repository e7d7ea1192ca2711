"""What crosses between a server and a site: tensors, counts and feature moments, never images or ids."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import HilumError, TrainingError
from hilum.models.site_heads import FeatureMoments
from hilum.sites.examples import Examples
from hilum.training.loop import START_ANEW
from hilum.training.state import State, fingerprint

NOBODY: NDArray[np.float64] = np.empty(0)
Moment = tuple[int, int]  # round and wave of a task; (0, 0) is before the first
NEVER: Moment = (0, 0)
AFTER_ALL_WAVES = 9999  # the wave of tasks that follow the training of a round
STATELESS = ("count", "validate")  # tasks whose reply holds no weights
NUMBERS = (torch.float32, torch.int64)  # types of a strategy's tensors that are no weights
HEAD = "head.weight"  # (C, D, 1, 1), in the state of every model
MOST_IMAGES = 10**8  # of one site; no hospital has more


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
class Member:
    """What the sites of a secure sum are told of each: its public key, in hex; its weight, in the trunk and in the rows
    of the head (C,); the reply that it goes on from.
    """

    key: str
    trunk: float
    rows: NDArray[np.float64]
    taken: Moment = NEVER

    def facts(self) -> list[Any]:
        """Return its fields in order, as JSON takes them."""
        return [self.key, self.trunk, self.rows.tolist(), self.taken]


@dataclass(frozen=True)
class Task:
    """What a server asks of a site.

    ``kind`` 'count': tell the label counts. 'train': a round from ``state``. 'validate': tell the validation loss of
    ``state``. Closing tasks, with the final state: 'recalibrate', estimate normalization statistics anew;
    'describe', tell the moments of the features. ``round``, ``wave``: when it was asked; a round has several waves
    where sites take turns. ``visit``: the round that the site's learning rate and its draws follow.
    ``extra``: tensors of the strategy. ``taken``: when the server took the site's last reply: what the site kept then
    is what it goes on from. ``lowest``: the same of the lowest validation loss so far. ``cohort``: the sites of a
    secure sum, by name; empty where replies are sent as they are.
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
    cohort: Mapping[str, Member] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """A site's answer: its state, its label counts, its mean training loss and the updates it made.

    ``moments``: of the features of its images, in the reply to 'describe'. ``validation``: loss of each source of its
    images, in the reply to 'validate'. ``extra``: tensors of the strategy. ``key``: public key for secure sums, in hex,
    in the reply to 'count'.
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
    key: str = ""


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
    when each site's last reply was taken; ``lowest``: the same at the lowest validation loss. ``keys``: public keys of
    the sites, for secure sums.
    """

    round: int
    state: State
    extra: State = field(default_factory=dict)
    counts: Mapping[str, LabelCounts] = field(default_factory=dict)
    present: tuple[str, ...] = ()
    taken: Mapping[str, Moment] = field(default_factory=dict)
    lowest: Mapping[str, Moment] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def taken_of(self, site: str) -> Moment:
        """Return when the last reply of a site was taken."""
        return self.taken.get(site, NEVER)

    def members(self) -> dict[str, LabelCounts]:
        """Return the label counts of the sites that are there; before the first round, of all."""
        return {site: self.counts[site] for site in self.present} if self.present else dict(self.counts)


def contribution(reply: Reply) -> str:
    """Return the SHA-256 of what a site has sent: its tensors, and the figures that count."""
    tensors = {f"state/{n}": t for n, t in reply.state.items()} | {f"extra/{n}": t for n, t in reply.extra.items()}
    if reply.moments is not None:
        tensors |= {n: torch.from_numpy(getattr(reply.moments, n)) for n in ("mean", "second")}
    counts = reply.counts
    figures: list[Any] = [reply.site, reply.round, reply.key, repr(reply.loss), reply.updates]
    figures += [counts.images, counts.known.tolist(), counts.positive.tolist(), reply.moments and reply.moments.images]
    figures += [sorted((source, repr(loss)) for source, loss in reply.validation.items())]
    return hashlib.sha256((json.dumps(figures) + fingerprint(tensors, as_laid_out=True)).encode()).hexdigest()


def check_reply(reply: Reply, task: Task) -> None:
    """Refuse a reply of another round, of other shapes or types, not finite or untrained (``TrainingError``).

    The state of a masked reply says nothing by itself: the site has checked it, and ``SecureSum`` checks the sum.
    """
    if reply.round != task.round:
        raise TrainingError(f"Expected a reply to round {task.round} from '{reply.site}'; found round {reply.round}.")
    if task.kind not in STATELESS and not task.cohort:
        _check_state(reply, task)
    if task.kind == "train":
        _check_training(reply, task)
    for name, tensor in reply.extra.items():
        _check_extra(reply, task, name, tensor)
        _check_finite(reply, task, name, tensor)
    if not all(math.isfinite(loss) for loss in reply.validation.values()):
        raise TrainingError(
            f"Expected a finite validation loss from '{reply.site}'; found NaN or infinity. {START_ANEW}"
        )
    if task.kind == "describe" and reply.moments is not None:
        _check_moments(reply, reply.moments, task.state[HEAD].shape[1])


def check_counts(reply: Reply, findings: int, told: LabelCounts | None) -> None:
    """Refuse label counts that cannot be, or are not those that the site ``told`` before (``TrainingError``).

    ``findings``: C. Nobody but the site sees its labels: what it tells first is believed, and holds for the run.
    """
    counts = reply.counts
    for labels in (counts.known, counts.positive):
        if labels.shape != (findings,) or labels.dtype != np.int64:
            raise TrainingError(
                f"Expected label counts of {findings} findings, int64, from '{reply.site}'; found {labels.shape}, "
                f"{labels.dtype}. Give it the study and the version of hilum that the server has."
            )
    sound = (counts.positive >= 0) & (counts.positive <= counts.known) & (counts.known <= counts.images)
    if counts.images > MOST_IMAGES or not sound.all():
        c = int(np.argmin(sound))
        raise TrainingError(
            f"Expected 0 ≤ positive ≤ known ≤ images ≤ {MOST_IMAGES} in the label counts of '{reply.site}'; found "
            f"{counts.positive[c]}, {counts.known[c]} and {counts.images} of finding {c + 1}. Check its labels."
        )
    if told is not None and not (
        counts.images == told.images
        and np.array_equal(counts.known, told.known)
        and np.array_equal(counts.positive, told.positive)
    ):
        raise TrainingError(
            f"Expected the label counts that '{reply.site}' told when it joined, of {told.images} images; found "
            f"others, of {counts.images}. Give it the images and labels that it began with, or start the run again "
            "with another --out."
        )


def _check_state(reply: Reply, task: Task) -> None:
    for name, tensor in task.state.items():
        found = reply.state.get(name)
        if found is None or found.shape != tensor.shape:
            shape = "nothing" if found is None else tuple(found.shape)
            raise TrainingError(f"Expected '{name}' of shape {tuple(tensor.shape)} from '{reply.site}'; found {shape}.")
        _check_dtype(reply, name, found, (tensor.dtype,))
        _check_finite(reply, task, name, found)


def _check_training(reply: Reply, task: Task) -> None:
    if not math.isfinite(reply.loss):
        raise TrainingError(
            f"Expected a finite training loss from '{reply.site}' in round {task.round}; found {reply.loss}. "
            f"{START_ANEW}"
        )
    if reply.updates < 1:
        raise TrainingError(
            f"Expected 1 update or more from '{reply.site}' in round {task.round}; found {reply.updates}. Install the "
            "same version of hilum at the server and at every site."
        )


def _check_extra(reply: Reply, task: Task, name: str, tensor: torch.Tensor) -> None:
    """Refuse a strategy's tensor that is neither a number nor like the weights that it is named after."""
    weights = task.state.get(name.partition("/")[2])
    if tensor.shape != (torch.Size() if weights is None else weights.shape):
        raise TrainingError(f"Expected '{name}' of another shape from '{reply.site}'; found {tuple(tensor.shape)}.")
    _check_dtype(reply, name, tensor, NUMBERS if weights is None else (weights.dtype,))


def _check_dtype(reply: Reply, name: str, tensor: torch.Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if tensor.dtype not in dtypes:
        expected = " or ".join(map(str, dtypes))
        raise TrainingError(
            f"Expected '{name}' as {expected} from '{reply.site}'; found {tensor.dtype}. Install the same version of "
            "hilum at the server and at every site."
        )


def _check_finite(reply: Reply, task: Task, name: str, tensor: torch.Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise TrainingError(
            f"Expected finite weights from '{reply.site}' in round {task.round}; '{name}' holds NaN or infinity. "
            f"{START_ANEW}"
        )


def _check_moments(reply: Reply, moments: FeatureMoments, size: int) -> None:
    """Refuse moments that are not those of features (D,), D = ``size``, of some of the site's images."""
    for found, shape in ((moments.mean, (size,)), (moments.second, (size, size))):
        if found.shape != shape or found.dtype != np.float64:
            raise TrainingError(
                f"Expected feature moments of shape {shape}, float64, from '{reply.site}'; found {found.shape}, "
                f"{found.dtype}. Install the same version of hilum at the server and at every site."
            )
        if not np.isfinite(found).all():
            raise TrainingError(
                f"Expected finite feature moments from '{reply.site}'; found NaN or infinity. {START_ANEW}"
            )
    if not 0 < moments.images <= reply.counts.images:
        raise TrainingError(
            f"Expected feature moments of 1 to {reply.counts.images} images from '{reply.site}'; found "
            f"{moments.images}. Install the same version of hilum at the server and at every site."
        )
