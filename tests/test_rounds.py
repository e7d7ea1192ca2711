"""The round loop: resumed is uninterrupted, checkpoints are whole, and bad replies are refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import fake_site, fake_trainer, tiny_model
from hilum.errors import RunError, TrainingError
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task, check_reply
from hilum.federation.rounds import (
    KEPT_ROUNDS,
    RoundsPlan,
    completed_rounds,
    latest_checkpoint,
    run_rounds,
    save_checkpoint,
)
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies.fedavg import NORMALIZATION_POLICIES, FedAvg
from hilum.images.augmentation import Augmentation
from hilum.models.site_heads import FeatureMoments
from hilum.study.spec import parse_study
from hilum.training.state import State, copy_state, fingerprint

SITES = (fake_site("a"), fake_site("b", train=6, seed=1))
Records = list[dict[str, Any]]


class Interrupted(Exception):
    pass


def runtime(policy: str = "averaged") -> InProcess:
    strategy = FedAvg(tiny_model().state_groups(), normalization=policy)
    trainers = [fake_trainer(s, augmentation=Augmentation(), freeze_norm=policy == "frozen") for s in SITES]
    return InProcess(strategy, trainers)


def run(directory: Path, policy: str = "averaged", stop_in: int | None = None) -> tuple[str, dict[str, str], Records]:
    """Fingerprints of the final server and site states, and the records."""
    sites, records = runtime(policy), []

    def on_round(record: dict[str, Any]) -> None:
        if record["round"] == stop_in:
            raise Interrupted
        records.append(record)

    initial = copy_state(tiny_model())
    server = run_rounds(sites.strategy, sites, initial, RoundsPlan(4, validate_every=3), directory, on_round)
    return fingerprint(server.state), {n: fingerprint(s) for n, s in sites.site_states.items()}, records


@pytest.mark.parametrize("policy", NORMALIZATION_POLICIES)
def test_resumed_is_uninterrupted(tmp_path: Path, policy: str) -> None:
    whole, whole_sites, records = run(tmp_path / "whole", policy)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", policy, stop_in=3)
    assert [p.name for p in completed_rounds(tmp_path / "cut")] == ["round_0001", "round_0002"]
    resumed, resumed_sites, rest = run(tmp_path / "cut", policy)
    assert (resumed, resumed_sites) == (whole, whole_sites)
    assert [r["round"] for r in rest] == [3, 4]
    for record, other in zip(records[2:], rest, strict=True):
        assert {k: v for k, v in record.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


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


def test_updates_are_those_of_the_busiest_site(tmp_path: Path) -> None:
    """With a pass over each site a round, 12 images make 3 updates and 5 images 2."""
    strategy = FedAvg(tiny_model().state_groups())
    trainers = [fake_trainer(fake_site(n, train=k), updates=None) for n, k in (("a", 5), ("b", 12), ("c", 5))]
    records: Records = []
    sites = InProcess(strategy, trainers)
    run_rounds(strategy, sites, copy_state(tiny_model()), RoundsPlan(2), tmp_path, records.append)
    assert [r["updates"] for r in records] == [3, 6]


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    run(tmp_path, "site")
    kept = completed_rounds(tmp_path)
    assert [p.name for p in kept] == ["round_0003", "round_0004"]
    assert len(kept) == KEPT_ROUNDS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round_0003", "round_0004"]
    assert sorted(p.name for p in kept[-1].iterdir()) == [
        *("server.safetensors", "site_a.safetensors", "site_b.safetensors", "state.json")
    ]


def test_a_half_written_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")[0]
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", stop_in=3)
    for name in (".round_0003.tmp", "round_0003"):
        (tmp_path / "cut" / name).mkdir()
        (tmp_path / "cut" / name / "server.safetensors").write_bytes(b"half")
    server = latest_checkpoint(tmp_path / "cut", runtime())
    assert server is not None
    assert server.round == 2
    assert run(tmp_path / "cut")[0] == whole
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["round_0003", "round_0004"]


def test_no_checkpoint_is_none_and_a_damaged_one_an_error(tmp_path: Path) -> None:
    sites = runtime("site")
    assert latest_checkpoint(tmp_path / "absent", sites) is None
    state = copy_state(tiny_model())
    sites.site_states["a"] = {"x": torch.ones(2)}
    save_checkpoint(tmp_path, ServerState(7, state, {"momentum": torch.ones(3)}), sites)
    other = runtime("site")
    other.site_states["b"] = {"stale": torch.ones(1)}
    server = latest_checkpoint(tmp_path, other)
    assert server is not None
    assert (server.round, fingerprint(server.state)) == (7, fingerprint(state))
    assert torch.equal(server.extra["momentum"], torch.ones(3))
    assert torch.equal(other.site_states["a"]["x"], torch.ones(2))
    assert other.site_states["b"] == {}
    (tmp_path / "round_0007" / "server.safetensors").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"Expected safetensors in .*server\.safetensors"):
        latest_checkpoint(tmp_path, sites)
    (tmp_path / "round_0007" / "state.json").write_text("{")
    with pytest.raises(RunError, match=r"Expected a round number in .*state\.json"):
        latest_checkpoint(tmp_path, sites)


@pytest.mark.parametrize("text", ["[]", "{}", "null", '{"round": null}'])
def test_a_checkpoint_that_does_not_say_its_round_is_an_error(text: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, ServerState(1, copy_state(tiny_model())), runtime())
    (tmp_path / "round_0001" / "state.json").write_text(text)
    with pytest.raises(RunError, match=r"Expected a round number in .*state\.json"):
        latest_checkpoint(tmp_path, runtime())


STATE: State = {"w": torch.zeros(2, 3), "n": torch.tensor(1)}
TASK = Task("train", 4, STATE, np.array([0.5]))
REPLY = Reply("north", 4, {"w": torch.ones(2, 3), "n": torch.tensor(9)}, LabelCounts(1, np.array([1]), np.array([0])))


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


def test_moments_that_are_not_finite_are_refused_with_their_site() -> None:
    moments = FeatureMoments(30, np.array([0.0, math.nan]), np.eye(2))
    with pytest.raises(TrainingError, match="finite feature moments from 'north'"):
        check_reply(replace(REPLY, moments=moments), TASK)
