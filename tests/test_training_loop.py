"""The local loop: repeatable, masked, and loud when a loss is not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fakes import FakeSite, fake_site, fake_trainer, tensors_of, tiny_model
from hilum.errors import TrainingError
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import build_model
from hilum.study.voices import Voice, adapt
from hilum.training.inference import infer
from hilum.training.loop import estimate_norm_stats
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, fingerprint

PRIOR = np.array([0.5, 0.5])
SITE = fake_site("north")


def fitted(*sites: FakeSite, round_: int = 1, seed: int = 0, **plan: Any) -> State:
    trainer = fake_trainer(*(sites or (SITE,)), seed=seed, **({"augmentation": Augmentation()} | plan))
    return trainer.fit(copy_state(tiny_model()), round_, PRIOR).state


def test_seed_round_and_name_decide_a_round_and_nothing_else() -> None:
    first = fingerprint(fitted())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert fingerprint(fitted()) == first
    assert torch.equal(torch.get_rng_state(), before)
    constant = {"optimizer": OptimizerPlan(warmup=0, floor=1.0)}
    renamed = FakeSite("south", SITE.stored, SITE.targets, SITE.split)
    results = [
        fitted(**constant),
        fitted(round_=2, **constant),
        fitted(seed=1, **constant),
        fitted(renamed, **constant),
    ]
    assert len({fingerprint(state) for state in results}) == 4


def test_losses_count_labels_as_often_as_they_are_drawn() -> None:
    """A hospital of positives alone, which contrast never draws, is no reason to weigh the others' positives down."""
    north, south = fake_site("north", train=16), fake_site("south", train=16)
    north.targets[:], south.targets[:] = [[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 16, 1.0
    trainer = fake_trainer(north, south, loss="weighted_bce", weighting="contrast", tau=0.5)
    assert trainer.loss.positive.tolist() == [8, 24]
    assert trainer.loss.negative.tolist() == [24, 8]
    alone = fake_trainer(north, loss="weighted_bce", weighting="contrast").loss
    assert (alone.positive.tolist(), alone.negative.tolist()) == ([4, 12], [12, 4])


def test_the_model_is_scratch_space() -> None:
    trainer, start = fake_trainer(SITE), copy_state(tiny_model())
    before = fingerprint(start)
    first = fingerprint(trainer.fit(start, 1, PRIOR).state)
    trainer.fit(copy_state(tiny_model(seed=5)), 3, PRIOR)
    assert fingerprint(trainer.fit(start, 1, PRIOR).state) == first
    assert fingerprint(start) == before


def test_training_lowers_the_loss_on_what_it_saw() -> None:
    trainer = fake_trainer(SITE, rounds=6, updates=10, batch=8, optimizer=OptimizerPlan(lr=0.02, warmup=0))
    state = copy_state(tiny_model())
    losses = []
    for round_ in range(1, 7):
        fit = trainer.fit(state, round_, PRIOR)
        state = fit.state
        losses.append(fit.loss)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("updates", "batch", "expected"), [(None, 4, 2), (None, 5, 2), (None, 99, 1), (7, 4, 7)])
def test_no_number_of_updates_is_one_pass(updates: int | None, batch: int, expected: int) -> None:
    trainer = fake_trainer(SITE, updates=updates, batch=batch)
    assert trainer.updates == expected
    assert trainer.fit(copy_state(tiny_model()), 1, PRIOR).updates == expected


def test_a_loss_that_is_not_finite_stops_and_says_where() -> None:
    state = copy_state(tiny_model())
    state["head.bias"][0] = math.nan
    message = r"found nan at 'north' in round 3 \(seed 0\)\. Earlier rounds are kept; .*training\.optimizer\.lr=…"
    with pytest.raises(TrainingError, match=message):
        fake_trainer(SITE).fit(state, 3, PRIOR)


def test_findings_without_labels_do_not_move_their_rows() -> None:
    site = fake_site("north", unknown=[1])
    start = copy_state(tiny_model())
    trainer = fake_trainer(site, optimizer=OptimizerPlan(weight_decay=0.0, name="sgd", lr=0.1))
    state = trainer.fit(start, 1, PRIOR).state
    assert torch.equal(state["head.weight"][1], start["head.weight"][1])
    assert torch.equal(state["head.bias"][1], start["head.bias"][1])
    assert not torch.equal(state["head.weight"][0], start["head.weight"][0])


def test_frozen_normalization_keeps_its_statistics_and_learns_its_weights() -> None:
    start = copy_state(tiny_model())
    frozen, free = fitted(freeze_norm=True), fitted()
    groups = tiny_model().state_groups()
    for name in (n for n, group in groups.items() if group == "norm_stats"):
        assert torch.equal(frozen[name], start[name])
        assert not torch.equal(free[name], start[name])
    assert any(not torch.equal(frozen[n], start[n]) for n, group in groups.items() if group == "norm_affine")


def test_half_precision_trains_float32_weights() -> None:
    state = fitted(precision="bfloat16", updates=1)
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in state.values())
    exact = fitted(updates=1)
    assert fingerprint(state) != fingerprint(exact)
    torch.testing.assert_close(state["head.weight"], exact["head.weight"], rtol=0.2, atol=5e-3)


