"""Compressed updates: small errors, nothing lost over the rounds, fewer bytes, and garbage refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeSite, fake_site, fake_trainer, tiny_model
from hilum.errors import StudyError, TrainingError
from hilum.federation.compression import COMPRESSIONS
from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import ServerState
from hilum.federation.rounds import Federation, RoundsPlan, size
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies import STRATEGIES
from hilum.federation.topology.star import Star
from hilum.federation.worker import RESIDUAL, Worker
from hilum.models.classifier import build_model
from hilum.study.federations import build_compression, build_strategy
from hilum.study.spec_federation import FederationSpec
from hilum.training.state import State, copy_state, fingerprint

GROUPS = tiny_model().state_groups()
WEIGHTS = [name for name, group in GROUPS.items() if group != "norm_stats"]
STATISTICS = [name for name, group in GROUPS.items() if group == "norm_stats"]
START = copy_state(tiny_model())
LOSSY: list[dict[str, Any]] = [
    {"name": "bf16"},
    {"name": "int8"},
    {"name": "top_k", "share": 0.1},
    {"name": "top_k", "share": 0.1, "values": "int8"},
]
NAMES = [" ".join(map(str, options.values())) for options in LOSSY]
each = pytest.mark.parametrize("options", LOSSY, ids=NAMES)
fed_back = pytest.mark.parametrize("options", LOSSY[1:], ids=NAMES[1:])


def compression(options: dict[str, Any], groups: Any = GROUPS) -> Compression:
    rest = {key: value for key, value in options.items() if key != "name"}
    made: Compression = COMPRESSIONS.load(options["name"])(groups, **rest)
    return made


def moved(start: State, seed: int = 0, by: float = 0.01) -> State:
    """A state some way from ``start``; counters go up by three."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: tensor + (by * torch.randn(tensor.shape, generator=rng) if tensor.is_floating_point() else 3)
        for name, tensor in start.items()
    }


def test_every_compression_is_tried_here() -> None:
    assert {options["name"] for options in LOSSY} | {"none"} == set(COMPRESSIONS)


def test_none_sends_the_state() -> None:
    none, state = compression({"name": "none"}), moved(START)
    assert none.decode(none.encode(state, START, {})[0], START) is state


# Errors


def error_bound(options: dict[str, Any], update: torch.Tensor) -> torch.Tensor:
    most = update.abs().max()
    if options["name"] == "bf16":
        return update.abs() * 2**-8
    if options["name"] == "int8":
        return torch.full_like(update, float(most / 127 / 2))
    cut = torch.topk(update.abs().reshape(-1), max(1, int(np.ceil(0.1 * update.numel())))).values.min()
    rounding = most / 127 / 2 if options.get("values") == "int8" else most * 2**-11
    return torch.where(update.abs() < cut, cut, rounding)


@each
def test_the_error_of_one_update_is_bounded(options: dict[str, Any]) -> None:
    state = moved(START)
    sent, _ = compression(options).encode(state, START, {})
    decoded = compression(options).decode(sent, START)
    assert set(decoded) == set(START)
    for name in WEIGHTS:
        update = state[name] - START[name]
        wrong = (decoded[name] - START[name] - update).abs()
        assert bool((wrong <= 1.001 * error_bound(options, update) + 1e-7).all()), name
        assert decoded[name].dtype == START[name].dtype
        assert bool(wrong.any()), "nothing was compressed"


@each
def test_statistics_travel_as_values_and_counters_not_at_all(options: dict[str, Any]) -> None:
    """A variance of 10⁻³ after one of 10³ stays what it is, where its change would round to less than nothing."""
    start = START | {name: torch.full_like(START[name], 1e3) for name in STATISTICS}
    state = moved(start) | {name: torch.full_like(START[name], 1e-3) for name in STATISTICS}
    sent, left = compression(options).encode(state, start, {})
    decoded = compression(options).decode(sent, start)
    for name in STATISTICS:
        assert torch.allclose(decoded[name], state[name], rtol=2**-8)
        assert name not in left
    counters = [name for name in START if name not in GROUPS]
    assert counters
    assert all(torch.equal(decoded[name], start[name]) for name in counters)
    assert not any(key.endswith(name) for key in sent for name in counters)


