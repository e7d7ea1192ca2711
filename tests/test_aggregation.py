"""Weighted means of states, each group of tensors with its own weights, in any order of the sites."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import fake_site, tensors_of
from hilum.federation.aggregation import MixtureStats, Weight, WeightedMean, weights_of
from hilum.federation.messages import LabelCounts
from hilum.models.classifier import StateGroup
from hilum.training.state import State, fingerprint

GROUPS: dict[str, StateGroup] = {
    "frozen": "trunk",
    "trunk": "trunk",
    "head": "head",
    "n.weight": "norm_affine",
    "n.running_mean": "norm_stats",
    "n.running_var": "norm_stats",
}


def state(seed: int) -> State:
    rng = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(3, 2, 2, generator=rng) * 10.0**seed for name in GROUPS}
    return tensors | {"frozen": torch.ones(2), "n.batches": torch.tensor(seed)}


def counts(images: int, *known: int) -> LabelCounts:
    return LabelCounts(images, np.array(known), np.zeros(len(known), np.int64))


def mean_of(previous: State, states: list[State], labels: list[LabelCounts], tau: float) -> State:
    """The mean of states whose sites are named a, b, …"""
    names = "abcdef"[: len(states)]
    weights = weights_of(dict(zip(names, labels, strict=True)), tau)
    mean = WeightedMean(GROUPS)
    for name, value in zip(names, states, strict=True):
        mean.add(value, weights[name])
    return mean.value(previous)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_each_group_has_its_own_weights(tau: float) -> None:
    states = [state(1), state(2)]
    found = mean_of(state(0), states, [counts(30, 10, 0, 0), counts(10, 30, 5, 0)], tau)
    p = np.array([30.0, 10.0]) ** tau / (30.0**tau + 10.0**tau)
    for name in ("trunk", "n.weight", "n.running_mean", "n.running_var"):
        expected = p[0] * states[0][name].numpy().astype(np.float64) + p[1] * states[1][name].numpy()
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-6)
    q = np.array([10.0, 30.0]) ** tau / (10.0**tau + 30.0**tau)
    row = q[0] * states[0]["head"][0].numpy().astype(np.float64) + q[1] * states[1]["head"][0].numpy()
    np.testing.assert_allclose(found["head"][0].numpy(), row, rtol=1e-6)
    assert torch.equal(found["head"][1], states[1]["head"][1])
    assert torch.equal(found["head"][2], state(0)["head"][2])
    assert found["n.batches"] == 0
    assert all(found[name].dtype == tensor.dtype for name, tensor in state(0).items())


def test_inputs_do_not_change_and_are_not_shared() -> None:
    previous, states = state(0), [state(1)]
    before = [fingerprint(s) for s in (previous, *states)]
    found = mean_of(previous, states, [counts(3, 1, 1, 0)], 1.0)
    for tensor in found.values():
        tensor.zero_()
    assert [fingerprint(s) for s in (previous, *states)] == before


def test_the_mean_of_one_is_its_bits_whatever_its_weight() -> None:
    found = mean_of(state(0), [state(1)], [counts(7, 3, 2, 1)], 0.5)
    assert all(torch.equal(found[name], state(1)[name]) for name in GROUPS)


LABELS = {"a": counts(30, 10, 0, 0), "b": counts(10, 30, 5, 0), "c": counts(5, 1, 9, 0), "d": counts(8, 2, 2, 0)}


@pytest.mark.parametrize("absent", [set(), {"b"}, {"a", "d"}])
def test_weights_are_shares_of_those_that_answer(absent: set[str]) -> None:
    """A mean of some is that of a federation of them alone, though the weights were made for all."""
    weights, some = weights_of(LABELS, 0.5), [name for name in LABELS if name not in absent]
    states = {name: state(k % 3) for k, name in enumerate(LABELS)}
    mean = WeightedMean(GROUPS)
    for name in some:
        mean.add(states[name], weights[name])
    expected = mean_of(state(0), [states[n] for n in some], [LABELS[n] for n in some], 0.5)
    for name, tensor in mean.value(state(0)).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=0)


@given(st.sets(st.sampled_from("abcd")))
def test_a_mean_of_means_is_the_mean(group: set[str]) -> None:
    weights, states = weights_of(LABELS, 0.5), {name: state(k % 3) for k, name in enumerate(LABELS)}
    whole, parts = WeightedMean(GROUPS), (WeightedMean(GROUPS), WeightedMean(GROUPS))
    for name in LABELS:
        whole.add(states[name], weights[name])
        parts[name in group].add(states[name], weights[name])
    parts[0].merge(parts[1])
    for name, tensor in parts[0].value(state(0)).items():
        torch.testing.assert_close(tensor, whole.value(state(0))[name], rtol=1e-6, atol=1e-7)


def test_under_contrast_a_site_with_one_class_teaches_nothing_it_cannot_compare() -> None:
    labels = {
        "a": LabelCounts(40, np.array([40, 8, 5]), np.array([20, 8, 5])),
        "b": LabelCounts(10, np.array([10, 10, 0]), np.array([1, 5, 0])),
    }
    weights = weights_of(labels, 1.0, "contrast")
    rows = np.stack([weights[name].rows for name in "ab"])
    np.testing.assert_allclose(rows[:, 0], np.array([10.0, 0.9]) / 10.9)
    np.testing.assert_allclose(rows[:, 1], [0, 1])
    np.testing.assert_allclose(rows[:, 2], [1, 0])  # nobody has both classes: known labels decide
    np.testing.assert_allclose([weights[name].trunk for name in "ab"], np.array([10.0, 3.4]) / 13.4)


def test_uniform_rows_are_the_plain_mean_of_who_labels_the_finding() -> None:
    weights = weights_of(LABELS, 0.5, rows="uniform")
    np.testing.assert_allclose(
        np.stack([weights[name].rows for name in "abcd"]), [[1 / 4, 0, 0], *[[1 / 4, 1 / 3, 0]] * 3]
    )
    assert weights["a"].trunk == weights_of(LABELS, 0.5)["a"].trunk


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.floats(0, 1))
def test_site_weights_are_shares(images: list[int], tau: float) -> None:
    weights = weights_of({"abcdef"[k]: counts(n, 1) for k, n in enumerate(images)}, tau)
    trunk = np.array([weights["abcdef"[k]].trunk for k in range(len(images))])
    assert trunk.sum() == pytest.approx(1)
    np.testing.assert_allclose(trunk * images[0] ** tau, trunk[0] * np.array(images, float) ** tau, rtol=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=5), st.floats(0, 1))
def test_row_weights_are_shares_of_those_who_label(known: list[tuple[int, int, int]], tau: float) -> None:
    weights = weights_of({"abcdef"[k]: counts(1, *row) for k, row in enumerate(known)}, tau)
    rows, table = np.stack([weights["abcdef"[k]].rows for k in range(len(known))]), np.array(known)
    assert (rows[table == 0] == 0).all()
    np.testing.assert_allclose(rows.sum(0), (table > 0).any(0).astype(float))


@given(st.permutations("abcd"))
def test_the_order_of_the_counts_changes_no_bit(order: list[str]) -> None:
    expected, found = weights_of(LABELS, 0.5), weights_of({name: LABELS[name] for name in order}, 0.5)
    assert all(found[name].trunk == expected[name].trunk for name in order)
    assert all((found[name].rows == expected[name].rows).all() for name in order)


def test_statistics_of_the_mixture_are_those_of_the_concatenated_images() -> None:
    images = [tensors_of(fake_site(str(k), train=5 + 4 * k, seed=k), "train")[0] + k for k in range(3)]
    for chosen in ([0, 1, 2], *combinations(range(3), 2)):
        stats, total = MixtureStats(GROUPS), sum(len(i) for i in images)
        for k in chosen:
            of_site = {
                "n.running_mean": images[k].double().mean((0, 2, 3)),
                "n.running_var": images[k].double().var((0, 2, 3), unbiased=False),
            }
            stats.add(of_site, Weight(len(images[k]) / total, np.ones(3)))
        pooled = stats.value()
        together = np.concatenate([images[k].numpy() for k in chosen]).astype(np.float64)
        assert set(pooled) == {"n.running_mean", "n.running_var"}
        np.testing.assert_allclose(pooled["n.running_mean"].numpy(), together.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(pooled["n.running_var"].numpy(), together.var((0, 2, 3)), rtol=1e-5)
        assert pooled["n.running_mean"].dtype == torch.float32
