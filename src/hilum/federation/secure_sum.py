"""Replies that tell the server nothing but their sum: every pair of sites adds a mask that cancels in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.errors import MissingExtra, TrainingError
from hilum.federation.aggregation import Weight, WeightedMean, own_rows
from hilum.federation.messages import LabelCounts, Member, Reply, ServerState, Task, check_reply
from hilum.federation.strategies.base import Strategy
from hilum.models.classifier import StateGroup
from hilum.training.state import State, fingerprint

ONE = 2.0**32  # of the whole numbers that are summed up, modulo 2⁶⁴
LARGEST = 2.0**20  # absolute value that a site sends
LARGEST_SUM = 2.0**30  # of a thousand sites; half of all sums under masks that do not cancel are larger
Numbers = NDArray[np.uint64]


@dataclass(frozen=True)
class SecureSum:
    """Secure aggregation (Bonawitz et al. 2017, the protocol without drop-out recovery) of weighted states.

    A site sends round(2³² · w x) + Σ ± mask, modulo 2⁶⁴: with every other site it shares a secret (X25519), from which
    both derive the mask of a task (HKDF, ChaCha20); one adds it, the other subtracts it. The sum is exact, whatever the
    order of the sites; each value is rounded to 2⁻³³. A mask is of one task: of its weights, round, members and their
    keys. Where a site of the task does not answer there is no sum. It protects against a server that looks, not against
    one that hands out keys of its own or asks again with other sites; and a sum of two is known to both. ``groups``: of
    every tensor that is averaged. ``keeps_rows``: whether a site keeps the rows of the head that it can teach alone.
    """

    groups: Mapping[str, StateGroup]
    keeps_rows: bool = False

    def cohort(self, server: ServerState, strategy: Strategy, asked: Mapping[str, LabelCounts]) -> dict[str, Member]:
        """Return what every site of a task is told of all of them.

        In a row of the head that one of them alone teaches nobody weighs in: the sum would be that site's row. Raises
        ``TrainingError`` where no other site of the federation teaches it and the site does not keep it as its own.
        """
        everywhere = strategy.weights({**server.members(), **asked})
        lone = np.sum([weight.rows > 0 for weight in everywhere.values()], 0) == 1
        for site, weight in everywhere.items():
            kept = own_rows({**server.counts, **asked}[site]) & self.keeps_rows
            if len(lost := np.flatnonzero(lone & (weight.rows > 0) & ~kept)):
                raise TrainingError(
                    f"Expected two sites or more that teach finding {lost[0] + 1} of the study in a secure sum; found "
                    f"'{site}' alone, whose row of the head the sum would be. Leave the finding out, let sites keep "
                    "rows of their own (federation.head: site), or leave federation.secure_sum out."
                )
        among = strategy.weights(asked)
        alone = np.sum([weight.rows > 0 for weight in among.values()], 0) == 1
        members = {
            site: Member(
                server.keys.get(site, ""),
                among[site].trunk,
                np.where(alone, 0, among[site].rows),
                server.taken_of(site),
            )
            for site in asked
        }
        _require_several(members)
        return members

    def masked(self, reply: Reply, task: Task, secret: bytes) -> Reply:
        """Do the site's half: return the reply with its weighted state under masks, int64.

        Raises ``TrainingError`` where the masks would hide nothing, or nobody could take them off.
        """
        own = task.cohort.get(reply.site)
        if own is None or own.key != public_key(secret):
            found = "none" if own is None else "another"
            raise TrainingError(
                f"Expected the key of '{reply.site}' among those of the task; found {found}. What the "
                "site keeps of the run was lost: start the run again with another --out."
            )
        _require_several(task.cohort)
        check_reply(reply, replace(task, cohort={}))
        mean = WeightedMean(self.groups)
        mean.add(reply.state, Weight(own.trunk, own.rows))
        names = sorted(mean.sums)
        numbers = np.concatenate([_whole(mean.sums[name].numpy(), reply.site) for name in names])
        context = _context(task)
        for site, member in task.cohort.items():
            if site != reply.site:
                pair = "/".join(sorted((site, reply.site))).encode()
                mask = _stream(secret, member.key, context + pair, len(numbers))
                numbers = numbers + mask if reply.site < site else numbers - mask
        return replace(reply, state=_split(numbers, {name: mean.sums[name].shape for name in names}))

    def check(self, reply: Reply, task: Task) -> None:
        """Refuse a reply that is not masked weights of the model (``TrainingError``)."""
        expected = {name: tensor.shape for name, tensor in task.state.items() if name in self.groups}
        found = {name: tensor.shape for name, tensor in reply.state.items()}
        if found != expected or any(tensor.dtype != torch.int64 for tensor in reply.state.values()):
            raise TrainingError(
                f"Expected masked weights of the model, int64, from '{reply.site}'; found others. Give it the study "
                "and the version of hilum that the server has."
            )

    def opened(self, replies: Iterable[Reply], tasks: Mapping[str, Task]) -> Iterator[Reply]:
        """Do the server's half: yield the replies, each with the weighted mean of all states in place of its own.

        The mean of equal states is that state, so that a strategy finds what it would have averaged. Yields nothing
        where a site is missing. Raises ``TrainingError`` where the masks do not cancel.
        """
        task = next(iter(tasks.values()))
        total = _Total()
        told = [total.add(reply) for reply in replies]
        if len(told) < len(tasks):
            return
        mean = WeightedMean(self.groups, total.values())
        for member in task.cohort.values():
            mean.add({}, Weight(member.trunk, member.rows))
        state = mean.value(task.state)
        yield from (replace(reply, state=state) for reply in told)


@dataclass
class _Total:
    """Sum of masked states, one at a time."""

    sums: dict[str, Numbers] = field(default_factory=dict)

    def add(self, reply: Reply) -> Reply:
        """Add a masked state, and return the rest of the reply."""
        for name, tensor in reply.state.items():
            numbers = tensor.numpy().view(np.uint64)
            self.sums[name] = np.asarray(numbers + self.sums[name]) if name in self.sums else numbers
        return replace(reply, state={})

    def values(self) -> State:
        """Return the sums as they are without masks, float64."""
        values = {name: torch.from_numpy(sums.view(np.int64) / ONE) for name, sums in self.sums.items()}
        if any(bool((value.abs() > LARGEST_SUM).any()) for value in values.values()):
            raise TrainingError(
                "Expected masks that cancel in the sum of all sites; they did not. A site has answered another task or "
                "has lost its key: repeat the command (hilum study: with --resume); if it fails again, start the run "
                "again with another --out."
            )
        return values


def _require_several(cohort: Mapping[str, Member]) -> None:
    """Refuse a sum that would be one site's, in the trunk or in a row of the head, or masks that cancel by pairs."""
    rows = np.sum([member.rows > 0 for member in cohort.values()], 0)
    if sum(member.trunk > 0 for member in cohort.values()) < 2 or bool((rows == 1).any()):
        raise TrainingError(
            "Expected two sites or more that weigh in, in the trunk and in each row of the head, in a secure sum; "
            "found one alone, whose update the sum would be. Ask more sites (federation.participation, "
            "federation.presence), let those of one class weigh in (federation.weighting: known), or leave "
            "federation.secure_sum out."
        )
    if len({member.key for member in cohort.values()}) < len(cohort):
        raise TrainingError(
            "Expected another key of every site in a secure sum; found one twice. Where a hospital's memory was copied "
            "from another's, remove it there and start the run again with another --out."
        )


