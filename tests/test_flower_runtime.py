"""The round loop over a grid of nodes: the same result as in process, and what is lost is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import fake_site, fake_trainer, tiny_model

pytest.importorskip("flwr")

import httpx
from flwr.app import Array, ConfigRecord, Error, Message, RecordDict

from flower_nodes import Answer, FakeGrid, FakeNode, Time
from hilum.errors import TrainingError
from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import NEVER, LabelCounts, Lost, Reply, Task
from hilum.federation.payload import reply_payload, task_of
from hilum.federation.rounds import Federation, RoundsPlan
from hilum.federation.runtimes.base import Waiting
from hilum.federation.runtimes.flower import FlowerRuntime, Limits, Nodes
from hilum.federation.runtimes.flower_records import ARRAYS, FACTS, TASK, WHO, Envelope, Identity, opened
from hilum.federation.runtimes.in_process import InProcess, Presence
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.federation.topology import TOPOLOGIES
from hilum.federation.topology.star import Star
from hilum.federation.worker import Worker
from hilum.training.state import State, copy_state, fingerprint

IDENTITY = Identity("study", "seed_0/federated/federated", "run")


def at_work(worker: Worker) -> Answer:
    def answer(message: Message) -> RecordDict:
        asked = opened(message.content)
        assert asked.payload is not None
        task = task_of(asked.payload)
        return Envelope.of(asked.identity, task, reply_payload(worker.do(task))).records()

    return answer


def worker(name: str, folder: Path, strategy: str = "fedavg", **site: Any) -> Worker:
    trainer = fake_trainer(fake_site(name, seed=len(name), **site))
    groups = trainer.model.state_groups()
    built = STRATEGIES.load(strategy)(groups, **IMPLIED.get(strategy, {}))
    return Worker(trainer, SiteMemory(folder / name), built, Compression(groups))


def runtime(grid: FakeGrid, *sites: str, **limits: Any) -> FlowerRuntime:
    nodes = Nodes(grid, Limits(**limits), grid.time.clock())
    return FlowerRuntime(nodes, {site: Presence() for site in sites}, IDENTITY)


def replies_of(sites: dict[str, Answer], tasks: dict[str, Task] | None = None, **limits: Any) -> list[Reply | Lost]:
    time = Time()
    grid = FakeGrid({k: FakeNode(site, answer) for k, (site, answer) in enumerate(sites.items(), 11)}, time)
    tasks = tasks or {site: Task("train", 3, {"weight": torch.zeros(2)}) for site in sites}
    return list(runtime(grid, *sites, **limits).exchange(tasks))


def reply(site: str, round_: int = 3, **other: Any) -> Reply:
    counts = LabelCounts(1, np.ones(1, np.int64), np.ones(1, np.int64))
    return Reply(site, round_, {"weight": torch.ones(2)}, counts, **other)


def saying(answer: Reply, identity: Identity = IDENTITY, **facts: Any) -> Answer:
    def say(message: Message) -> RecordDict:
        asked = opened(message.content)
        return replace(asked, identity=identity, payload=reply_payload(answer), **facts).records()

    return say


def holding(data: bytes) -> Answer:
    """Say a sound reply, but for the bytes of one array."""

    def say(message: Message) -> RecordDict:
        records = saying(reply("a"))(message)
        assert isinstance(records, RecordDict)
        records[ARRAYS]["state/weight"] = Array("float32", (2,), "numpy.ndarray", data)
        return records

    return say


def without_digest(message: Message) -> RecordDict:
    records = saying(reply("a"))(message)
    assert isinstance(records, RecordDict)
    del records[FACTS]["digest"]
    return records


def archive() -> bytes:
    """Return a sound archive of arrays, where one array is expected."""
    file = BytesIO()
    np.savez(file, np.ones(2))
    return file.getvalue()


def huge() -> bytes:
    """Return the beginning of an array that no machine can hold."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**17,)})
    return file.getvalue()


def failing(code: int) -> Answer:
    return lambda _: Error(code, "a reason that may hold a file name: secret7.png")