def test_validation_is_the_mean_over_known_labels_of_each_hospital() -> None:
    sites = [fake_site("a", val=9, unknown=[1]), fake_site("b", val=5, seed=1), fake_site("c", val=3, unknown=[0, 1])]
    sites[1].targets[9, 0] = np.nan
    trainer, model = fake_trainer(*sites, batch=1), tiny_model(seed=2)
    losses = trainer.validate(copy_state(model))
    assert set(losses) == {"a", "b"}
    model.eval()
    for site in sites[:2]:
        images, targets = tensors_of(site, "val")
        with torch.no_grad():
            assert losses[site.name] == pytest.approx(float(masked_bce(model(images).logits, targets)), rel=1e-5)


def test_validation_leaves_the_state_alone_and_stops_at_its_limit() -> None:
    site, state = fake_site("a", val=6), copy_state(tiny_model())
    before = fingerprint(state)
    trainer = fake_trainer(site, validation_limit=1)
    images, targets = tensors_of(site, "val")
    model = tiny_model().eval()
    with torch.no_grad():
        first = float(masked_bce(model(images[:1]).logits, targets[:1]))
    assert trainer.validate(state)["a"] == pytest.approx(first, rel=1e-5)
    assert fingerprint(state) == before


def stem(model: nn.Module) -> tuple[nn.Module, nn.BatchNorm2d]:
    convolution, norm = model.backbone.stem[0], model.backbone.stem[1]  # type: ignore[union-attr, index]
    return convolution, norm


