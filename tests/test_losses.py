"""The contract of a loss: unknown labels say nothing, known ones what the formula says."""

from __future__ import annotations

import math

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


COUNTS = (np.array([40, 3, 500]), np.array([100, 90, 510]))  # positive and known labels
WITHIN_AN_IMAGE = {"distribution_balanced"}  # the cost of a label depends on the others of its image


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in WITHIN_AN_IMAGE])
@given(batch=BATCHES)
def test_unknown_labels_have_no_gradient_and_the_rest_is_the_mean_over_the_known(
    name: str, batch: tuple[np.ndarray, np.ndarray]
) -> None:
    loss_of = LOSSES.load(name)()
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
    loss = LOSSES.load(name)(*COUNTS)(logits, torch.full((4, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_logit_costs_less_and_extremes_are_finite(name: str) -> None:
    loss_of = LOSSES.load(name)(*(count[:1] for count in COUNTS))
    for target, logits in ((1.0, (-100.0, -3.0, 0.0, 3.0, 100.0)), (0.0, (100.0, 3.0, 0.0, -3.0, -100.0))):
        x = torch.tensor(logits)[:, None].requires_grad_()
        costs = torch.stack([loss_of(row[None], torch.tensor([[target]])) for row in x])
        costs.sum().backward()
        assert costs.tolist() == sorted(costs.tolist(), reverse=True)
        assert costs[0] > costs[2] > costs[4]
        assert bool(costs.isfinite().all() and x.grad is not None and x.grad.isfinite().all())


SMALL = [0.0, 0.01, 0.5, 0.99]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("masked_focal", {"gamma": gamma}) for gamma in SMALL),
        *(("asymmetric", {"gamma_positive": gamma}) for gamma in SMALL),
        *(
            ("asymmetric", {"gamma_negative": g, "margin": m})
            for g in (*SMALL, 1.0)
            for m in (0.0, 1e-9, 1e-6, 0.05, 0.5)
        ),
    ],
)
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_gradients_are_finite_with_small_powers(name: str, options: dict[str, float], target: float) -> None:
    logits = torch.tensor([-100.0, -20.0, -3.0, -0.8472979, 0.0, 3.0, 20.0, 100.0])[:, None].requires_grad_()
    LOSSES.load(name)(**options)(logits, torch.full((8, 1), target)).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.0, 1e-7])
def test_a_negative_that_is_very_wrong_is_still_learned_from(gamma: float, margin: float) -> None:
    """Against −p^γ log(1 − p) in float64, of which p is 1 from a logit of 37 on."""
    loss_of = LOSSES.load("asymmetric")(gamma_negative=gamma, margin=margin)
    for value in (5.0, 13.0, 15.0, 20.0, 100.0):
        x = torch.tensor([[value]], requires_grad=True)
        exact = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        p = exact.sigmoid()
        (-((p - margin) ** gamma) * torch.log((-exact).sigmoid() + margin)).backward()
        loss_of(x, torch.zeros(1, 1)).backward()
        torch.testing.assert_close(x.grad[0, 0].double(), exact.grad, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_logit_is_not_hidden(name: str) -> None:
    assert LOSSES.load(name)()(torch.tensor([[torch.nan, 0.0]]), torch.tensor([[1.0, 0.0]])).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_findings_of_one_class_or_none_are_finite(name: str) -> None:
    loss_of = LOSSES.load(name)(np.array([0, 5, 0]), np.array([9, 5, 0]))
    logits = LOGITS.clone().requires_grad_()
    loss_of(logits, TARGETS).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())


def test_bce_is_that_of_torch_when_all_is_known() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS)
    torch.testing.assert_close(LOSSES.load("masked_bce")()(LOGITS, TARGETS), expected)


P = LOGITS.double().sigmoid()
Y = TARGETS.double()
N = torch.tensor(COUNTS[0], dtype=torch.float64), torch.tensor(COUNTS[1] - COUNTS[0], dtype=torch.float64)


def bce(logits: torch.Tensor) -> torch.Tensor:
    p = logits.sigmoid()
    return -Y * p.log() - (1 - Y) * (1 - p).log()