# One labels one of the findings, so that there is something to teach; one is large enough for head rows of its own.
SITES: dict[str, dict[str, Any]] = {"a": {}, "bb": {"train": 6, "unknown": [1]}, "ccc": {"train": 40}}
REGIONS = {"regions": {"x": ["a", "ccc"], "y": ["bb"]}, "region_rounds": 2}


@pytest.mark.parametrize(
    ("strategy", "topology"),
    [*((name, "star") for name in STRATEGIES), *(("fedavg", name) for name in TOPOLOGIES if name != "star")],
)
def test_a_federation_over_nodes_is_the_one_in_process_to_the_bit(strategy: str, topology: str, tmp_path: Path) -> None:
    def trained(make: Callable[[list[Worker]], Any], folder: Path) -> tuple[Any, ...]:
        model, records = tiny_model(), list[dict[str, Any]]()
        workers = [worker(name, folder, strategy, **site) for name, site in SITES.items()]
        federation = Federation(
            workers[0].strategy,
            TOPOLOGIES.load(topology)(**{"hierarchy": REGIONS}.get(topology, {})),
            Compression(model.state_groups()),
            make(workers),
            RoundsPlan(3, validate_every=1),
        )
        server = federation.run(copy_state(model), folder / "rounds", records.append)
        kept = [fingerprint(w.memory.at(server.taken.get(w.name, NEVER))) for w in workers]
        records = [{name: value for name, value in record.items() if name != "seconds"} for record in records]
        return fingerprint(server.state), fingerprint(server.extra), kept, records

    def over_nodes(workers: list[Worker]) -> FlowerRuntime:
        # Node numbers are in another order than the names.
        nodes = {99 - k: FakeNode(w.name, at_work(w)) for k, w in enumerate(workers)}
        return runtime(FakeGrid(nodes, Time()), *SITES)

    assert trained(InProcess, tmp_path / "in") == trained(over_nodes, tmp_path / "over")


def test_a_node_is_asked_for_its_site_once(tmp_path: Path) -> None:
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")))}, Time())
    over = runtime(grid, "a")
    for _ in range(3):
        list(over.exchange({"a": Task("train", 3, {"weight": torch.zeros(2)})}))
    assert grid.types.count(WHO) == 1


def test_replies_come_by_the_name_of_the_site() -> None:
    found = replies_of({name: saying(reply(name)) for name in ("zeta", "alpha", "mid")})
    assert [r.site for r in found] == ["alpha", "mid", "zeta"]
    assert all(isinstance(r, Reply) for r in found)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (saying(reply("a"), replace(IDENTITY, study="other")), "another study"),
        (saying(reply("a"), replace(IDENTITY, run="other")), "another run"),
        (saying(reply("a"), replace(IDENTITY, model="other")), "another model"),
        (saying(reply("a", 2), round=2), "of round 2"),
        (saying(reply("a"), kind="validate"), "'validate'"),
        (saying(reply("a"), wave=1), "one to"),
        (saying(reply("b")), "in the name of 'b'"),
        (lambda m: replace(opened(m.content), payload=None).records(), "empty"),
        (lambda m: replace(opened(m.content), payload=None, lost="its disk is full.").records(), "disk is full"),
        (lambda m: RecordDict(), "Expected a message of hilum"),
        (lambda m: RecordDict({FACTS: ConfigRecord({"study": "study"})}), "Expected a message of hilum"),
        (without_digest, "found another (KeyError)"),
        (holding(b""), "found another (EOFError)"),
        (holding(b"PK\x03\x04 and no archive"), "found another (BadZipFile)"),
        (holding(huge()), "MemoryError)"),
        (holding(archive()), "found another (AttributeError)"),
        (saying(reply("a"), round=float("inf")), "found another (OverflowError)"),
    ],
)
def test_a_reply_that_is_not_to_this_task_is_lost_with_a_reason(answer: Answer, word: str) -> None:
    lost, other = replies_of({"a": answer, "b": saying(reply("b"))})
    assert isinstance(lost, Lost)
    assert word in lost.reason
    assert isinstance(other, Reply)


def test_a_reply_that_was_changed_on_the_way_is_lost() -> None:
    def changed(message: Message) -> RecordDict:
        records = saying(reply("a"))(message)
        assert isinstance(records, RecordDict)
        records[FACTS]["scalars"] = str(records[FACTS]["scalars"]).replace('"updates": 0', '"updates": 9')
        return records

    (lost,) = replies_of({"a": changed})
    assert isinstance(lost, Lost)
    assert "digest" in lost.reason