@each
def test_what_did_not_change_is_not_sent(options: dict[str, Any]) -> None:
    state = START | {"head.bias": START["head.bias"] + 1}
    sent, _ = compression(options).encode(state, START, {})
    assert {key.partition("/")[2] for key in sent} == {"head.bias"}
    assert fingerprint(compression(options).decode({}, START)) == fingerprint(START)


@each
def test_the_same_update_gives_the_same_bytes(options: dict[str, Any]) -> None:
    one, two = (compression(options).encode(moved(START), START, {})[0] for _ in range(2))
    assert fingerprint_of(one) == fingerprint_of(two)


def fingerprint_of(state: State) -> str:
    return fingerprint({name: tensor.float() for name, tensor in state.items()})


numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=True)


@each
@given(values=st.lists(numbers, min_size=1, max_size=40))
def test_any_update_comes_back_finite_and_its_rest_is_kept(options: dict[str, Any], values: list[float]) -> None:
    start, state = {"w": torch.zeros(len(values))}, {"w": torch.tensor(values, dtype=torch.float32)}
    method = compression(options, {"w": "trunk"})
    sent, left = method.encode(state, start, {})
    decoded = method.decode(sent, start)["w"]
    assert bool(torch.isfinite(decoded).all())
    if options["name"] != "bf16":
        assert torch.allclose(decoded + left["w"], state["w"], rtol=1e-6, atol=1e-30)


# Error feedback


@fed_back
def test_error_feedback_sums_to_the_truth(options: dict[str, Any]) -> None:
    """After any round, what the server has got and what the site still holds are all updates together."""
    method, server, residual = compression(options), dict(START), {}
    truth = {name: torch.zeros_like(START[name]) for name in WEIGHTS}
    for round_ in range(30):
        state = moved(server, round_)
        sent, residual = method.encode(state, server, residual)
        truth = {name: truth[name] + state[name] - server[name] for name in WEIGHTS}
        server = method.decode(sent, server)
    for name in WEIGHTS:
        assert torch.allclose(server[name] - START[name] + residual[name], truth[name], atol=1e-5), name


@fed_back
def test_without_feedback_the_same_small_update_would_never_arrive(options: dict[str, Any]) -> None:
    """One entry is a thousand times the others, as in every round; the others arrive all the same."""
    step = torch.full((8,), 1e-3).index_fill(0, torch.tensor([0]), 1.0)
    method = compression(options, {"w": "trunk"})
    server, residual = {"w": torch.zeros(8)}, {}
    for _ in range(2000):
        sent, residual = method.encode({"w": server["w"] + step}, server, residual)
        server = method.decode(sent, server)
    assert torch.allclose(server["w"], 2000 * step, rtol=0.6)


def test_bf16_keeps_nothing() -> None:
    assert compression({"name": "bf16"}).encode(moved(START), START, {})[1] == {}


# Bytes


@pytest.mark.parametrize(
    ("options", "factor"),
    [
        ({"name": "bf16"}, 2),
        ({"name": "int8"}, 3.9),
        ({"name": "top_k"}, 17),
        ({"name": "top_k", "values": "int8"}, 21),
    ],
)
def test_bytes_fall_by_the_stated_factor(options: dict[str, Any], factor: float) -> None:
    """With the residual trunk of a study, normalization statistics and all."""
    model = build_model({"name": "residual"}, {"name": "linear_softmax"}, 8, 0)
    start = copy_state(model)
    state = moved(start)
    sent, _ = compression(options, model.state_groups()).encode(state, start, {})
    assert size(state) / size(sent) >= factor


