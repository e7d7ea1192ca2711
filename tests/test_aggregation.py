"""Weighted means of states, each group of tensors with its own weights, in any order of the sites."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fakes import fake_site, tensors_of
from hilum.federation.aggregation import aggregate, pooled_norm_stats, row_weights, site_weights
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


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_each_group_has_its_own_weights(tau: float) -> None:
    states = [state(1), state(2)]
    found = aggregate(state(0), states, [counts(30, 10, 0, 0), counts(10, 30, 5, 0)], GROUPS, tau)
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
    found = aggregate(previous, states, [counts(3, 1, 1, 0)], GROUPS, 1.0)
    for tensor in found.values():
        tensor.zero_()
    assert [fingerprint(s) for s in (previous, *states)] == before


def cancelling() -> list[State]:
    """Four states whose mean is small beside them, so that every order of a sum gives other bits."""
    states = [state(0), state(0), state(1), state(2)]
    for name in set(GROUPS) - {"frozen"}:
        states[0][name] = 1e9 * states[2][name]
        states[1][name] = -states[0][name]
    return states


@pytest.mark.parametrize("tie", [False, True])
def test_the_order_of_the_sites_changes_no_bit(tie: bool) -> None:
    """With a tie all counts are equal, and so is the first tensor, as in a trunk whose stem is frozen."""
    states, labels = cancelling(), [counts(8, 4, 2, 1) if tie else counts(8, 4, k, 1) for k in range(4)]
    results = [
        aggregate(state(0), [states[k] for k in order], [labels[k] for k in order], GROUPS, 1.0)
        for order in permutations(range(4))
    ]
    assert len({fingerprint(result) for result in results}) == 1


def test_sums_in_the_given_order_would_differ() -> None:
    """What the test above guards against is real."""
    sums = {
        (a + b + c + d).float().numpy().tobytes()
        for a, b, c, d in permutations([s["trunk"].double() / 4 for s in cancelling()])
    }
    assert len(sums) > 1


def test_under_contrast_a_site_with_one_class_teaches_nothing_it_cannot_compare() -> None:
    labels = [
        LabelCounts(40, np.array([40, 8, 5]), np.array([20, 8, 5])),
        LabelCounts(10, np.array([10, 10, 0]), np.array([1, 5, 0])),
    ]
    weights = row_weights(labels, 1.0, "contrast")
    np.testing.assert_allclose(weights[:, 0], np.array([10.0, 0.9]) / 10.9)
    np.testing.assert_allclose(weights[:, 1], [0, 1])
    np.testing.assert_allclose(weights[:, 2], [1, 0])  # nobody has both classes: known labels decide
    np.testing.assert_allclose(site_weights(labels, 1.0, "contrast"), np.array([15.0, 3.4]) / 18.4)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.floats(0, 1))
def test_site_weights_are_shares(images: list[int], tau: float) -> None:
    weights = site_weights([counts(n, 1) for n in images], tau)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights * images[0] ** tau, weights[0] * np.array(images, float) ** tau, rtol=1e-9)


@given(st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=5), st.floats(0, 1))
def test_row_weights_are_shares_of_those_who_label(known: list[tuple[int, int, int]], tau: float) -> None:
    weights, table = row_weights([counts(1, *row) for row in known], tau), np.array(known)
    assert (weights[table == 0] == 0).all()
    np.testing.assert_allclose(weights.sum(0), (table > 0).any(0).astype(float))


def test_pooled_statistics_are_those_of_the_concatenated_images() -> None:
    images = [tensors_of(fake_site(str(k), train=5 + 4 * k, seed=k), "train")[0] + k for k in range(3)]
    states = [
        {"n.running_mean": i.double().mean((0, 2, 3)), "n.running_var": i.double().var((0, 2, 3), unbiased=False)}
        for i in images
    ]
    weights = np.array([len(i) for i in images]) / sum(len(i) for i in images)
    pooled = pooled_norm_stats(states, GROUPS, weights)
    together = np.concatenate([i.numpy() for i in images]).astype(np.float64)
    assert set(pooled) == {"n.running_mean", "n.running_var"}
    np.testing.assert_allclose(pooled["n.running_mean"].numpy(), together.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(pooled["n.running_var"].numpy(), together.var((0, 2, 3)), rtol=1e-6)
    assert pooled["n.running_mean"].dtype == torch.float32