def new_secret() -> bytes:
    """Return a private X25519 key, 32 bytes."""
    return bytes(_x25519().X25519PrivateKey.generate().private_bytes_raw())


def public_key(secret: bytes) -> str:
    """Return the public key of a private one, in hex."""
    return str(_x25519().X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex())


def _stream(secret: bytes, key: str, context: bytes, count: int) -> Numbers:
    """Return the mask that two sites share in a task, (count,)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms  # type: ignore[import-not-found, unused-ignore]
    from cryptography.hazmat.primitives.hashes import SHA256  # type: ignore[import-not-found, unused-ignore]
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # type: ignore[import-not-found, unused-ignore]

    x25519 = _x25519()
    try:
        shared = x25519.X25519PrivateKey.from_private_bytes(secret).exchange(
            x25519.X25519PublicKey.from_public_bytes(bytes.fromhex(key))
        )
    except ValueError:
        raise TrainingError(
            f"Expected a public key of 32 bytes, in hex, of every site of a secure sum; found '{key}'. Give every site "
            "the version of hilum that the server has."
        ) from None
    seed = HKDF(SHA256(), 32, None, context).derive(shared)
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), None).encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, np.dtype("<u8")).astype(np.uint64, copy=False)


def _context(task: Task) -> bytes:
    """Return the digest of a task, the same at every site of it: no two tasks share a mask."""
    members = {name: member.facts() for name, member in sorted(task.cohort.items())}
    facts = [task.round, task.wave, task.visit, task.global_prior.tolist(), members, fingerprint(task.state)]
    return hashlib.sha256(b"hilum secure sum " + json.dumps(facts).encode()).digest()


def _whole(values: NDArray[np.float64], site: str) -> Numbers:
    """Return weighted values as whole multiples of 1 / ``ONE``, modulo 2⁶⁴ (N,)."""
    largest = np.abs(values).max(initial=0.0)
    if largest > LARGEST:
        raise TrainingError(
            f"Expected weights of at most {LARGEST:.0f} from '{site}' in a secure sum; found {largest:.3g}. "
            "Lower training.optimizer.lr, or leave federation.secure_sum out."
        )
    return np.rint(values.reshape(-1) * ONE).astype(np.int64).view(np.uint64)


def _split(numbers: Numbers, shapes: Mapping[str, torch.Size]) -> State:
    """Return consecutive numbers as tensors of these shapes, int64."""
    ends = np.cumsum([shape.numel() for shape in shapes.values()])[:-1]
    parts = np.split(numbers.view(np.int64), ends)
    return {name: torch.from_numpy(part).reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def _x25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import x25519  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise MissingExtra("secure", "cryptography") from None
    return x25519