def test_the_share_of_top_k_is_that_of_each_tensor() -> None:
    sent, _ = compression({"name": "top_k", "share": 0.25}).encode(moved(START), START, {})
    for name in WEIGHTS:
        assert len(sent[f"entries/{name}"]) == max(1, int(np.ceil(START[name].numel() / 4)))


# Garbage


def broken(change: Callable[[State], Any]) -> Callable[[State], State]:
    def apply(sent: State) -> State:
        change(sent)
        return sent

    return apply


W = "head.weight"


@pytest.mark.parametrize(
    ("options", "change", "told"),
    [
        ({"name": "bf16"}, lambda s: s.update({"update/stranger": torch.ones(1)}), "found 'update/stranger'"),
        ({"name": "bf16"}, lambda s: s.update({W: torch.ones(1)}), f"found '{W}'"),
        ({"name": "bf16"}, lambda s: s.update({f"update/{W}": s[f"update/{W}"][:1]}), r"expected 'update' of \(2, "),
        ({"name": "bf16"}, lambda s: s.update({f"update/{W}": s[f"update/{W}"].float()}), "torch.float32"),
        ({"name": "int8"}, lambda s: s.pop(f"scale/{W}"), "expected the part 'scale'; found levels"),
        ({"name": "int8"}, lambda s: s.update({f"scale/{W}": torch.tensor(torch.nan)}), "expected a finite scale"),
        ({"name": "int8"}, lambda s: s.update({f"levels/{W}": s[f"levels/{W}"].reshape(-1)}), "expected 'levels'"),
        ({"name": "top_k"}, lambda s: s.pop(f"gaps/{W}"), "expected the parts entries and whole gaps"),
        ({"name": "top_k"}, lambda s: s.update({f"gaps/{W}": torch.tensor([200], dtype=torch.uint8)}), "ascending"),
        ({"name": "top_k"}, lambda s: s.update({f"gaps/{W}": torch.tensor([-1], dtype=torch.int16)}), "ascending"),
        ({"name": "top_k"}, lambda s: s.update({f"gaps/{W}": torch.zeros(1)}), "expected the parts"),
        ({"name": "top_k"}, lambda s: s.update({f"entries/{W}": torch.zeros(3).half()}), r"'entries' of \(1,\)"),
    ],
)
def test_garbage_is_one_clear_error(options: dict[str, Any], change: Callable[[State], Any], told: str) -> None:
    method = compression(options)
    sent, _ = method.encode(moved(START), START, {})
    method.decode(sent, START)
    with pytest.raises(TrainingError, match=told):
        method.decode(broken(change)(sent), START)


def test_options_out_of_range_are_refused_with_the_study() -> None:
    for options, told in (({"share": 0}, "share"), ({"share": "all"}, "share"), ({"values": "int4"}, "float16, int8")):
        with pytest.raises(ValueError, match=told):
            FederationSpec.model_validate({"compression": {"name": "top_k", **options}})
    with pytest.raises(StudyError, match="above 0 and at most 1; found True"):
        compression({"name": "top_k", "share": True})


# In the round loop


class Stopped(Exception):
    pass


