"""The contract of a pooling, each against its formula, and that weak labels find where the object is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from hilum.models import POOLINGS
from hilum.models.backbones.base import Backbone
from hilum.models.classifier import LocalizingClassifier
from hilum.models.pooling.base import Pooling
from hilum.training.losses.masked_bce import masked_bce

CHANNELS, FINDINGS = 3, 2
LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.just(2), st.just(FINDINGS), st.integers(1, 5), st.integers(1, 5)),
    elements=st.floats(-10, 10, width=32),
)
# A map of equal cells is one cell: these agree with the theory exactly, noisy-or counts its cells.
IDENTITIES = ("mean", "max", "top_k", "log_sum_exp", "lse_lba", "linear_softmax", "gated_attention", "transformer")


def pool(name: str, cells: Tensor, features: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooling: Pooling = POOLINGS.load(name)(CHANNELS, cells.shape[1], **options)
    if features is None:
        features = torch.sin(torch.arange(cells[:, :1].numel() * CHANNELS).float()).view(-1, CHANNELS, *cells.shape[2:])
    logits, maps = pooling(cells, features)
    return logits, maps


def probability(name: str, cells: Tensor, **options: Any) -> Tensor:
    return pool(name, cells, **options)[0].detach().sigmoid()


@pytest.mark.parametrize("name", POOLINGS)
@settings(max_examples=40)
@given(values=LOGITS)
def test_shapes_range_and_dtype(name: str, values: np.ndarray) -> None:
    cells = torch.from_numpy(values)
    logits, maps = pool(name, cells)
    assert logits.shape == cells.shape[:2]
    assert maps.shape == cells.shape
    assert logits.dtype == maps.dtype == torch.float32
    assert bool(logits.isfinite().all())
    assert bool(((maps >= 0) & (maps <= 1)).all())


@pytest.mark.parametrize("name", POOLINGS)
@settings(max_examples=40)
@given(values=LOGITS, seed=st.integers(0, 99))
def test_the_order_of_the_cells_does_not_matter(name: str, values: np.ndarray, seed: int) -> None:
    cells = torch.from_numpy(values).flatten(2)[..., None]
    features = torch.randn(2, CHANNELS, cells.shape[2], 1, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(cells.shape[2], generator=torch.Generator().manual_seed(seed))
    logits, maps = pool(name, cells, features)
    shuffled, moved = pool(name, cells[:, :, order], features[:, :, order])
    torch.testing.assert_close(shuffled, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved, maps[:, :, order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("at", ["low", "high", "mixed", "one"])
def test_values_and_gradients_are_finite_at_a_hundred(name: str, at: str) -> None:
    cells = torch.full((1, FINDINGS, 4, 4), 100.0 if at == "high" else -100.0)
    if at == "mixed":
        cells[..., ::2] = 100.0
    if at == "one":
        cells[..., 0, 0] = 100.0
    cells.requires_grad_()
    features = torch.full((1, CHANNELS, 4, 4), 100.0, requires_grad=True)
    logits, maps = pool(name, cells, features)
    (logits.sum() + maps.sum()).backward()
    assert cells.grad is not None
    assert bool(logits.isfinite().all())
    assert bool(maps.isfinite().all())
    assert bool(cells.grad.isfinite().all())
    assert features.grad is None or bool(features.grad.isfinite().all())


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.parametrize("value", [-9.0, -2.0, 0.0, 0.3, 9.0])
@pytest.mark.parametrize("side", [1, 7])
def test_equal_cells_give_their_own_logit(name: str, value: float, side: int) -> None:
    logits, _ = pool(name, torch.full((1, FINDINGS, side, side), value))
    torch.testing.assert_close(logits, torch.full((1, FINDINGS), value), rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(LOGITS, st.floats(0.1, 20))
def test_log_sum_exp_is_between_mean_and_maximum(values: np.ndarray, sharpness: float) -> None:
    cells = torch.from_numpy(values)
    smooth = pool("log_sum_exp", cells, sharpness=sharpness)[0]
    assert bool((smooth >= cells.mean((2, 3)) - 1e-4).all())
    assert bool((smooth <= cells.amax((2, 3)) + 1e-4).all())


@settings(max_examples=60)
@given(LOGITS)
def test_linear_softmax_is_between_mean_and_highest_probability_and_is_its_formula(values: np.ndarray) -> None:
    cells = torch.from_numpy(values)
    p = cells.double().sigmoid()
    pooled = probability("linear_softmax", cells).double()
    assert bool((pooled >= p.mean((2, 3)) - 1e-6).all())
    assert bool((pooled <= p.amax((2, 3)) + 1e-6).all())
    formula = (p * p).sum((2, 3)) / p.sum((2, 3))
    logit = (formula / (1 - formula)).log()
    torch.testing.assert_close(pool("linear_softmax", cells)[0].double(), logit, rtol=1e-4, atol=1e-3)


@settings(max_examples=60)
@given(LOGITS, st.sampled_from([0.0, 0.5, 0.98]))
def test_noisy_or_is_its_formula(values: np.ndarray, floor: float) -> None:
    cells = torch.from_numpy(values)
    none = (floor + (1 - floor) * (1 - cells.double().sigmoid())).flatten(2).prod(2)
    logit = ((1 - none) / none.clamp(min=1e-300)).log().clamp(-14, 14)
    found = pool("noisy_or", cells, floor=floor)[0].double().clamp(-14, 14)
    torch.testing.assert_close(found, logit, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [-10.0, -8.0, -6.0])
def test_noisy_or_keeps_small_probabilities_apart_from_rounding(value: float) -> None:
    small = 0.02 / (1 + math.exp(-value))
    logit = math.log(-math.expm1(49 * math.log1p(-small))) - 49 * math.log1p(-small)
    assert pool("noisy_or", torch.full((1, 1, 7, 7), value))[0].item() == pytest.approx(logit, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "floor", "logit"),
    [
        ([20.0], 0.0, 20.0),
        ([100.0] * 35, 0.0, 3500.0),
        ([20.0] * 5 + [-90.0] * 30, 0.0, 100.0),
        ([-100.0] * 35, 0.98, math.log(35 * 0.02) - 100),
        ([-100.0] * 35, 0.0, math.log(35) - 100),
    ],
)
def test_noisy_or_is_its_formula_where_float32_has_no_probability(
    values: list[float], floor: float, logit: float
) -> None:
    cells = torch.tensor(values).view(1, 1, -1, 1).requires_grad_()
    found = pool("noisy_or", cells, floor=floor)[0]
    assert found.item() == pytest.approx(logit, rel=1e-5)
    assert bool(torch.autograd.grad(found.sum(), cells)[0].isfinite().all())


def test_noisy_or_unlearns_a_cell_that_is_surely_wrong() -> None:
    cells = torch.full((1, 1, 5, 7), -5.0)
    cells[0, 0, 0, 0] = 20.0
    cells.requires_grad_()
    loss = torch.nn.functional.softplus(pool("noisy_or", cells, floor=0.0)[0]).sum()
    (gradient,) = torch.autograd.grad(loss, cells)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize(("value", "label"), [(-30.0, 1.0), (30.0, 0.0)])
def test_an_image_that_is_surely_wrong_still_teaches(name: str, value: float, label: float) -> None:
    if (name, label) == ("noisy_or", 0.0):
        pytest.skip("its product of probabilities is flat where all cells are sure")
    cells = torch.full((1, 1, 3, 3), value, requires_grad=True)
    logits = pool(name, cells)[0]
    masked_bce(logits, torch.full_like(logits, label)).backward()
    assert cells.grad is not None
    assert float(cells.grad.abs().sum()) > 0.1


@settings(max_examples=40)
@given(LOGITS)
def test_max_top_k_and_mean_agree_at_their_limits(values: np.ndarray) -> None:
    cells = torch.from_numpy(values)
    mean, highest = pool("mean", cells)[0], pool("max", cells)[0]
    torch.testing.assert_close(pool("top_k", cells, fraction=1.0)[0], mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pool("top_k", cells, fraction=1e-9)[0], highest)
    torch.testing.assert_close(pool("log_sum_exp", cells.double(), sharpness=1e-6)[0], mean.double(), rtol=0, atol=1e-3)
    torch.testing.assert_close(pool("log_sum_exp", cells, sharpness=1e4)[0], highest, rtol=0, atol=1e-3)


def test_top_k_is_the_mean_of_the_highest() -> None:
    cells = torch.arange(20.0).view(1, 1, 4, 5)
    assert pool("top_k", cells, fraction=0.1)[0].item() == 18.5
    assert pool("top_k", cells, fraction=0.2)[0].item() == 17.5


def test_weldon_adds_the_mean_of_the_lowest() -> None:
    cells = torch.arange(20.0).view(1, 1, 4, 5)
    assert pool("top_k", cells, fraction=0.1, bottom=0.2)[0].item() == 18.5 + 1.5
    assert pool("top_k", cells, fraction=0.1, bottom=1e-9)[0].item() == 18.5


@settings(max_examples=40)
@given(LOGITS, st.floats(0.1, 10))
def test_learned_sharpness_begins_one_above_its_bound_and_stays_above_it(values: np.ndarray, bound: float) -> None:
    cells = torch.from_numpy(values)
    begins = pool("lse_lba", cells, lower_bound=bound)[0]
    torch.testing.assert_close(begins, pool("log_sum_exp", cells, sharpness=bound + 1)[0], rtol=1e-4, atol=1e-4)
    pooling = POOLINGS.load("lse_lba")(CHANNELS, FINDINGS, lower_bound=bound)
    pooling.beta.data = torch.tensor([-50.0, 1.0])
    lowest = pool("log_sum_exp", cells, sharpness=bound)[0]
    other = pool("log_sum_exp", cells, sharpness=bound + math.e)[0]
    expected = torch.stack([lowest[:, 0], other[:, 1]], 1)
    torch.testing.assert_close(pooling(cells, cells)[0], expected, rtol=1e-4, atol=1e-4)


def test_sharpness_is_learned_for_each_finding() -> None:
    pooling = POOLINGS.load("lse_lba")(CHANNELS, FINDINGS)
    cells = torch.randn(2, FINDINGS, 3, 3)
    pooling(cells, cells)[0][:, 1].sum().backward()
    assert pooling.beta.grad[0] == 0
    assert pooling.beta.grad[1] > 0


def test_dsmil_is_its_formula() -> None:
    """Cell by cell, finding by finding."""
    pooling = POOLINGS.load("dsmil")(CHANNELS, FINDINGS, hidden=4)
    features, cells = torch.randn(2, CHANNELS, 3, 3), torch.randn(2, FINDINGS, 3, 3)
    z = features.permute(0, 2, 3, 1).reshape(2, 9, CHANNELS)
    q, v = (z @ m.weight.flatten(1).T + m.bias for m in (pooling.query, pooling.value))
    logits, maps = pooling(cells, features)
    for b in range(2):
        for c in range(FINDINGS):
            s = cells[b, c].flatten()
            a = (q[b] @ q[b, s.argmax()] / 2).softmax(0)
            second = v[b] @ pooling.rows[c] + pooling.bias[c]
            torch.testing.assert_close(logits[b, c], (s.max() + a @ second) / 2)
            torch.testing.assert_close(maps[b, c].flatten(), a / a.max() * ((s + second) / 2).sigmoid())


def test_the_query_of_dsmil_is_the_mean_of_equal_highest_cells() -> None:
    pooling = POOLINGS.load("dsmil")(CHANNELS, 1, hidden=4)
    features, cells = torch.randn(1, CHANNELS, 1, 4), torch.tensor([[[[1.0, 0.0, 1.0, -1.0]]]])
    z = features[0, :, 0].T
    q, v = (z @ m.weight.flatten(1).T + m.bias for m in (pooling.query, pooling.value))
    a = (q @ q[[0, 2]].mean(0) / 2).softmax(0)
    expected = (1 + a @ (v @ pooling.rows[0] + pooling.bias[0])) / 2
    torch.testing.assert_close(pooling(cells, features)[0][0, 0], expected)


def test_the_transformer_weighs_a_cell_by_what_the_others_show() -> None:
    """Of two cells that keep their features and logits, the weights change when a third changes its features."""
    pooling = POOLINGS.load("transformer")(CHANNELS, FINDINGS).eval()
    features, cells = torch.randn(1, CHANNELS, 1, 3), torch.zeros(1, FINDINGS, 1, 3)
    cells[..., 0] = 1.0
    other = features.clone()
    other[..., 2] += 1.0
    relative = [pooling(cells, f)[1][..., :2] / cells[..., :2].sigmoid() for f in (features, other)]
    odds = [r[..., 0] / r[..., 1] for r in relative]
    assert not torch.allclose(odds[0], odds[1], rtol=1e-3)


def test_log_sum_exp_is_its_formula() -> None:
    cells = torch.tensor([[[[0.5, -1.0], [2.0, 0.0]]]])
    expected = math.log(sum(math.exp(3 * s) for s in (0.5, -1.0, 2.0, 0.0)) / 4) / 3
    assert pool("log_sum_exp", cells, sharpness=3.0)[0].item() == pytest.approx(expected, rel=1e-5)


def test_attention_is_a_weighted_mean_of_its_own_finding() -> None:
    pooling = POOLINGS.load("gated_attention")(CHANNELS, FINDINGS, hidden=4)
    features, cells = torch.randn(2, CHANNELS, 3, 3), torch.randn(2, FINDINGS, 3, 3)
    z = features.permute(0, 2, 3, 1).reshape(2, 9, CHANNELS)
    content, gate, row = (m.weight.flatten(1) for m in (pooling.content, pooling.gate, pooling.attention))
    hidden = torch.tanh(z @ content.T + pooling.content.bias) * torch.sigmoid(z @ gate.T + pooling.gate.bias)
    weights = (hidden @ row.T).softmax(1)
    expected = (weights * cells.flatten(2).transpose(1, 2)).sum(1)
    logits, maps = pooling(cells, features)
    torch.testing.assert_close(logits, expected)
    share = (weights / weights.amax(1, keepdim=True)).transpose(1, 2).view_as(cells)
    torch.testing.assert_close(maps, share * cells.sigmoid())


@pytest.mark.parametrize("name", POOLINGS)
def test_rows_of_findings_are_declared(name: str) -> None:
    pooling = POOLINGS.load(name)(CHANNELS, 7)
    shapes = {key: tensor.shape for key, tensor in pooling.named_parameters()}
    assert set(pooling.per_finding) == {key for key, shape in shapes.items() if shape[0] == 7}


class Patches(Backbone):
    """Every cell sees its own 4×4 px and nothing else."""

    channels, stride, receptive_field = 8, 4, 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features


def bags(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy grids of 8×8 cells of 4 px, half with a bright disc in one cell; labels (N, 1) and that cell (N,)."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0.3, 0.15, (count, 8, 4, 8, 4)).astype(np.float32)
    labels, cells = np.arange(count) % 2, rng.integers(0, 64, count)
    y, x = np.mgrid[:4, :4] - 1.5
    disc = (y**2 + x**2 < 4).astype(np.float32)
    images[np.arange(count), cells // 8, :, cells % 8] += 0.4 * labels[:, None, None] * disc
    return (
        torch.from_numpy(images).view(-1, 1, 32, 32).clamp(0, 1),
        torch.from_numpy(labels).float()[:, None],
        torch.from_numpy(cells),
    )


STEPS = {"dsmil": 60, "transformer": 60, "linear_softmax": 400, "mean": 240}


def taught(name: str) -> tuple[float, float, float]:
    """Return AUC, pointing game and that of shuffled maps on other images than the 128 of which labels were learned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LocalizingClassifier(Patches(), POOLINGS.load(name)(8, 1), 1)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        images, labels, _ = bags(128, 0)
        for _ in range(STEPS.get(name, 120)):
            loss = masked_bce(model(images).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images, labels, places = bags(200, 1)
    with torch.no_grad():
        prediction = model.eval()(images)
    shown = labels[:, 0] == 1
    pointed = prediction.maps[shown].flatten(1).argmax(1)
    hits, shuffled = ((pointed == place).float().mean() for place in (places[shown], places[shown].roll(1)))
    return float(roc_auc_score(labels.numpy(), prediction.logits.numpy())), float(hits), float(shuffled)


@pytest.mark.parametrize(
    "name", ["max", "top_k", "log_sum_exp", "lse_lba", "linear_softmax", "gated_attention", "dsmil", "transformer"]
)
def test_image_labels_alone_find_the_disc(name: str) -> None:
    """Card 2's smallest proof; noisy-or is not in it: at its floor one cell tells next to nothing."""
    auc, hits, shuffled = taught(name)
    assert auc > 0.95
    assert hits > 0.9
    assert shuffled < 0.1


def test_the_mean_tells_the_disc_and_does_not_find_it() -> None:
    auc, hits, _ = taught("mean")
    assert auc > 0.95
    assert hits < 0.6


@pytest.mark.parametrize(
    ("name", "option", "refused", "taken"),
    [
        ("top_k", "fraction", (0, -0.1, 1.5, math.nan), (0.001, 1)),
        ("top_k", "bottom", (-0.1, 1.5, math.nan), (0, 0.2, 1)),
        ("log_sum_exp", "sharpness", (0, -5, math.inf, math.nan), (0.01, 50)),
        ("lse_lba", "lower_bound", (0, -5, math.inf, math.nan), (0.01, 50)),
        ("noisy_or", "floor", (-0.1, 1, math.nan), (0, 0.999)),
        ("gated_attention", "hidden", (0, -4), (1,)),
        ("dsmil", "hidden", (0, -4), (1,)),
        ("transformer", "hidden", (0, 33), (2,)),
        ("transformer", "heads", (0, -1), (1, 4)),
        ("transformer", "layers", (0,), (2,)),
    ],
)
def test_an_option_out_of_range_is_refused(
    name: str, option: str, refused: tuple[float, ...], taken: tuple[float, ...]
) -> None:
    for value in refused:
        with pytest.raises(ValueError, match=rf"^expected .*{option}.*; found {value}$"):
            POOLINGS.load(name)(CHANNELS, FINDINGS, **{option: value})
    for value in taken:
        logits, _ = pool(name, torch.zeros(1, FINDINGS, 3, 3), **{option: value})
        assert bool(logits.isfinite().all())
