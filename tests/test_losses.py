"""The contract of a loss: unknown labels say nothing, known ones what the formula says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hilum.training.losses import LOSSES

SHAPE = st.tuples(st.integers(1, 5), st.integers(1, 4))
BATCHES = SHAPE.flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=st.floats(-20, 20, width=32)),
        hnp.arrays(np.float32, shape, elements=st.sampled_from([0, 1, float("nan")])),
    )
)
LOGITS = torch.linspace(-6, 6, 12).view(4, 3)
TARGETS = (torch.arange(12).view(4, 3) % 2).float()


@pytest.mark.parametrize("name", LOSSES)
@given(batch=BATCHES)
def test_unknown_labels_have_no_gradient_and_the_rest_is_the_mean_over_the_known(
    name: str, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    loss_of = LOSSES.load(name)
    logits, targets = torch.from_numpy(batch[0]).requires_grad_(), torch.from_numpy(batch[1])
    loss = loss_of(logits, targets)
    loss.backward()
    known = ~targets.isnan()
    assert logits.grad is not None
    assert bool((logits.grad[~known] == 0).all())
    assert bool(logits.grad.isfinite().all())
    single = [loss_of(s[None, None], t[None, None]) for s, t in zip(logits[known], targets[known], strict=True)]
    expected = torch.stack(single).mean() if single else torch.tensor(0.0)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_a_known_label_is_zero(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = LOSSES.load(name)(logits, torch.full((4, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_logit_costs_less_and_extremes_are_finite(name: str) -> None:
    loss_of = LOSSES.load(name)
    costs = [loss_of(torch.tensor([[s]]), torch.tensor([[1.0]])).item() for s in (-100.0, -3.0, 0.0, 3.0, 100.0)]
    assert costs == sorted(costs, reverse=True)
    assert np.isfinite(costs).all()
    mirrored = [loss_of(torch.tensor([[s]]), torch.tensor([[0.0]])).item() for s in (100.0, 3.0, 0.0, -3.0, -100.0)]
    assert mirrored == pytest.approx(costs, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_logit_is_not_hidden(name: str) -> None:
    assert LOSSES.load(name)(torch.tensor([[torch.nan, 0.0]]), torch.tensor([[1.0, 0.0]])).isnan()


def test_bce_is_that_of_torch_when_all_is_known() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS)
    torch.testing.assert_close(LOSSES.load("masked_bce")(LOGITS, TARGETS), expected)


def test_focal_is_equation_4_of_lin() -> None:
    p = LOGITS.double().sigmoid()
    p_t = torch.where(TARGETS == 1, p, 1 - p)
    expected = (-((1 - p_t) ** 2) * p_t.log()).mean()
    torch.testing.assert_close(LOSSES.load("masked_focal")(LOGITS, TARGETS).double(), expected, rtol=1e-5, atol=1e-6)
