"""Messages survive the wire to the bit."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from hilum.errors import TrainingError
from hilum.federation.messages import LabelCounts, Member, Reply, Task, contribution
from hilum.federation.payload import Payload, reply_of, reply_payload, task_of, task_payload
from hilum.models.site_heads import FeatureMoments
from hilum.training.state import State

KINDS = ("count", "train", "validate", "recalibrate", "describe")


def state(seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(4, 3, 3, 3, generator=generator)
    return {
        "kernel": kernel.to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 5, generator=generator).T,
        "counter": torch.tensor(17),
        "mask": torch.tensor([True, False]),
        "half": torch.randn(7, generator=generator).to(torch.bfloat16),
        "half_scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "float16": torch.randn(2, 2, generator=generator).half(),
        "double": torch.randn(1, generator=generator).double(),
        "codes": torch.randint(-128, 127, (5,), dtype=torch.int8, generator=generator),
        "none": torch.empty(0, 4),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def same(a: State, b: State) -> bool:
    def bits(t: torch.Tensor) -> bytes:
        return t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return list(a) == list(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and bits(x) == bits(y)
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def assert_plain_fields_same(a: Task | Reply, b: Task | Reply) -> None:
    """Compare every field that holds no array, and see that none is left at its default, which proves nothing."""
    for field in fields(a):
        value = getattr(a, field.name)
        if isinstance(value, str | int | float | tuple):
            assert value != field.default
            assert getattr(b, field.name) == value
            assert type(getattr(b, field.name)) is type(value)
        else:
            assert field.name in ("state", "extra", "global_prior", "counts", "moments", "validation", "cohort")


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_comes_back_bit_identical(kind: str) -> None:
    cohort = {"north": Member("0a", 1 / 3, np.array([0.1, 2 / 3]), (2, 4)), "south": Member("1b", 2 / 3, np.zeros(2))}
    sent = Task(kind, 3, state(1), np.array([0.1, 1 / 3]), 2, 7, state(2), (2, 4), (1, 3), cohort)
    back = task_of(task_payload(sent))
    assert_plain_fields_same(sent, back)
    assert back.global_prior.tobytes() == sent.global_prior.tobytes()
    assert repr(back.cohort) == repr(sent.cohort)
    assert all(back.cohort[name].rows.tobytes() == member.rows.tobytes() for name, member in cohort.items())
    assert same(sent.state, back.state)
    assert same(sent.extra, back.extra)


@pytest.mark.parametrize("moments", [None, FeatureMoments(5, np.array([0.1, 0.2]), np.eye(2) / 3)])
def test_a_reply_comes_back_bit_identical(moments: FeatureMoments | None) -> None:
    counts = LabelCounts(9, np.array([9, 4]), np.array([2, 0]))
    sent = Reply(
        "north", 3, state(1), counts, 1 / 3, 20, moments, {"north": 2 / 3, "a/b": float("nan")}, state(2), "0a1b"
    )
    back = reply_of(reply_payload(sent))
    assert_plain_fields_same(sent, back)
    assert contribution(back) == contribution(sent)
    assert same(sent.state, back.state)
    assert same(sent.extra, back.extra)
    assert back.counts.images == 9
    assert back.counts.known.tobytes() == counts.known.tobytes()
    assert back.counts.positive.tobytes() == counts.positive.tobytes()
    assert repr(back.validation) == repr(sent.validation)
    assert (back.moments is None) == (moments is None)
    if moments is not None and back.moments is not None:
        assert back.moments.images == 5
        assert back.moments.mean.tobytes() == moments.mean.tobytes()
        assert back.moments.second.tobytes() == moments.second.tobytes()


def test_the_layout_of_a_kernel_comes_back_as_sums_depend_on_it() -> None:
    back = task_of(task_payload(Task("train", 1, state()))).state["kernel"]
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_an_absent_loss_stays_absent() -> None:
    none = np.empty(0, np.int64)
    assert np.isnan(reply_of(reply_payload(Reply("north", 1, {}, LabelCounts(0, none, none)))).loss)


def test_what_was_read_can_be_changed_without_changing_the_payload() -> None:
    payload = task_payload(Task("train", 1, {"weight": torch.zeros(2)}))
    task_of(payload).state["weight"] += 1
    assert payload.arrays["state/weight"].tolist() == [0, 0]


def test_the_digest_tells_of_every_change() -> None:
    payload = task_payload(Task("train", 1, state()))
    other = dict(payload.arrays)
    other["state/counter"] = other["state/counter"] + 1
    renamed = {("state/other" if name == "state/counter" else name): a for name, a in payload.arrays.items()}
    digests = {
        payload.digest,
        replace(payload, arrays=other).digest,
        replace(payload, arrays=renamed).digest,
        replace(payload, scalars=payload.scalars.replace('"round": 1', '"round": 2')).digest,
    }
    assert len(digests) == 4
    assert task_payload(Task("train", 1, state())).digest == payload.digest


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": {"state/weight": ["float32", [3], False]}},
        {"tensors": {"state/weight": ["float64", [2], False]}},
        {"tensors": {"state/weight": ["save", [2], False]}},
        {"tensors": {"state/absent": ["float32", [2], False]}},
        {"tensors": 3},
        {"round": "first"},
    ],
)
def test_a_message_that_does_not_fit_itself_is_refused(change: dict[str, object]) -> None:
    payload = task_payload(Task("train", 1, {"weight": torch.zeros(2)}))
    with pytest.raises(TrainingError, match="same version"):
        task_of(Payload(payload.arrays, json.dumps(json.loads(payload.scalars) | change)))


def test_a_number_that_is_none_is_refused() -> None:
    counts = LabelCounts(1, np.ones(1, np.int64), np.ones(1, np.int64))
    payload = reply_payload(Reply("north", 1, {}, counts))
    with pytest.raises(TrainingError, match="same version"):
        reply_of(replace(payload, scalars=payload.scalars.replace('"images": 1', '"images": 1e999')))


@pytest.mark.parametrize("scalars", ["", "[]", "null", "{}"])
def test_no_message_at_all_is_refused(scalars: str) -> None:
    with pytest.raises(TrainingError, match="Expected a message"):
        reply_of(Payload({}, scalars))