class Sites:
    """Two sites of a federation with a compressed uplink."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        self.spec, self.folder = FederationSpec.model_validate(spec), folder
        self.records: list[dict[str, Any]] = []

    def run(self, rounds: int = 3, stop_in: int | None = None, quorum: float = 1.0) -> ServerState:
        strategy, method = build_strategy(self.spec, GROUPS), build_compression(self.spec, GROUPS)
        sites: tuple[FakeSite, ...] = (fake_site("a", train=16), fake_site("b", train=24, seed=1))
        workers = [
            Worker(fake_trainer(s, rounds=rounds), SiteMemory(self.folder / s.name), strategy, method) for s in sites
        ]
        plan = RoundsPlan(rounds, validate_every=1, quorum=quorum)

        def on_round(record: dict[str, Any]) -> None:
            if record["round"] == stop_in:
                raise Stopped
            self.records.append(record)

        loop = Federation(strategy, Star(), method, InProcess(workers), plan)
        return loop.run(copy_state(tiny_model()), self.folder, on_round)

    def residual(self, site: str) -> State:
        kept = SiteMemory(self.folder / site).at((9999, 99999))
        return {name: tensor for name, tensor in kept.items() if name.startswith(RESIDUAL)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["int8", "top_k"])
def test_every_strategy_trains_with_fewer_bytes(strategy: str, name: str, tmp_path: Path) -> None:
    whole, small = (
        Sites(tmp_path / "whole", strategy=strategy),
        Sites(tmp_path / "small", strategy=strategy, compression=name),
    )
    plain, compressed = whole.run(2), small.run(2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in compressed.state.values())
    assert fingerprint(compressed.state) not in (fingerprint(plain.state), fingerprint(START))
    assert small.records[0]["bytes_up"] < whole.records[0]["bytes_up"] / (1.4 if strategy == "scaffold" else 2.5)


@each
def test_resumed_is_uninterrupted(options: dict[str, Any], tmp_path: Path) -> None:
    whole, cut = (Sites(tmp_path / n, compression=options, normalization="site") for n in ("whole", "cut"))
    expected = whole.run(4)
    with pytest.raises(Stopped):
        cut.run(4, stop_in=3)
    assert fingerprint(cut.run(4).state) == fingerprint(expected.state)
    assert fingerprint(cut.residual("a")) == fingerprint(whole.residual("a"))
    assert bool(whole.residual("a")) == (options["name"] != "bf16")


@pytest.mark.parametrize("spec", [{"strategy": "fedbn"}, {"strategy": "fedrep"}])
def test_what_a_site_trains_from_its_own_values_is_sent_as_it_is(spec: dict[str, Any], tmp_path: Path) -> None:
    """Its distance from the server's mean does not shrink: as an update with feedback it would pile up."""
    plain = Sites(tmp_path / "plain", **spec).run(6)
    small = Sites(tmp_path / "small", **spec, compression={"name": "top_k", "share": 0.02})
    compressed = small.run(6)
    group = "norm_affine" if spec["strategy"] == "fedbn" else "head"
    names = [name for name, of in GROUPS.items() if of == group]
    assert not any(name.removeprefix(RESIDUAL) in names for name in small.residual("a"))
    apart = max(float((compressed.state[n] - plain.state[n]).abs().max()) for n in names)
    assert apart < 0.05


@pytest.mark.parametrize("name", ["bf16", "int8", "top_k"])
def test_rows_that_are_nobodys_own_learn_in_steps_below_the_spacing_of_bfloat16(name: str) -> None:
    method, start = build_compression(FederationSpec.model_validate({"compression": name}), GROUPS), dict(START)
    for _ in range(200):
        after = start | {"head.bias": start["head.bias"] + 2e-4}
        sent, _ = method.encode(after, start, {})
        start = method.decode(sent, start)
    torch.testing.assert_close(start["head.bias"], START["head.bias"] + 0.04, rtol=0, atol=1e-5)


def test_weights_that_are_not_finite_reach_the_server_as_such_and_never_the_residual() -> None:
    method = compression({"name": "top_k"})
    _, residual = method.encode(moved(START), START, {})
    state = moved(START)
    state[W][0, 0] = torch.nan
    sent, left = method.encode(state, START, residual)
    assert not bool(torch.isfinite(method.decode(sent, START)[W]).all())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in left.values())


def test_a_site_that_sends_garbage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = COMPRESSIONS.load("int8")
    encode = method.encode

    def garbled(self: Any, state: State, start: State, residual: State) -> tuple[State, State]:
        sent, left = encode(self, state, start, residual)
        return (sent | {"levels/stranger": torch.ones(1)} if residual else sent), left

    monkeypatch.setattr(method, "encode", garbled)
    with pytest.raises(TrainingError, match=r"a compressed update from 'a'; expected parts .* found 'levels/stranger'"):
        Sites(tmp_path / "strict", compression="int8").run()
