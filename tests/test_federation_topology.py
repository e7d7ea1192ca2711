"""Topologies: equal where theory says so, gossip at its rate, regions on their own in between (card 18)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FakeSite, Hospitals, fake_site, tiny_model
from hilum.errors import StudyError
from hilum.federation.messages import LabelCounts, Reply, ServerState
from hilum.federation.rounds import RoundsPlan
from hilum.federation.runtimes.in_process import Presence
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.topology import TOPOLOGIES
from hilum.federation.topology.gossip import Gossip, metropolis, ring_of
from hilum.federation.topology.hierarchy import STATELESS, Hierarchy
from hilum.federation.topology.star import Star
from hilum.models.classifier import StateGroup
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

GROUPS: dict[str, StateGroup] = {"trunk": "trunk", "head.weight": "head", "n.running_mean": "norm_stats"}
NAMES = "abcde"
COUNTS = {
    name: LabelCounts(5 + 7 * k, np.array([5 + k, 0 if k < 3 else 4]), np.array([2, 0 if k < 3 else 2]))
    for k, name in enumerate(NAMES)
}
TINY = tiny_model().state_groups()
WEIGHTS = [name for name, group in TINY.items() if group != "norm_stats"]
SITES = tuple(fake_site(name, train=6 + 2 * k, seed=k) for k, name in enumerate("abc"))


def state(seed: int) -> State:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3, generator=rng) for name in GROUPS} | {"count": torch.tensor(seed)}


def answers(round_: int) -> list[Reply]:
    """Replies by hand, with what FedNova and SCAFFOLD want to be told."""
    told = {"control/trunk": torch.ones(2, 3), "control/head.weight": torch.full((2, 3), 0.5)}
    return [
        Reply(name, round_, state(10 * round_ + k), COUNTS[name], extra=told | {"steps": torch.tensor(2.0 + k)})
        for k, name in enumerate(NAMES)
    ]


def rounds(strategy: Any, topology: Star, number: int = 2) -> ServerState:
    server = strategy.join(ServerState(0, state(0)), COUNTS)
    for round_ in range(1, number + 1):
        replies = answers(round_)
        if "scaffold" not in type(strategy).__name__.lower():
            replies = [replace(r, extra={"steps": r.extra["steps"]}) for r in replies]
        server = topology.at_server(strategy, server, replies, COUNTS, True)
    return server


# Regions


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("iil", "ciil")])
@settings(max_examples=10)
@given(st.lists(st.sampled_from("xyz"), min_size=5, max_size=5))
def test_regions_of_any_grouping_are_a_star(name: str, grouping: list[str]) -> None:
    strategy = STRATEGIES.load(name)(GROUPS, **IMPLIED.get(name, {}))
    regions = {region: [NAMES[k] for k in range(5) if grouping[k] == region] for region in set(grouping)}
    star, tree = rounds(strategy, Star()), rounds(strategy, Hierarchy(regions))
    for part, other in ((star.state, tree.state), (star.extra, tree.extra)):
        assert part.keys() == other.keys()
        for tensor in part:
            torch.testing.assert_close(other[tensor], part[tensor], rtol=0, atol=1e-6)


def loop(folder: Path, topology: Star, **options: Any) -> tuple[ServerState, list[dict[str, Any]]]:
    plan = options.pop("plan", RoundsPlan(2, validate_every=1))
    sites: tuple[FakeSite, ...] = options.pop("sites", SITES)
    presence: dict[str, Presence] = options.pop("presence", {})
    hospitals, records = Hospitals.of(folder, FedAvg(TINY), *sites, **options), []
    server = hospitals.federation(plan, topology, **presence).run(copy_state(tiny_model()), folder, records.append)
    return server, records


def test_a_trained_hierarchy_is_a_trained_star(tmp_path: Path) -> None:
    star, _ = loop(tmp_path / "star", Star())
    tree, _ = loop(tmp_path / "tree", Hierarchy({"x": ["a", "c"], "y": ["b"]}))
    for name in TINY:
        torch.testing.assert_close(tree.state[name], star.state[name], rtol=0, atol=1e-6)


def test_between_two_waves_a_region_has_the_mean_of_its_sites_and_draws_anew(tmp_path: Path) -> None:
    topology, strategy = Hierarchy({"x": ["a", "c"], "y": ["b"]}, region_rounds=2), FedAvg(TINY)
    hospitals = Hospitals.of(tmp_path, strategy, *SITES)
    server = hospitals.start()
    replies = hospitals.replies(server)
    between = topology.at_server(strategy, server, replies, server.counts, False)
    assert fingerprint(between.state) == fingerprint(server.state)
    n = np.sqrt([6.0, 10.0])
    stems = [replies[k].state["backbone.stem.0.weight"].double() for k in (0, 2)]
    mean = sum(float(w) * stem for w, stem in zip(n / n.sum(), stems, strict=True))
    torch.testing.assert_close(topology.state_for("a", between)["backbone.stem.0.weight"], mean.float())
    assert topology.state_for("a", between).keys() == topology.state_for("c", between).keys()
    own = topology.state_for("b", between)
    assert all(torch.equal(own[name], replies[1].state[name]) for name in TINY)
    still = OptimizerPlan("sgd", lr=1e-30, weight_decay=0.0)
    _, one = loop(tmp_path / "one", topology, plan=RoundsPlan(1), optimizer=still)
    _, two = loop(tmp_path / "two", Hierarchy(topology.regions), plan=RoundsPlan(1), optimizer=still)
    assert one[0]["train_loss"] != two[0]["train_loss"]  # the weights stand still: other images


def test_two_waves_are_twice_the_updates_and_leave_nothing_of_the_regions(tmp_path: Path) -> None:
    topology = Hierarchy({"x": ["a", "c"], "y": ["b"]}, region_rounds=2)
    server, records = loop(tmp_path, topology)
    assert [record["updates"] for record in records] == [4, 8]
    assert server.extra == {}
    before = replace(server, extra={"region/x/trunk": torch.ones(1)})
    assert topology.at_server(FedAvg(TINY), before, [], server.counts, True).extra == {}  # all were lost


def test_one_region_of_two_waves_is_a_star_of_twice_the_rounds(tmp_path: Path) -> None:
    """With a rate that does not change; the draws are others, so with all images in a batch."""
    options: dict[str, Any] = {
        "sites": tuple(fake_site(name, train=6, seed=k) for k, name in enumerate("abc")),
        "optimizer": OptimizerPlan("sgd", schedule="constant", warmup=0),
        "updates": 1,
        "batch": 6,
    }
    one, _ = loop(tmp_path / "one", Hierarchy({"x": list("abc")}, 2), plan=RoundsPlan(2), **options)
    star, _ = loop(tmp_path / "star", Star(), plan=RoundsPlan(4), **options)
    for name in TINY:
        torch.testing.assert_close(one.state[name], star.state[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("regions", "strategy", "rounds_", "told"),
    [
        ({"x": ["a"]}, "fedavg", 1, "every training site in one of federation.topology.regions; found a for"),
        ({"x": ["a", "b"], "y": ["b"]}, "fedavg", 1, "found a, b, b for the sites a, b"),
        ({"x": ["a", "b"]}, "iil", 1, "several waves in regions; found 'iil'"),
        ({"x": ["a", "b"]}, "scaffold", 2, "several waves in regions; found 'scaffold'"),
    ],
)
def test_regions_that_do_not_fit_are_refused(regions: Any, strategy: str, rounds_: int, told: str) -> None:
    with pytest.raises(StudyError, match=told):
        Hierarchy(regions, rounds_).check(strategy, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(
            ("hierarchy", {"regions": regions})
            for regions in (
                {"x": [1, 2]},
                {"x": [1, "north"]},
                {1: ["north"], "s": ["east"]},
                {"x": [["north"]]},
                {"a": ["north"], "a/b": ["east"]},
            )
        ),
        *(("gossip", {"graph": graph}) for graph in ({"north": [1]}, {1: ["north"]}, {"north": [["x"]]}, ["ring"], 3)),
    ],
)
def test_names_that_are_no_text_are_refused_and_a_region_within_another(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="every name as text"):
        TOPOLOGIES.load(name)(**options)


# Gossip


@st.composite
def graphs(draw: st.DrawFn) -> np.ndarray:
    """A connected graph: a path, and more edges."""
    size = draw(st.integers(2, 7))
    edges = draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), max_size=10))
    near = np.eye(size, k=1, dtype=bool)
    for a, b in edges:
        near[a, b] = True
    return near | near.T


@given(graphs())
def test_the_mixing_matrix_is_doubly_stochastic_and_mixes(near: np.ndarray) -> None:
    matrix = metropolis(near)
    np.testing.assert_allclose(matrix.sum(0), 1)
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all()
    assert ((matrix > 0) <= (near | np.eye(len(near), dtype=bool))).all()
    assert np.sort(np.abs(np.linalg.eigvalsh(matrix)))[-2] < 1


def mixed(topology: Gossip, server: ServerState, replies: list[Reply], times: int) -> list[float]:
    """Distance of the models from their mean after each mixing, where nobody trains."""
    strategy, distances = FedAvg(GROUPS), []
    for _ in range(times):
        server = topology.at_server(strategy, server, replies, COUNTS, True)
        models = np.stack([topology.state_for(name, server)["trunk"].double().numpy().ravel() for name in NAMES])
        distances.append(float(np.linalg.norm(models - models.mean(0))))
        replies = [replace(r, state=topology.state_for(r.site, server)) for r in replies]
    return distances


@pytest.mark.parametrize("graph", ["ring", {"a": ["b", "c"], "c": ["d"], "d": ["e"]}])
@pytest.mark.parametrize("steps", [1, 2])
def test_models_come_together_at_the_rate_of_the_second_eigenvalue(graph: Any, steps: int) -> None:
    topology = Gossip(graph, steps)
    second = np.sort(np.abs(np.linalg.eigvalsh(topology.matrix(list(NAMES)))))[-2]
    server = ServerState(0, state(0), counts=COUNTS)
    replies = [replace(r, state={n: t * 1e3 for n, t in r.state.items()}) for r in answers(1)]
    distances = mixed(topology, server, replies, 12 // steps)
    assert distances[-1] / distances[-2] == pytest.approx(second**steps, rel=0.02)
    for before, after in pairwise(distances):
        assert after <= before * second**steps * (1 + 1e-5)


def test_gossip_on_a_complete_graph_is_a_star_of_sites_that_weigh_the_same() -> None:
    """But for rows of the head that some do not label: in gossip all weigh the same."""
    server, replies = ServerState(0, state(0), counts=COUNTS), answers(1)
    found = Gossip("complete").at_server(FedAvg(GROUPS), server, replies, COUNTS, True)
    star = rounds(FedAvg(GROUPS, tau=0.0), Star(), 1)
    for name in ("trunk", "n.running_mean"):
        torch.testing.assert_close(found.state[name], star.state[name], rtol=0, atol=1e-6)
        for site in NAMES:
            peer = Gossip("complete").state_for(site, found)[name]
            torch.testing.assert_close(peer, star.state[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.state["head.weight"][0], star.state["head.weight"][0], rtol=0, atol=1e-6)
    assert found.state["count"] == 0


def test_the_mean_of_the_models_is_that_of_the_sites_whatever_the_graph() -> None:
    server, replies = ServerState(0, state(0), counts=COUNTS), answers(1)
    expected = torch.stack([r.state["trunk"] for r in replies]).mean(0)
    for graph in ("ring", "complete", {"a": list("bcde")}):
        found = Gossip(graph).at_server(FedAvg(GROUPS), server, replies, COUNTS, True)
        torch.testing.assert_close(found.state["trunk"], expected, rtol=0, atol=1e-6)


def test_absent_sites_keep_their_models_and_a_lost_one_mixes_the_old_one() -> None:
    topology, strategy = Gossip({"a": ["b", "c"], "b": ["c"], "d": ["e", "a"]}), FedAvg(GROUPS)
    server = topology.at_server(strategy, ServerState(0, state(0), counts=COUNTS), answers(1), COUNTS, True)
    asked = {name: COUNTS[name] for name in "abc"}
    replies = answers(2)[:2]  # c is asked and lost, d and e are not there
    after = topology.at_server(strategy, server, replies, asked, True)
    for absent in "de":
        assert fingerprint(topology.state_for(absent, after)) == fingerprint(topology.state_for(absent, server))
    models = [r.state["trunk"] for r in replies] + [topology.state_for("c", server)["trunk"]]
    mean = torch.stack(models).mean(0)  # a triangle
    torch.testing.assert_close(topology.state_for("c", after)["trunk"], mean, rtol=0, atol=1e-6)
    everybody = torch.stack([topology.state_for(name, after)["trunk"] for name in NAMES])
    torch.testing.assert_close(after.state["trunk"], everybody.mean(0), rtol=0, atol=1e-6)


def test_a_site_that_has_left_is_no_part_of_the_mean() -> None:
    topology, strategy = Gossip("complete"), FedAvg(GROUPS)
    server = topology.at_server(strategy, ServerState(0, state(0), counts=COUNTS), answers(1), COUNTS, True)
    there = {name: COUNTS[name] for name in NAMES[:3]}
    after = topology.at_server(strategy, replace(server, present=tuple(there)), answers(2)[:3], there, True)
    mean = torch.stack([reply.state["trunk"] for reply in answers(2)[:3]]).mean(0)
    torch.testing.assert_close(after.state["trunk"], mean, rtol=0, atol=1e-6)


def test_gossip_trains_where_some_sites_are_drawn_or_come_late(tmp_path: Path) -> None:
    plan = RoundsPlan(3, validate_every=1, participation=0.5)
    server, records = loop(tmp_path, Gossip({"a": ["b"], "b": ["c"]}), plan=plan, presence={"c": Presence(2)}, rounds=3)
    assert [len(record["train_loss"]) for record in records] == [1, 2, 2]
    assert set(server.counts) == set("abc")
    # What is validated is what is kept: the mean.
    trainer = Hospitals.of(tmp_path, FedAvg(TINY), *SITES, rounds=3).trainers["a"]
    assert records[-1]["validation_loss"]["a"] == trainer.validate(server.state)["a"]


@pytest.mark.parametrize(
    ("topology", "strategy", "told"),
    [
        (Gossip({"a": ["b"], "c": ["d"]}), "fedavg", "to connect all sites"),
        (Gossip({"a": ["z"]}), "fedavg", "Expected training sites in federation.topology.graph; found z"),
        (Gossip(), "scaffold", "for gossip; found 'scaffold'"),
        (Gossip(), "surgical", "for gossip; found 'surgical'"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused(topology: Gossip, strategy: str, told: str) -> None:
    with pytest.raises(StudyError, match=told):
        topology.check(strategy, list("abcd"))


def test_a_ring_of_one_and_of_two() -> None:
    assert metropolis(ring_of(1)).tolist() == [[1.0]]
    assert metropolis(ring_of(2)).tolist() == [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("name", list(TOPOLOGIES))
def test_the_order_of_the_sites_changes_no_bit(name: str, tmp_path: Path) -> None:
    options = {"hierarchy": {"regions": {"x": ["c", "a"], "y": ["b"]}, "region_rounds": 2}}.get(name, {})
    found = []
    for k, sites in enumerate((SITES, SITES[::-1])):
        server, records = loop(tmp_path / str(k), TOPOLOGIES.load(name)(**options), sites=sites)
        found.append((fingerprint(server.state), fingerprint(server.extra), [r["train_loss"] for r in records]))
    assert found[0] == found[1]
    assert set(STATELESS) <= set(STRATEGIES)
