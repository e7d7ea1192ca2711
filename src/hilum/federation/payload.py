"""Tasks and replies as named numpy arrays and one JSON string: what a runtime sends over a wire, without pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilum.errors import TrainingError
from hilum.federation.messages import LabelCounts, Member, Moment, Reply, Task
from hilum.models.site_heads import FeatureMoments
from hilum.training.state import State

Arrays = dict[str, NDArray[Any]]
Message = TypeVar("Message")
# Of these numpy has a type of the same name; tensors of others travel as their bytes.
NATIVE = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
STATE, EXTRA = "state/", "extra/"


@dataclass(frozen=True)
class Payload:
    """``arrays``, and ``scalars``: the rest as JSON, with type, shape and layout of every tensor."""

    arrays: Mapping[str, NDArray[Any]]
    scalars: str

    @property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        digest = hashlib.sha256(self.scalars.encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name}{array.dtype.str}{array.size}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def task_payload(task: Task) -> Payload:
    """Return a task as a payload."""
    arrays: Arrays = {"prior": np.asarray(task.global_prior, np.float64)}
    tensors = _pack(STATE, task.state, arrays) | _pack(EXTRA, task.extra, arrays)
    facts = {
        "kind": task.kind,
        "round": task.round,
        "wave": task.wave,
        "visit": task.visit,
        "taken": task.taken,
        "lowest": task.lowest,
        "cohort": {name: member.facts() for name, member in task.cohort.items()},
    }
    return Payload(arrays, json.dumps(facts | {"tensors": tensors}))


def task_of(payload: Payload) -> Task:
    """Return the task that a payload holds; raises ``TrainingError``."""
    return _read(payload, _task_of)


def reply_payload(reply: Reply) -> Payload:
    """Return a reply as a payload."""
    arrays: Arrays = {"known": reply.counts.known, "positive": reply.counts.positive}
    tensors = _pack(STATE, reply.state, arrays) | _pack(EXTRA, reply.extra, arrays)
    if reply.moments is not None:
        arrays |= {"mean": reply.moments.mean, "second": reply.moments.second}
    facts = {
        "site": reply.site,
        "round": reply.round,
        "images": reply.counts.images,
        "loss": reply.loss,
        "updates": reply.updates,
        "moments": reply.moments and reply.moments.images,
        "validation": dict(reply.validation),
        "key": reply.key,
    }
    return Payload(arrays, json.dumps(facts | {"tensors": tensors}))


def reply_of(payload: Payload) -> Reply:
    """Return the reply that a payload holds; raises ``TrainingError``."""
    return _read(payload, _reply_of)


def _task_of(facts: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Task:
    return Task(
        str(facts["kind"]),
        int(facts["round"]),
        _unpack(STATE, facts["tensors"], arrays),
        np.array(arrays["prior"], np.float64),
        int(facts["wave"]),
        int(facts["visit"]),
        _unpack(EXTRA, facts["tensors"], arrays),
        _moment(facts["taken"]),
        _moment(facts["lowest"]),
        {str(name): _member(*told) for name, told in facts["cohort"].items()},
    )


def _member(key: Any, trunk: Any, rows: Any, taken: Any) -> Member:
    return Member(str(key), float(trunk), np.array(rows, np.float64), _moment(taken))


def _moment(value: Any) -> Moment:
    round_, wave = value
    return int(round_), int(wave)


def _reply_of(facts: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
    moments = None
    if facts["moments"] is not None:
        moments = FeatureMoments(int(facts["moments"]), np.array(arrays["mean"]), np.array(arrays["second"]))
    return Reply(
        str(facts["site"]),
        int(facts["round"]),
        _unpack(STATE, facts["tensors"], arrays),
        LabelCounts(int(facts["images"]), np.array(arrays["known"]), np.array(arrays["positive"])),
        float(facts["loss"]),
        int(facts["updates"]),
        moments,
        {str(source): float(loss) for source, loss in facts["validation"].items()},
        _unpack(EXTRA, facts["tensors"], arrays),
        str(facts["key"]),
    )


def _read(payload: Payload, read: Callable[[dict[str, Any], Mapping[str, NDArray[Any]]], Message]) -> Message:
    try:
        return read(json.loads(payload.scalars), payload.arrays)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise TrainingError(
            f"Expected a message of this version of hilum; could not read it ({type(error).__name__}: {error}). "
            "Install the same version at the server and at every site."
        ) from None


def _pack(prefix: str, state: Mapping[str, Tensor], arrays: Arrays) -> dict[str, list[Any]]:
    """Put the tensors among ``arrays``, and return type, shape and layout of each."""
    facts: dict[str, list[Any]] = {}
    for name, tensor in state.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        last = tensor.dim() == 4 and not tensor.is_contiguous() and _is_channels_last(tensor)
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        arrays[prefix + name] = (flat if kind in NATIVE else flat.view(torch.uint8)).numpy()
        facts[prefix + name] = [kind, list(tensor.shape), last]
    return facts


def _unpack(prefix: str, facts: Mapping[str, list[Any]], arrays: Mapping[str, NDArray[Any]]) -> State:
    state: State = {}
    for name, (kind, shape, last) in facts.items():
        if not name.startswith(prefix):
            continue
        dtype = getattr(torch, kind)
        flat = torch.from_numpy(np.array(arrays[name]))
        tensor = (flat if kind in NATIVE else flat.view(dtype)).reshape(shape)
        if tensor.dtype != dtype:
            raise TypeError(f"'{name}' is {tensor.dtype} and not {dtype}")
        # Sums over a tensor depend on its layout in the last bit.
        state[name.removeprefix(prefix)] = tensor.contiguous(memory_format=torch.channels_last) if last else tensor
    return state


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)