def balanced(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    mean = (N[0] * positive + N[1] * negative) / (N[0] + N[1])
    return (Y * positive + (1 - Y) * negative) / mean * bce(LOGITS.double())


def test_focal_is_equation_4_of_lin() -> None:
    p_t = torch.where(TARGETS == 1, P, 1 - P)
    close("masked_focal", -((1 - p_t) ** 2) * p_t.log())


def test_asymmetric_is_equation_7_of_ridnik() -> None:
    shifted = (P - 0.05).clamp(min=0)
    close("asymmetric", -Y * (1 - P) * P.log() - (1 - Y) * shifted**4 * (1 - shifted).log())
    symmetric = {"gamma_positive": 2.0, "gamma_negative": 2.0, "margin": 0.0}
    close("asymmetric", -Y * (1 - P) ** 2 * P.log() - (1 - Y) * P**2 * (1 - P).log(), **symmetric)


def test_both_classes_of_a_finding_weigh_the_same() -> None:
    close("weighted_bce", balanced(1 / N[0], 1 / N[1]))


@pytest.mark.parametrize("name", ["weighted_bce", "class_balanced"])
def test_a_rare_finding_counts_as_much_as_a_common_one(name: str) -> None:
    """500 of 1,000 and 10 of 1,000: at logits of 0 every label would cost the same."""
    labels = torch.zeros(1000, 2)
    labels[:500, 0], labels[:10, 1] = 1.0, 1.0
    costs = LOSSES.load(name)(np.array([500, 10]), np.array([1000, 1000])).cost(torch.zeros(1000, 2), labels)
    torch.testing.assert_close(costs.mean(0), torch.full((2,), math.log(2)), rtol=1e-4, atol=1e-4)
    assert float(costs[0, 1]) > 10 * float(costs[0, 0])


def test_class_balanced_is_the_effective_number_of_cui() -> None:
    close("class_balanced", balanced(*((1 - 0.999) / (1 - 0.999**n) for n in N)))
    close("class_balanced", bce(LOGITS.double()), beta=0.0)


def test_ldam_moves_the_logit_by_the_fourth_root_of_the_count() -> None:
    """The rarest class, of 3 images, has the margin 0.5."""
    positive, negative = (0.5 * (3 / n) ** 0.25 for n in N)
    close("ldam", bce(LOGITS.double() - Y * positive + (1 - Y) * negative))


def test_what_a_site_does_not_label_leaves_the_margins_of_ldam_alone() -> None:
    alone = LOSSES.load("ldam")(np.array([100]), np.array([10_100]))
    beside = LOSSES.load("ldam")(np.array([100, 0, 7]), np.array([10_100, 0, 7]))
    assert [float(m[0]) for m in (alone.positive_margin, alone.negative_margin)] == pytest.approx(
        [0.5, 0.158], abs=1e-3
    )
    assert beside.positive_margin.tolist() == pytest.approx([0.5 * (7 / 100) ** 0.25, 0.0, 0.5])
    assert beside.negative_margin.tolist() == pytest.approx([0.5 * (7 / 10_000) ** 0.25, 0.0, 0.0])


def test_distribution_balanced_is_that_of_wu() -> None:
    ratio = torch.tensor(
        [
            [(1 / float(N[0][c])) / sum(float(y / n) for y, n in zip(row, N[0], strict=True)) for c in range(3)]
            for row in Y
        ]
    )
    weights = 0.1 + 1 / (1 + (-10 * (ratio - 0.2)).exp())
    moved = LOGITS.double() - 0.05 * (N[1] / N[0]).log()
    cost = Y * (1 + (-moved).exp()).log() + (1 - Y) * (1 + (5 * moved).exp()).log() / 5
    close("distribution_balanced", weights * cost)


def close(name: str, expected: torch.Tensor, **options: float) -> None:
    found = LOSSES.load(name)(*COUNTS, **options)(LOGITS, TARGETS).double()
    torch.testing.assert_close(found, expected.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("masked_focal", "gamma", -1.0),
        ("asymmetric", "margin", 0.9),
        ("class_balanced", "beta", 1.0),
        ("ldam", "margin", True),
        ("distribution_balanced", "tolerance", 0.5),
    ],
)
def test_options_out_of_range_are_refused(name: str, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^expected {option} of "):
        LOSSES.load(name)(**{option: value})
