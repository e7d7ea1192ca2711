"""Prior correction (methods D.2; D.7, 5): two hospitals of different prevalence, one intercept."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from fakes import FakeSite, fake_site, fake_trainer, tiny_model
from hilum.models.backbones.base import Backbone
from hilum.models.classifier import LocalizingClassifier
from hilum.models.pooling.mean import MeanPooling
from hilum.models.taxonomy import Taxonomy
from hilum.training.loop import smoothed_prior
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import copy_state

LOW, HIGH, SPREAD = 90.0, 160.0, 40.0  # grey values of negatives and positives, and their common s.d.


class Pixel(Backbone):
    """One pixel is one feature: with mean pooling, logistic regression on a grey value."""

    channels, stride, receptive_field = 1, 1, 1

    def forward(self, x: Tensor) -> Tensor:
        return x - (LOW + HIGH) / 2 / 255


def gaussians(name: str, positive: int, negative: int) -> FakeSite:
    """One-pixel images at the quantiles of two Gaussians, so that nothing depends on a draw."""
    values = np.concatenate(
        [norm.ppf((np.arange(n) + 0.5) / n, m, SPREAD) for n, m in ((positive, HIGH), (negative, LOW))]
    )
    targets = np.repeat(np.array([1, 0], np.float32), (positive, negative))[:, None]
    stored = np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, None, None]
    return FakeSite(name, stored, targets, np.full(len(stored), "train"))


SITES = (gaussians("half", 200, 200), gaussians("rare", 40, 360))
POSITIVE, KNOWN = np.array([240]), np.array([800])
GLOBAL = smoothed_prior(POSITIVE, KNOWN)


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


@cache
def regression(site: int, correction: str) -> tuple[float, float]:
    """Slope per grey value and intercept at the middle of the two Gaussians, as trained."""
    model = LocalizingClassifier(Pixel(), MeanPooling(1, 1), 1)
    with torch.no_grad():
        model.head.weight.fill_((HIGH - LOW) / SPREAD**2 * 255)
    plan = OptimizerPlan(lr=0.05, head_lr=1.0, weight_decay=0.0, warmup=0, clip=1e6)
    options = {"rounds": 2, "updates": 80, "batch": 400, "optimizer": plan, "prior_correction": correction}
    trainer = fake_trainer(SITES[site], model=model, **options)
    state = copy_state(model)
    for round_ in (1, 2):
        state = trainer.fit(state, round_, GLOBAL).state
    return float(state["head.weight"]) / 255, float(state["head.bias"])


def test_with_it_both_hospitals_find_the_log_likelihood_ratio_plus_the_global_prior() -> None:
    for site in (0, 1):
        slope, intercept = regression(site, "relative")
        assert slope == pytest.approx((HIGH - LOW) / SPREAD**2, rel=0.1)
        assert intercept == pytest.approx(logit(float(GLOBAL[0])), abs=0.12)


def test_without_it_each_finds_its_own_prevalence() -> None:
    half, rare = (regression(site, "none")[1] for site in (0, 1))
    assert half == pytest.approx(0.0, abs=0.12)
    assert rare == pytest.approx(logit(0.1), abs=0.12)
    corrected = [regression(site, "relative")[1] for site in (0, 1)]
    assert abs(corrected[0] - corrected[1]) < 0.15 < 2 < abs(half - rare)


def test_with_the_absolute_form_both_find_the_log_likelihood_ratio_alone() -> None:
    for site in (0, 1):
        slope, intercept = regression(site, "absolute")
        assert slope == pytest.approx((HIGH - LOW) / SPREAD**2, rel=0.1)
        assert intercept == pytest.approx(0.0, abs=0.12)


def test_the_smoothed_prior_is_laplace_and_never_zero_or_one() -> None:
    np.testing.assert_allclose(smoothed_prior(np.array([0, 3, 10]), np.array([0, 6, 10])), [1 / 2, 4 / 8, 11 / 12])


@pytest.mark.parametrize(("correction", "subtracted"), [("relative", logit(0.2)), ("absolute", 0.0)])
def test_offsets_follow_each_source_and_leave_findings_nobody_labels_alone(correction: str, subtracted: float) -> None:
    sites = [fake_site("a", train=30, findings=2, unknown=[1]), fake_site("b", train=20, findings=2, seed=1)]
    trainer = fake_trainer(*sites, prior_correction=correction)
    offsets = trainer._offsets(np.array([0.2, 0.3])).numpy()
    for k, site in enumerate(sites):
        train = site.targets[site.indices("train")]
        expected = logit((np.nansum(train[:, 0]) + 1) / (len(train) + 2)) - subtracted
        assert offsets[k, 0] == pytest.approx(expected, rel=1e-5)
    assert offsets[0, 1] == 0 != offsets[1, 1]
    assert not fake_trainer(*sites)._offsets(np.array([0.2, 0.3])).any()


@pytest.mark.parametrize("correction", ["relative", "absolute"])
def test_no_prior_corrects_the_rounds_that_train_a_finding_given_its_parent(correction: str) -> None:
    """Which prior that would be, of images that show the parent, is told to no server."""
    losses = {}
    for how in ("none", correction):
        model = tiny_model()
        model.taxonomy = Taxonomy(["Mass", "Nodule/Mass"])
        trainer = fake_trainer(fake_site("a"), model=model, rounds=2, conditional=0.5, prior_correction=how)
        losses[how] = [trainer.fit(copy_state(tiny_model()), k, np.array([0.1, 0.9])).loss for k in (1, 2)]
    assert losses["none"][0] == losses[correction][0]
    assert losses["none"][1] != losses[correction][1]