def test_arrays_travel_without_pickle() -> None:
    records = Envelope.of(IDENTITY, Task("train", 1), reply_payload(reply("a"))).records()
    assert {array.stype for array in records[ARRAYS].values()} == {"numpy.ndarray"}
    with pytest.raises(ValueError, match="Object arrays"):
        Array(np.array([object()], object))


def test_a_straggler_is_lost_when_its_time_is_over_and_the_others_are_not() -> None:
    lost, other = replies_of({"a": lambda _: None, "b": saying(reply("b"))}, round=60.0)
    assert isinstance(lost, Lost)
    assert lost.reason == "no reply within 60 s."
    assert isinstance(other, Reply)


def test_with_a_quorum_nobody_waits_for_the_last() -> None:
    time = Time()
    answers: dict[str, Answer] = {"a": lambda _: None, "b": saying(reply("b")), "c": saying(reply("c"))}
    grid = FakeGrid({k: FakeNode(s, a) for k, (s, a) in enumerate(answers.items())}, time)
    tasks = {site: Task("train", 3, {"weight": torch.zeros(2)}) for site in answers}
    lost, *others = runtime(grid, *answers, enough=0.6).exchange(tasks)
    assert isinstance(lost, Lost)
    assert "not waited for" in lost.reason
    assert len(others) == 2
    assert time.now < 10


def test_with_a_quorum_everybody_is_asked_for_label_counts() -> None:
    answers: dict[str, Answer] = {"a": saying(reply("a")), "b": lambda _: None}
    _, lost = replies_of(answers, {site: Task("count", 3) for site in answers}, enough=0.5, round=60.0)
    assert isinstance(lost, Lost)
    assert lost.reason == "no reply within 60 s."


@pytest.mark.parametrize("code", [2, 5, 8])
def test_a_node_that_fails_once_is_asked_again(code: int) -> None:
    calls = []

    def once(message: Message) -> RecordDict | Error:
        calls.append(message)
        return Error(code, "gone") if len(calls) == 1 else saying(reply("a"))(message)  # type: ignore[return-value]

    assert isinstance(replies_of({"a": once})[0], Reply)


@pytest.mark.parametrize(("code", "word"), [(5, "node is gone"), (8, "process ended"), (2, "app failed"), (0, "error")])
def test_a_node_that_fails_every_time_is_lost_in_our_own_words(code: int, word: str) -> None:
    (lost,) = replies_of({"a": failing(code)})
    assert isinstance(lost, Lost)
    assert word in lost.reason
    assert "3 times" in lost.reason
    assert "secret7" not in lost.reason


