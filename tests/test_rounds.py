"""The round loop: resumed is uninterrupted, checkpoints are whole, and bad replies are refused."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import Hospitals, fake_site, tiny_model
from hilum.errors import RunError, TrainingError
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, LabelCounts, Reply, ServerState, Task, check_reply
from hilum.federation.rounds import (
    KEPT_ROUNDS,
    Federation,
    Progress,
    RoundsPlan,
    completed_rounds,
    latest_checkpoint,
    save_checkpoint,
)
from hilum.federation.strategies.fedavg import NORMALIZATION_POLICIES, FedAvg
from hilum.images.augmentation import Augmentation
from hilum.models.site_heads import FeatureMoments
from hilum.study.spec import parse_study
from hilum.training.state import State, copy_state, fingerprint

SITES = (fake_site("a"), fake_site("b", train=6, seed=1))
GROUPS = tiny_model().state_groups()
Records = list[dict[str, Any]]


class Interrupted(Exception):
    pass


def federation(directory: Path, policy: str = "averaged") -> Federation:
    strategy = FedAvg(GROUPS, normalization=policy)
    plan = {"augmentation": Augmentation(), "freeze_norm": policy == "frozen"}
    return Hospitals.of(directory, strategy, *SITES, **plan).federation(RoundsPlan(4, validate_every=3))


def run(directory: Path, policy: str = "averaged", stop_in: int | None = None) -> tuple[str, dict[str, str], Records]:
    """Fingerprints of the final server state and of what the sites keep, and the records."""
    records: Records = []

    def on_round(record: dict[str, Any]) -> None:
        if record["round"] == stop_in:
            raise Interrupted
        records.append(record)

    server = federation(directory, policy).run(copy_state(tiny_model()), directory, on_round)
    kept = {s.name: SiteMemory(directory / s.name).at(server.taken.get(s.name, NEVER)) for s in SITES}
    return fingerprint(server.state), {name: fingerprint(state) for name, state in kept.items()}, records


def without_time(records: Records) -> Records:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("policy", NORMALIZATION_POLICIES)
def test_resumed_is_uninterrupted(tmp_path: Path, policy: str) -> None:
    whole, whole_sites, records = run(tmp_path / "whole", policy)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", policy, stop_in=3)
    assert [p.name for p in completed_rounds(tmp_path / "cut")] == ["round_0001", "round_0002"]
    resumed, resumed_sites, rest = run(tmp_path / "cut", policy)
    assert (resumed, resumed_sites) == (whole, whole_sites)
    assert [r["round"] for r in rest] == [3, 4]
    assert without_time(records[2:]) == without_time(rest)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    assert run(tmp_path) == (first[0], first[1], [])


def test_records_say_what_each_round_did(tmp_path: Path) -> None:
    *_, records = run(tmp_path)
    assert [r["round"] for r in records] == [1, 2, 3, 4]
    assert [r["updates"] for r in records] == [2, 4, 6, 8]
    assert [r["validation_loss"] is not None for r in records] == [False, False, True, True]
    assert set(records[3]["validation_loss"]) == set(records[0]["train_loss"]) == {"a", "b"}
    assert all(math.isfinite(loss) for r in records for loss in r["train_loss"].values())
    model = sum(t.numel() * t.element_size() for t in tiny_model().state_dict().values())
    assert [r["bytes_up"] / model for r in records] == [2, 2, 2, 2]
    assert [r["bytes_down"] / model for r in records] == [2, 2, 4, 4]
    assert not any({"lost", "visits"} & set(r) for r in records)


def test_updates_are_those_of_the_busiest_site(tmp_path: Path) -> None:
    """With a pass over each site a round, 12 images make 3 updates and 5 images 2; two passes make twice as many."""
    sites = [fake_site(n, train=k) for n, k in (("a", 5), ("b", 12), ("c", 5))]
    for epochs in (1, 2):
        hospitals = Hospitals.of(tmp_path / str(epochs), FedAvg(GROUPS), *sites, updates=None, epochs=epochs)
        records: Records = []
        hospitals.federation(RoundsPlan(2)).run(copy_state(tiny_model()), hospitals.folder, records.append)
        assert [r["updates"] for r in records] == [3 * epochs, 6 * epochs]


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path, "site")
    kept = completed_rounds(tmp_path)
    assert [p.name for p in kept] == ["round_0003", "round_0004"]
    assert len(kept) == KEPT_ROUNDS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "round_0003", "round_0004"]
    assert sorted(p.name for p in kept[-1].iterdir()) == ["server.safetensors", "state.json"]
    for site in ("a", "b"):
        names = sorted(p.name for p in (tmp_path / site).iterdir())
        assert names == [f"round_0000{k}_0000.safetensors" for k in (2, 3, 4)]


def test_a_half_written_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")[0]
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop_in=3)
    for name in (".round_0003.tmp", "round_0003"):
        (tmp_path / "cut" / name).mkdir()
        (tmp_path / "cut" / name / "server.safetensors").write_bytes(b"half")
    saved = latest_checkpoint(tmp_path / "cut")
    assert saved is not None
    assert saved[0].round == 2
    assert run(tmp_path / "cut")[0] == whole
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["round_0003", "round_0004"]


@pytest.mark.parametrize("policy", ["site", "averaged"])
def test_the_round_before_can_be_gone_on_from_where_the_last_is_damaged(policy: str, tmp_path: Path) -> None:
    """Also where the sites are already a round further."""
    whole = run(tmp_path / "whole", policy)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", policy, stop_in=4)
    shutil.rmtree(tmp_path / "cut" / "round_0003")
    assert run(tmp_path / "cut", policy)[:2] == whole[:2]


def test_no_checkpoint_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    server = ServerState(
        7,
        copy_state(tiny_model()),
        {"momentum": torch.ones(3)},
        {"a": LabelCounts(3, np.array([2, 0]), np.array([1, 0]))},
        ("a",),
        {"a": (7, 0)},
        {"a": (5, 2)},
    )
    progress = Progress(14, {"a": 0.25}, 2)
    save_checkpoint(tmp_path, server, progress)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None
    assert saved[1] == progress
    found = saved[0]
    assert (found.round, found.present) == (7, ("a",))
    assert (found.taken, found.lowest) == ({"a": (7, 0)}, {"a": (5, 2)})
    assert fingerprint(found.state) == fingerprint(server.state)
    assert torch.equal(found.extra["momentum"], torch.ones(3))
    assert found.counts["a"].images == 3
    assert (found.counts["a"].known.tolist(), found.counts["a"].positive.tolist()) == ([2, 0], [1, 0])
    (tmp_path / "round_0007" / "server.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"Expected safetensors in .*server\.safetensors"):
        latest_checkpoint(tmp_path)
    (tmp_path / "round_0007" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"Expected a round number in .*state\.json"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"round": null}'])
def test_a_checkpoint_that_does_not_say_its_round_is_an_error(text: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ServerState(1, copy_state(tiny_model())), Progress())
    (tmp_path / "round_0001" / "state.json").write_text(text)
    with pytest.raises(RunError, match=r"Expected a round number in .*state\.json"):
        latest_checkpoint(tmp_path)


STATE: State = {"w": torch.zeros(2, 3), "n": torch.tensor(1)}
TASK = Task("train", 4, STATE, np.array([0.5]))
ONE = LabelCounts(1, np.array([1]), np.array([0]))
REPLY = Reply("north", 4, {"w": torch.ones(2, 3), "n": torch.tensor(9)}, ONE, 0.5, 2)


def test_a_sound_reply_is_accepted() -> None:
    check_reply(REPLY, TASK)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (replace(REPLY, round=3), "Expected a reply to round 4 from 'north'; found round 3"),
        (replace(REPLY, state={"n": torch.tensor(1)}), "Expected 'w' of shape .2, 3. from 'north'; found nothing"),
        (replace(REPLY, state=STATE | {"w": torch.ones(3, 2)}), r"of shape \(2, 3\) from 'north'; found \(3, 2\)"),
        (replace(REPLY, state=STATE | {"w": torch.full((2, 3), math.nan)}), "'w' holds NaN or infinity"),
        (replace(REPLY, state=STATE | {"w": torch.full((2, 3), -math.inf)}), "'north' in round 4; 'w' holds NaN"),
        (
            replace(REPLY, state=STATE | {"w": torch.ones(2, 3).double()}),
            "'w' as torch.float32 .*; found torch.float64",
        ),
        (replace(REPLY, loss=math.nan), "finite training loss from 'north' in round 4; found nan"),
        (replace(REPLY, loss=math.inf), "found inf"),
        (replace(REPLY, updates=0), "1 update or more from 'north' in round 4; found 0"),
        (replace(REPLY, updates=-3), "found -3"),
        (replace(REPLY, extra={"control/w": torch.full((2, 3), math.nan)}), "'control/w' holds NaN"),
        (replace(REPLY, extra={"control/w": torch.ones(2, 3).cfloat()}), "'control/w' as .*; found torch.complex64"),
        (replace(REPLY, extra={"steps": torch.tensor(1j)}), "'steps' as torch.float32 or torch.int64 from 'north'"),
        (replace(REPLY, extra={"control/w": torch.ones(3)}), r"'control/w' of another shape from .*; found \(3,\)"),
        (replace(REPLY, extra={"steps": torch.ones(3)}), r"'steps' of another shape from 'north'; found \(3,\)"),
    ],
)
def test_a_bad_reply_is_refused_with_its_site(reply: Reply, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        check_reply(reply, TASK)


def test_the_advice_at_weights_that_are_not_finite_can_be_followed() -> None:
    content = {"name": "x", "findings": ["Nodule"], "sites": {"a": {"database": "folder", "root": "a"}}}
    with pytest.raises(TrainingError) as caught:
        check_reply(replace(REPLY, state=STATE | {"w": torch.full((2, 3), math.nan)}), TASK)
    keys = re.findall(r"--set (\S+)=…", str(caught.value))
    assert keys == ["training.optimizer.lr", "training.optimizer.clip"]
    for key in keys:
        assert parse_study({**content, **nested(key, 0.25)}, "study")


def nested(key: str, value: float) -> dict[str, Any]:
    """Return {"a": {"b": value}} of "a.b"."""
    result: Any = value
    for part in reversed(key.split(".")):
        result = {part: result}
    return dict(result)


def test_a_bad_reply_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_site = FedAvg.at_site

    def poisoned(self: FedAvg, task: Task, *rest: Any) -> tuple[Reply, State]:
        reply, kept = at_site(self, task, *rest)
        if task.round == 3 and reply.site == "b":
            reply.state["head.bias"][0] = math.nan
        return reply, kept

    monkeypatch.setattr(FedAvg, "at_site", poisoned)
    with pytest.raises(TrainingError, match="Expected finite weights from 'b' in round 3"):
        run(tmp_path)
    assert [p.name for p in completed_rounds(tmp_path)] == ["round_0001", "round_0002"]


def test_a_validation_loss_that_is_not_finite_is_refused_with_its_site() -> None:
    counts = LabelCounts(1, np.array([1]), np.array([1]))
    with pytest.raises(TrainingError, match="finite validation loss from 'a'"):
        check_reply(Reply("a", 3, {}, counts, validation={"a": float("nan")}), Task("validate", 3))


MOMENTS = FeatureMoments(30, np.zeros(2), np.eye(2))


@pytest.mark.parametrize(
    ("moments", "message"),
    [
        (replace(MOMENTS, mean=np.array([0.0, math.nan])), "Expected finite feature moments from 'north'"),
        (replace(MOMENTS, mean=np.zeros(3), second=np.eye(3)), r"of shape \(2,\), float64, .*; found \(3,\), float64"),
        (replace(MOMENTS, second=np.eye(3)), r"of shape \(2, 2\), float64, from 'north'; found \(3, 3\)"),
        (replace(MOMENTS, mean=np.full(2, 1j)), r"found \(2,\), complex128"),
        (replace(MOMENTS, images=0), "moments of 1 to 30 images from 'north'; found 0"),
        (replace(MOMENTS, images=31), "moments of 1 to 30 images from 'north'; found 31"),
    ],
)
def test_moments_that_do_not_fit_are_refused_with_their_site(moments: FeatureMoments, message: str) -> None:
    state = {"head.weight": torch.zeros(1, 2, 1, 1)}
    task = Task("describe", 4, state)
    reply = Reply("north", 4, state, LabelCounts(30, np.array([30]), np.array([9])), moments=MOMENTS)
    check_reply(reply, task)
    with pytest.raises(TrainingError, match=message):
        check_reply(replace(reply, moments=moments), task)
