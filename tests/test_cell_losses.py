"""Cells of negative images are negative, sure cells of positive ones teach themselves, and nobody else is taught."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import EVEN, fake_site, fake_trainer
from hilum.errors import StudyError
from hilum.models import POOLINGS
from hilum.study.federations import federation_spec, training_plan
from hilum.study.spec import load_study
from hilum.training.cell_losses import CELL_LOSSES
from hilum.training.cell_losses.base import CellLoss
from hilum.training.cell_losses.self_guided import SelfGuided
from hilum.training.state import copy_state

MAPS = torch.tensor([0.9, 0.5, 0.1, 0.8]).view(1, 1, 2, 2)


def term(maps: torch.Tensor, *labels: float, progress: float = 0.999999) -> float:
    loss = SelfGuided(weight=1.0, start=0.0)(maps, torch.tensor([labels]), progress)
    assert loss is not None
    return float(loss)


def test_every_cell_of_a_negative_image_is_negative() -> None:
    expected = -sum(math.log(1 - p) for p in (0.9, 0.5, 0.1, 0.8)) / 4
    assert term(MAPS, 0.0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("label", [1.0, 0.5])
def test_sure_cells_of_a_positive_image_count_and_the_others_do_not(label: float) -> None:
    expected = -(math.log(0.9) + math.log(0.9) + math.log(0.8)) / 3
    assert term(MAPS, label) == pytest.approx(expected, rel=1e-4)
    assert term(torch.full((1, 1, 2, 2), 0.5), label) == 0


def test_unknown_labels_teach_nothing_and_known_ones_weigh_alike() -> None:
    maps = torch.cat([MAPS, torch.full((1, 1, 2, 2), 0.3)], 1)
    assert term(maps, 0.0, math.nan) == pytest.approx(term(MAPS, 0.0))
    assert term(maps, 1.0, 0.0) == pytest.approx((term(MAPS, 1.0) - math.log(0.7)) / 2, rel=1e-4)
    assert SelfGuided()(maps, torch.tensor([[math.nan, math.nan]]), 0.9) is None


def test_the_weight_rises_on_a_line_after_a_third_of_the_rounds() -> None:
    loss, targets = SelfGuided(), torch.tensor([[0.0]])
    whole = SelfGuided(weight=1.0, start=0.0)(MAPS, targets, 1.0)
    assert loss(MAPS, targets, 0.0) is None
    assert loss(MAPS, targets, 1 / 3) is None
    for progress, weight in ((2 / 3, 0.25), (1.0, 0.5)):
        torch.testing.assert_close(loss(MAPS, targets, progress), weight * whole)


@pytest.mark.parametrize("sure", [16.0, 20.0, 1e9])
@pytest.mark.parametrize("pooling", ["mean", "gated_attention"])
def test_a_cell_that_is_surely_wrong_still_learns(pooling: str, sure: float) -> None:
    cells = torch.full((1, 1, 1, 4), sure, requires_grad=True)
    maps = POOLINGS.load(pooling)(3, 1)(cells, torch.zeros(1, 3, 1, 4))[1]
    loss = SelfGuided(weight=1.0, start=0.0)(maps, torch.tensor([[0.0]]), 0.999999)
    assert loss is not None
    assert 15 < float(loss.detach()) < 17
    torch.testing.assert_close(torch.autograd.grad(loss, cells)[0], torch.full((1, 1, 1, 4), 0.25), rtol=0.1, atol=0)


def test_gradients_are_finite_where_cells_are_certain() -> None:
    maps = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).requires_grad_()
    loss = SelfGuided(start=0.0)(maps, torch.tensor([[0.0]]), 0.5)
    assert loss is not None
    loss.backward()
    assert maps.grad is not None
    assert bool(maps.grad.isfinite().all())


def test_training_adds_it_when_its_time_has_come() -> None:
    sites = [fake_site("a")]
    plain, guided = (fake_trainer(*sites, cell_loss=loss) for loss in (CellLoss(), SelfGuided(weight=5.0)))
    state = copy_state(plain.model)
    for round_, same in ((1, True), (4, False)):
        first, second = (t.fit(state, round_, EVEN) for t in (plain, guided))
        assert (first.loss == second.loss) is same
        assert all(torch.equal(first.state[k], second.state[k]) for k in state) is same


def test_the_last_round_has_its_whole_weight() -> None:
    seen: list[float] = []

    class Watched(CellLoss):
        def __call__(self, maps: torch.Tensor, targets: torch.Tensor, progress: float) -> None:
            seen.append(progress)

    trainer = fake_trainer(fake_site("a"), rounds=2, updates=1, cell_loss=Watched())
    for round_ in (1, 2):
        trainer.fit(copy_state(trainer.model), round_, EVEN)
    assert seen == [0.5, 1.0]
    with pytest.raises(ValueError, match="expected start of 0 to "):
        SelfGuided(start=1.0)


def test_negative_films_become_darker_maps() -> None:
    """What the term is for: after training, fewer cells of negative films are above a half."""
    site = fake_site("a", train=16, size=32)
    means = []
    for loss in (CellLoss(), SelfGuided(weight=5.0, start=0.0)):
        trainer = fake_trainer(site, updates=30, batch=8, cell_loss=loss)
        trainer.model.load_state_dict(trainer.fit(copy_state(trainer.model), 4, EVEN).state)
        images = torch.from_numpy(site.stored[:16]).unsqueeze(1).float() / 255
        with torch.no_grad():
            maps = trainer.model.eval()(images).maps.numpy()
        means.append(float(np.mean(maps.mean((2, 3))[site.targets[:16] == 0])))
    assert means[1] < means[0]


def test_a_study_names_it_with_its_options(tiny_study: Path) -> None:
    for name in CELL_LOSSES:
        study = load_study(tiny_study, [f"training.cell_loss={name}"])
        plan = training_plan(study, federation_spec(study, "federated"), 1, "float32")
        assert type(plan.cell_loss) is CELL_LOSSES.load(name)
    study = load_study(tiny_study, ["training.cell_loss={name: self_guided, weight: 2}"])
    plan = training_plan(study, federation_spec(study, "federated"), 1, "float32")
    assert isinstance(plan.cell_loss, SelfGuided)
    assert plan.cell_loss.weight == 2
    for options, told in (
        ("weight: -1", "expected weight of 0 to 100; found -1"),
        ("low: 0.9", "expected low of at most high; found 0.9 and 0.7"),
        ("hihg: 0.9", "'self_guided' has no option 'hihg'. Did you mean 'high'"),
    ):
        with pytest.raises(StudyError, match=f"training.cell_loss: {told}"):
            load_study(tiny_study, [f"training.cell_loss={{name: self_guided, {options}}}"])