def statistics(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        features = stem(model)[0](2 * images - 1).transpose(0, 1).flatten(1)
    return features.mean(1), features.var(1)


def test_estimated_statistics_are_those_of_the_images() -> None:
    images, _ = tensors_of(fake_site("a", train=12), "train")
    model = tiny_model()
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    weights = {name: p.clone() for name, p in model.named_parameters()}
    estimate_norm_stats(model, [images])
    mean, var = statistics(model, images)
    torch.testing.assert_close(stem(model)[1].running_mean, mean)
    torch.testing.assert_close(stem(model)[1].running_var, var)
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    assert not any(m.training for m in model.modules())
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    outputs = model.train()(images).logits
    torch.testing.assert_close(model.eval()(images).logits, outputs, rtol=0.1, atol=0.1)


def test_a_small_last_batch_counts_by_its_images() -> None:
    images, _ = tensors_of(fake_site("a", train=13), "train")
    images[12:] = 1.0
    model = tiny_model()
    estimate_norm_stats(model, [images[:12], images[12:]])
    torch.testing.assert_close(stem(model)[1].running_mean, statistics(model, images)[0])


def test_recalibration_depends_on_the_images_and_not_on_the_old_statistics() -> None:
    trainer = fake_trainer(SITE)
    state = copy_state(tiny_model())
    other = {k: v + 1 if k.endswith(("running_mean", "running_var")) else v for k, v in state.items()}
    first, second = trainer.recalibrate(state), trainer.recalibrate(other)
    assert fingerprint(first) == fingerprint(second) != fingerprint(state)
    expected = statistics(tiny_model(), tensors_of(SITE, "train")[0])[0]
    torch.testing.assert_close(first["backbone.stem.1.running_mean"], expected)


def two_kinds(name: str, *kinds: int) -> FakeSite:
    """Films of two kinds of device, row by row: dark (0) and bright (1)."""
    site = fake_site(name, train=len(kinds), val=0)
    site.stored[:] = site.stored // 4 + 190 * np.array(kinds, np.uint8)[:, None, None]
    return site


@pytest.mark.parametrize(
    "sites",
    [(two_kinds("dark", *[0] * 64), two_kinds("bright", *[1] * 64)), (two_kinds("sorted", *[0] * 64, *[1] * 64),)],
    ids=["pooled", "sorted"],
)
def test_estimated_variance_counts_what_lies_between_sources_and_kinds_of_film(sites: tuple[FakeSite, ...]) -> None:
    images, model = torch.cat([tensors_of(site, "train")[0] for site in sites]), tiny_model()
    together = statistics(model, images)[1]
    pooled = fake_trainer(*sites, batch=8).recalibrate(copy_state(model))["backbone.stem.1.running_var"]
    torch.testing.assert_close(pooled, together, rtol=0.1, atol=1e-3)
    adapt([Voice(model, np.ones(2, np.float32))], images, "float32")
    torch.testing.assert_close(stem(model)[1].running_var, together, rtol=0.1, atol=1e-3)


def test_the_rate_warms_up_and_falls_to_the_floor() -> None:
    plan = OptimizerPlan(lr=1.0, warmup=2, floor=0.1)
    rates = [plan.rate(k, 10) for k in range(1, 11)]
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    assert rates == pytest.approx([cosine[0] / 3, cosine[1] * 2 / 3, *cosine[2:]])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert min(rates[2:]) > 0.1
    assert OptimizerPlan(lr=0.3, warmup=0).rate(1, 1) == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizer_holds_every_trainable_parameter_once_and_the_head_learns_faster(name: Any) -> None:
    trunk = {"name": "efficientnet_lite0", "blocks": 3, "frozen_blocks": 1, "pretrained": False}
    model = build_model(trunk, {"name": "gated_attention"}, 2, 0)
    optimizer = OptimizerPlan(name=name, lr=0.1, head_lr=3.0, warmup=0).build(model, 1, 4)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(held) < len(list(model.parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.3])
    assert not optimizer.state


def test_inference_averages_an_image_with_its_mirror_image() -> None:
    model, images = tiny_model(seed=1), tensors_of(SITE, "train")[0]
    model.train()
    inferred = infer(model, [images[:3], images[3:]])
    assert inferred.probabilities.shape == (8, 2)
    assert inferred.maps.shape == (8, 2, 2, 2)
    mirrored = infer(model, [images.flip(3)])
    np.testing.assert_allclose(mirrored.probabilities, inferred.probabilities, rtol=1e-5)
    np.testing.assert_allclose(mirrored.maps[..., ::-1], inferred.maps, rtol=1e-5)
    single = infer(model, [images], flip=False)
    with torch.no_grad():
        expected = model.eval()(images)
    np.testing.assert_allclose(single.probabilities, expected.logits.sigmoid().numpy(), rtol=1e-5)
    np.testing.assert_allclose(single.maps, expected.maps.numpy(), rtol=1e-5)
    assert np.abs(single.maps - inferred.maps).max() > 1e-5
