"""What the compressions of an update have in common: which tensors are sent, and what becomes of the rest."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hilum.errors import TrainingError
from hilum.federation.compression.base import Compression
from hilum.training.state import State

VALUE = "value"
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class UpdateCompression(Compression):
    """Sends the update state − start of every tensor in a few parts, named '<part>/<tensor>'.

    Tensors of the groups ``whole`` are sent as values: sums, and the head, which is small, in float32, as rows that
    are nobody's own are learned in steps below the spacing of bfloat16, the others in bfloat16. What did not change,
    and integer counters, which nobody averages, are not sent. An update that is not finite goes out for the server to
    refuse.
    """

    feedback: ClassVar[bool] = True

    @abstractmethod
    def pack(self, update: Tensor) -> Parts:
        """Return the parts of an update, finite float32 of any shape."""

    @abstractmethod
    def unpack(self, parts: Parts, like: Tensor) -> Tensor:
        """Return the update, float32 of the shape of ``like``; raises ``TrainingError`` where the parts do not fit."""

    def encode(self, state: State, start: State, residual: State) -> tuple[State, State]:
        """Return the parts of every update, and what they leave out."""
        sent: State = {}
        left: State = {}
        for name, group in self.groups.items():
            if group in self.whole:
                same = torch.equal(state[name], start[name])
                parts = {} if same else {VALUE: state[name].to(self._kind(name))}
            else:
                update = state[name].float() - start[name].float()
                update = update + residual[name] if name in residual else update
                parts, rest = self._parts(name, state[name], update)
                left |= {name: rest} if self.feedback else {}
            sent |= {f"{part}/{name}": tensor for part, tensor in parts.items()}
        return sent, left

    def decode(self, sent: State, start: State) -> State:
        """Return start + update of every tensor; raises ``TrainingError`` at parts that do not fit."""
        parts: dict[str, Parts] = {}
        for key, tensor in sent.items():
            part, _, name = key.partition("/")
            if name not in self.groups:
                raise TrainingError(f"expected parts of the tensors of the model; found '{key}'.")
            parts.setdefault(name, {})[part] = tensor
        return start | {name: self._decoded(name, found, start[name]) for name, found in parts.items()}

    def _kind(self, name: str) -> torch.dtype:
        """Return the precision in which values of a tensor are sent."""
        return torch.float32 if self.groups[name] in ("head", "sums") else torch.bfloat16

    def _parts(self, name: str, value: Tensor, update: Tensor) -> tuple[Parts, Tensor]:
        """Return the parts to send, and the rest of the update."""
        if not bool(torch.isfinite(update).all()):
            return {VALUE: value.to(self._kind(name))}, torch.zeros_like(update)
        if not bool(update.any()):
            return {}, update
        parts = self.pack(update)
        return parts, update - self.unpack(parts, update)

    def _decoded(self, name: str, parts: Parts, start: Tensor) -> Tensor:
        try:
            if set(parts) == {VALUE}:
                return require(parts, VALUE, self._kind(name), start.shape).to(start.dtype)
            return (start.float() + self.unpack(parts, start)).to(start.dtype)
        except TrainingError as error:
            raise TrainingError(f"'{name}': {error}") from None


def require(parts: Parts, part: str, dtype: torch.dtype, shape: torch.Size | None) -> Tensor:
    """Return a part of an update; ``shape`` None is any vector. Raises ``TrainingError``."""
    found = parts.get(part)
    if found is None:
        raise TrainingError(f"expected the part '{part}'; found {', '.join(sorted(parts))}.")
    if found.dtype != dtype or (found.shape != shape if shape is not None else found.dim() != 1):
        expected = "one axis" if shape is None else str(tuple(shape))
        raise TrainingError(f"expected '{part}' of {expected}, {dtype}; found {tuple(found.shape)}, {found.dtype}.")
    return found