@pytest.mark.parametrize("method", ["get_node_ids", "push_messages", "pull_messages"])
def test_a_link_that_is_busy_for_a_moment_is_asked_again(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")))}, Time())
    over, calls, honest = runtime(grid, "a"), [], getattr(grid, method)

    def busy(*arguments: Any) -> Any:
        calls.append(method)
        if len(calls) < 4:
            raise httpx.HTTPError("500 Internal Server Error: database is locked")
        return honest(*arguments)

    monkeypatch.setattr(grid, method, busy)
    found = list(over.exchange({"a": Task("train", 3, {"weight": torch.zeros(2)})}))
    assert isinstance(found[0], Reply)


def test_a_site_whose_node_is_not_there_is_waited_for_and_then_lost() -> None:
    time = Time()
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")), lambda now: False)}, time)
    (lost,) = runtime(grid, "a", absent=90.0).exchange({"a": Task("train", 3)})
    assert isinstance(lost, Lost)
    assert lost.reason == "its node was not connected for 90 s."
    assert 90 <= time.now < 95


def test_a_node_that_comes_back_is_used_again() -> None:
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")), lambda now: now > 50)}, Time())
    tasks = {"a": Task("train", 3, {"weight": torch.zeros(2)})}
    assert isinstance(next(runtime(grid, "a", absent=90.0).exchange(tasks)), Reply)


def test_a_node_that_was_restarted_unseen_is_sent_its_task_again() -> None:
    asked = []

    def once_restarted(message: Message) -> RecordDict | None:
        asked.append(message.metadata.message_id)
        return saying(reply("a"))(message) if len(set(asked)) == 2 else None  # type: ignore[return-value]

    time = Time()
    grid = FakeGrid({1: FakeNode("a", once_restarted, came=lambda now: "later" if now > 50 else "first")}, time)
    tasks = {"a": Task("train", 3, {"weight": torch.zeros(2)})}
    assert isinstance(next(runtime(grid, "a").exchange(tasks)), Reply)
    assert 50 < time.now < 60


def silent_until(moment: float) -> tuple[Time, FakeGrid, dict[str, Task]]:
    """Site a, and b, whose node is connected and tells its site from a moment on."""
    time = Time()
    nodes = {1: FakeNode("a", saying(reply("a"))), 2: FakeNode("b", saying(reply("b")), tells=lambda now: now > moment)}
    return time, FakeGrid(nodes, time), {site: Task("train", 3, {"weight": torch.zeros(2)}) for site in "ab"}


def test_a_node_that_does_not_tell_its_site_holds_nobody_up() -> None:
    time, grid, tasks = silent_until(1e9)
    found, lost = runtime(grid, "a", "b", enough=0.5).exchange(tasks)
    assert isinstance(found, Reply)
    assert isinstance(lost, Lost)
    assert "not waited for" in lost.reason
    assert time.now < 5


def test_a_node_that_does_not_tell_its_site_is_lost_like_one_that_is_not_there() -> None:
    time, grid, tasks = silent_until(1e9)
    over, heard = runtime(grid, "a", "b", absent=90.0, who=40.0), list[tuple[float, Waiting]]()
    over.tell = lambda waiting: heard.append((time.now, waiting))
    found, lost = over.exchange(tasks)
    assert isinstance(found, Reply)
    assert heard[0][1].done == ("a",)
    assert heard[0][0] < 5
    assert isinstance(lost, Lost)
    assert lost.reason == "its node was not connected for 90 s."
    assert 90 <= time.now < 95
    assert grid.types.count(WHO) == 1 + 3  # a once, b at 0, 40 and 80 s


def test_a_node_that_tells_its_site_late_is_used_from_then_on() -> None:
    time, grid, tasks = silent_until(50)
    for site, found in zip("ab", runtime(grid, "a", "b").exchange(tasks), strict=True):
        assert isinstance(found, Reply)
        assert found.site == site
    assert 50 < time.now < 55
    assert grid.types.count(WHO) == 2


def test_a_node_that_was_gone_before_it_told_its_site_is_asked_anew() -> None:
    time, grid, tasks = silent_until(50)
    grid.nodes[2].connected = lambda now: not 20 < now < 30
    grid.nodes[2].tells = lambda now: False if now < 30 else grid.types.count(WHO) == 3
    _, found = runtime(grid, "a", "b").exchange(tasks)
    assert isinstance(found, Reply)
    assert 30 <= time.now < 35


@pytest.mark.parametrize("who", [120.0, 20.0])
def test_a_site_is_not_asked_before_another_node_of_its_name_has_had_time_to_claim_it(who: float) -> None:
    time = Time()
    nodes = {k: FakeNode("a", saying(reply("a")), tells=lambda now, k=k: now > 30 * k) for k in (0, 1)}  # type: ignore[misc]
    grid = FakeGrid(nodes, time)
    (found,) = runtime(grid, "a", absent=60.0, who=who).exchange({"a": Task("train", 3, {"weight": torch.zeros(2)})})
    assert isinstance(found, Lost if who > 30 else Reply)
    assert grid.types.count(TASK) == (0 if who > 30 else 1)
    assert 60 <= time.now < 65 if who > 30 else 20 <= time.now < 25


def test_a_site_that_two_nodes_claim_is_not_asked() -> None:
    grid = FakeGrid({k: FakeNode("a", saying(reply("a"))) for k in (1, 2)}, Time())
    (lost,) = runtime(grid, "a", absent=10.0).exchange({"a": Task("train", 3)})
    assert isinstance(lost, Lost)


@pytest.mark.parametrize(("name", "word"), [("b", "under the name 'b'"), ("", "without a name")])
def test_a_node_cannot_speak_for_a_site_under_whose_name_its_key_was_not_let_in(name: str, word: str) -> None:
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")), registered=name)}, Time())
    (lost,) = runtime(grid, "a", absent=10.0).exchange({"a": Task("train", 3)})
    assert isinstance(lost, Lost)
    assert f"key registered {word}" in lost.reason
    assert grid.types.count(TASK) == 0


def test_a_false_claim_is_not_the_reason_once_the_site_itself_was_there() -> None:
    grid = FakeGrid(
        {1: FakeNode("a", saying(reply("a")), registered="b"), 2: FakeNode("a", saying(reply("a")))}, Time()
    )
    over = runtime(grid, "a", absent=10.0)
    (found,) = over.exchange({"a": Task("train", 3, {"weight": torch.zeros(2)})})
    assert isinstance(found, Reply)
    assert over.nodes.refused == {}


def test_in_a_simulation_without_keys_a_node_is_what_it_says() -> None:
    grid = FakeGrid({1: FakeNode("a", saying(reply("a")), registered="")}, Time())
    over = runtime(grid, "a")
    over.nodes.named = False
    (found,) = over.exchange({"a": Task("train", 3, {"weight": torch.zeros(2)})})
    assert isinstance(found, Reply)


def test_the_loop_refuses_less_than_the_quorum_and_says_who_is_lost(tmp_path: Path) -> None:
    model = tiny_model()
    groups = model.state_groups()
    good = worker("a", tmp_path)
    grid = FakeGrid({1: FakeNode("a", at_work(good)), 2: FakeNode("b", failing(5))}, Time())

    def run(quorum: float) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        federation = Federation(
            STRATEGIES.load("fedavg")(groups),
            Star(),
            Compression(groups),
            runtime(grid, "a", "b"),
            RoundsPlan(1, quorum=quorum),
        )
        federation.run(copy_state(model), tmp_path / f"{quorum}", records.append)
        return records

    with pytest.raises(TrainingError, match="b: its node is gone"):
        run(1.0)
    assert run(0.5)[0]["train_loss"].keys() == {"a"}


def nan(state: State) -> State:
    return {name: torch.full_like(t, float("nan")) if t.is_floating_point() else t for name, t in state.items()}


def short(state: State) -> State:
    return {name: t[..., :1] if t.dim() else t for name, t in state.items()}


@pytest.mark.parametrize(("spoil", "word"), [(nan, "NaN"), (short, "of shape")])
def test_a_site_that_sends_nonsense_is_lost_and_the_round_goes_on(
    spoil: Callable[[State], State], word: str, tmp_path: Path
) -> None:
    model, bad, good = tiny_model(), worker("bad", tmp_path), worker("good", tmp_path)

    def spoiled(message: Message) -> RecordDict:
        asked = opened(message.content)
        assert asked.payload is not None
        task = task_of(asked.payload)
        answer = bad.do(task)
        return Envelope.of(asked.identity, task, reply_payload(replace(answer, state=spoil(answer.state)))).records()

    groups, records = model.state_groups(), list[dict[str, Any]]()
    grid = FakeGrid({1: FakeNode("bad", spoiled), 2: FakeNode("good", at_work(good))}, Time())
    over = runtime(grid, "bad", "good")
    federation = Federation(
        STRATEGIES.load("fedavg")(groups), Star(), Compression(groups), over, RoundsPlan(1, quorum=0.5)
    )
    server = federation.run(copy_state(model), tmp_path / "rounds", records.append)
    assert word in records[0]["lost"]["bad"]
    assert all(bool(torch.isfinite(t).all()) for t in server.state.values())


def test_who_watches_hears_who_has_answered() -> None:
    heard: list[Waiting] = []
    grid = FakeGrid({1: FakeNode("a", saying(reply("a"))), 2: FakeNode("b", lambda _: None)}, Time())
    over = runtime(grid, "a", "b", round=5.0)
    over.tell = heard.append
    list(over.exchange({site: Task("train", 3, {"weight": torch.zeros(2)}) for site in ("a", "b")}))
    assert heard[0].done == ("a",)
    assert heard[0].waiting == ("b",)
    assert heard[-1].waiting == ()
