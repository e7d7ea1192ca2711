"""CONTA: what is summed up at sites is what all images give together, and stays where it is of few patients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("monai", reason="needs the extra 'monai'")

from fakes import EVEN, FakeSite, Hospitals, fake_site, fake_trainer
from hilum.errors import StudyError
from hilum.federation.compression.int8 import Int8
from hilum.federation.messages import Reply
from hilum.federation.rounds import RoundsPlan
from hilum.federation.strategies.ciil import CIIL
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.strategies.iil import IIL
from hilum.federation.topology.ring import Ring
from hilum.federation.topology.star import Star
from hilum.localization.localizers.masks import Masks
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.neck.conta import Conta
from hilum.models.shuffle import shuffle_weights
from hilum.models.taxonomy import Taxonomy
from hilum.study.arms import require_effect
from hilum.study.run import run_study
from hilum.study.spec import load_study, parse_study
from hilum.training import loop
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state

SUMS = ("neck.mask_sums", "neck.mask_counts")
ROUNDS = 4


def build(**options: Any) -> LocalizingClassifier:
    neck = {"name": "conta", "grid": 4, "width": 4, "iterations": 2, **options}
    return build_model({"name": "residual", "widths": (4, 4, 8)}, {"name": "linear_softmax"}, 2, 0, neck)


def site(name: str, seed: int, train: int = 30) -> FakeSite:
    made = fake_site(name, train=train, size=32, seed=seed)
    made.targets[:10] = [1, np.nan]
    made.targets[10:20] = [0, 1]
    return made


def fitted(*sites: FakeSite, round_: int = 3) -> State:
    return fake_trainer(*sites, model=build(), rounds=ROUNDS).fit(copy_state(build()), round_, EVEN).state


def test_confounders_of_sites_are_those_of_all_their_images() -> None:
    a, b = site("a", 1), site("b", 2, train=50)
    groups = build().state_groups()
    strategy = FedAvg(groups, tau=0.5, normalization="site", head="site", weighting="contrast")
    assert not strategy.keeps(fitted(a)).keys() & set(SUMS)
    hospitals = Hospitals.of(Path(), strategy, a, b)
    server = hospitals.start(copy_state(build()))
    sent = {name: fitted(one) for name, one in (("a", a), ("b", b))}
    mean = strategy.collect(
        server,
        [Reply(name, 1, state, server.counts[name]) for name, state in sent.items()],
        server.counts,
    ).mean.value(server.state)
    together = fitted(a, b)
    assert together["neck.mask_counts"][0] >= 2 * Conta.least
    for state in (mean, together):
        assert bool((state["neck.mask_sums"][0] > 0).all())
    torch.testing.assert_close(confounders(mean), confounders(together), rtol=1e-6, atol=1e-6)


TURNS = {"ring": (FedAvg, Ring()), "ciil": (CIIL, Star()), "iil": (IIL, Star())}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("iterations", [2, 4])
def test_sites_that_take_turns_add_their_sums_up(name: str, iterations: int, tmp_path: Path) -> None:
    """The weights stand still, and the statistics of the neck hardly move: the order of the visits says little."""
    still = {"optimizer": OptimizerPlan(lr=1e-12), "freeze_norm": True, "rounds": ROUNDS}
    sites = site("a", 1), site("b", 2, train=50), fake_site("c", train=Conta.least - 1, size=32)
    for one in sites:
        one.targets[one.indices("val")] = np.nan  # no early stop
    strategy, topology = TURNS[name]
    hospitals = Hospitals.of(
        tmp_path, strategy(build().state_groups()), *sites, model=build(iterations=iterations), **still
    )
    server = hospitals.federation(RoundsPlan(ROUNDS), topology).run(copy_state(build()), tmp_path, lambda record: None)
    together = fake_trainer(*sites[:2], model=build(), **still).fit(copy_state(build()), 3, EVEN).state
    assert server.state["neck.mask_counts"].tolist() == together["neck.mask_counts"].tolist()
    torch.testing.assert_close(confounders(server.state), confounders(together), rtol=1e-2, atol=1e-2)


def confounders(state: State) -> Tensor:
    model = build()
    model.load_state_dict(state)
    assert isinstance(model.neck, Conta)
    return model.neck.confounders()


def test_no_sum_of_few_patients_leaves_a_site() -> None:
    few = fake_site("a", train=40, size=32)
    few.targets[:40] = [0, 0]
    few.targets[: Conta.least - 1, 0] = 1
    few.targets[: Conta.least, 1] = 1
    assert fitted(few)["neck.mask_counts"].tolist() == [0, Conta.least]
    one = replace(few, of_patients=np.repeat(np.arange(22), 2))
    assert fitted(one)["neck.mask_counts"].tolist() == [0, 0]


def test_a_rare_finding_is_counted_as_well_as_a_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MOMENT_IMAGES", 12)
    rare = fake_site("a", train=100, size=32)
    rare.targets[:100] = [1, 0]
    rare.targets[80:91] = [0, 1]
    assert fitted(rare)["neck.mask_counts"].tolist() == [12, 11]


def test_shuffled_weights_keep_the_sums() -> None:
    model = build()
    model.load_state_dict(fitted(site("a", 1)))
    before = copy_state(model)
    shuffle_weights(model, 0)
    after = copy_state(model)
    assert all(torch.equal(before[name], after[name]) for name in SUMS)
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_sums_are_counted_when_an_iteration_begins_and_else_handed_on() -> None:
    counting = [round_ for round_ in range(1, 13) if Conta((8,), 2, iterations=3).counts_in(round_, 12)]
    assert counting == [5, 9]
    start = copy_state(build())
    start |= {name: torch.full_like(start[name], 7.0) for name in SUMS}
    state = fake_trainer(site("a", 1), model=build(), rounds=ROUNDS).fit(start, 2, EVEN).state
    assert all(torch.equal(state[name], start[name]) for name in SUMS)


def test_an_update_that_is_compressed_carries_the_sums_as_they_are() -> None:
    state, start = fitted(site("a", 1)), copy_state(build())
    groups = build().state_groups()
    way = Int8(groups, FedAvg(groups, head="site").private)
    received = way.decode(way.encode(state, start, {})[0], start)
    assert all(torch.equal(received[name], state[name]) for name in SUMS)


def test_masks_learn_from_the_map_and_leave_the_trunk_alone() -> None:
    model = build()
    images, targets = torch.rand(4, 1, 32, 32), torch.tensor([[1.0, 0.0], [0.0, torch.nan], [1.0, 1.0], [0.0, 0.0]])
    seen = model(images)
    loss = model.neck.loss(seen.maps, seen.masks, targets)
    assert loss is not None
    loss.backward()
    assert all(p.grad is None for part in (model.backbone, model.head) for p in part.parameters())
    assert any(p.grad is not None for p in model.neck.parameters())


def test_the_loss_is_least_where_masks_are_what_the_map_is_sure_of() -> None:
    neck = Conta((8,), 1, foreground=0.5, background=0.1)
    maps = torch.tensor([[[[0.8, 0.41], [0.2, 0.04]]]]).repeat(2, 1, 1, 1)
    targets = torch.tensor([[1.0], [0.0]])
    right = torch.tensor([[[[1.0, 1.0], [0.5, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    found = neck.loss(maps, right, targets)
    assert float(found) == pytest.approx(0, abs=1e-4)  # the cell between counts nowhere
    for cell in ((0, 0, 0, 0), (0, 0, 1, 1), (1, 0, 1, 0)):
        wrong = right.clone()
        wrong[cell] = 1 - wrong[cell]
        assert float(neck.loss(maps, wrong, targets)) > 1
    assert neck.loss(maps, right, torch.full((2, 1), torch.nan)) is None


def test_a_mask_that_is_surely_wrong_still_learns() -> None:
    neck = Conta((8,), 1, width=4)
    torch.nn.init.zeros_(neck.network[1].weight)
    torch.nn.init.constant_(neck.network[1].bias, 20.0)
    masks = neck.look(lambda m: m, torch.rand(2, 8, 4, 4))[1]
    loss = neck.loss(torch.rand(2, 1, 4, 4), masks, torch.zeros(2, 1))
    assert loss is not None
    assert 15 < float(loss.detach()) < 17
    loss.backward()
    torch.testing.assert_close(neck.network[1].bias.grad, torch.ones(1), rtol=0.1, atol=0)


def test_context_is_what_the_paper_says() -> None:
    neck = Conta((8,), 3, grid=2, width=5)
    neck.mask_sums.uniform_()
    neck.mask_counts.fill_(2.0)
    masks = torch.rand(1, 3, 2, 2)
    c = neck.mask_sums.flatten(1) / 2
    x = masks.flatten()
    score = torch.stack([(neck.image.weight @ x) @ (neck.confounder.weight @ c[i]) / 3**0.5 for i in range(3)])
    expected = torch.stack([torch.exp(score[i]) / torch.exp(score).sum() * c[i] / 3 for i in range(3)])
    torch.testing.assert_close(neck.context(masks)[0].flatten(1), expected)


def test_masks_may_be_the_maps_of_a_study_of_conta_alone() -> None:
    images = torch.rand(2, 1, 32, 32)
    model = build().eval()
    assert torch.equal(Masks()(model, images), model(images).masks)
    content = {"name": "x", "findings": ["Mass"], "sites": {"a": {"database": "folder", "root": "a"}}}
    content |= {"evaluation": {"localizer": "masks"}}
    with pytest.raises(StudyError, match=r"expected a model\.neck that segments, such as conta, .* found none"):
        parse_study(content, "study.yaml")
    parse_study(content | {"model": {"neck": "conta"}}, "study.yaml")


def test_with_a_taxonomy_an_image_is_asked_by_the_masks_that_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """X and c_i are of one kind: masks of findings, not of findings given their parents."""
    model = build()
    model.taxonomy, asked = Taxonomy(["Mass", "Nodule/Mass"]), []
    neck = model.neck
    assert isinstance(neck, Conta)
    context = neck.context
    monkeypatch.setattr(neck, "context", lambda masks: (asked.append(masks), context(masks))[1])
    masks = model.eval()(torch.rand(2, 1, 32, 32)).masks
    assert masks is not None
    assert bool((masks[:, 0] < masks[:, 1]).all())
    torch.testing.assert_close(asked[0], masks.detach())


def test_a_study_with_too_few_patients_for_any_confounder_is_refused(tiny_study: Path, tmp_path: Path) -> None:
    study = load_study(tiny_study, ["model.neck={name: conta, width: 4}", "arms=[pooled, federated]", "seeds=[0]"])
    with pytest.raises(StudyError, match=r"Expected 10 training patients .*; in pooled, federated there are at most 8"):
        run_study(study, tmp_path / "run")


@pytest.mark.parametrize(("rounds", "iterations"), [(1, 3), (20, 1)])
def test_a_study_in_which_nothing_is_counted_is_refused(rounds: int, iterations: int) -> None:
    content = {"name": "x", "findings": ["Mass"], "sites": {"a": {"database": "folder", "root": "a"}}}
    content |= {"model": {"neck": {"name": "conta", "iterations": iterations}, "backbone": "residual"}}
    study = parse_study(content | {"training": {"rounds": rounds}}, "study.yaml")  # that of an old run is read
    with pytest.raises(StudyError, match=rf"Expected a round in which model\.neck conta counts .*rounds {rounds} give"):
        require_effect(study)
    content["model"]["neck"]["iterations"] = 2
    require_effect(parse_study(content | {"training": {"rounds": 2}}, "study.yaml"))


def test_a_study_whose_batches_could_not_be_normalized_is_refused() -> None:
    content = {"name": "x", "findings": ["Mass"], "sites": {"a": {"database": "folder", "root": "a"}}}
    content |= {"model": {"backbone": {"name": "tuberculosis_net", "output_stride": 64}}, "images": {"size": 64}}
    for training in ({"updates": None, "batch": 15}, {"updates": 2, "batch": 1}):
        with pytest.raises(StudyError, match="with 64 px it has one cell"):
            require_effect(parse_study(content | {"training": training}, "study.yaml"))
    require_effect(parse_study(content | {"training": {"updates": 2, "batch": 2}}, "study.yaml"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"iterations": 0}, "expected iterations of at least 1; found 0"),
        ({"foreground": 0.1, "background": 0.2}, "expected 0 ≤ background ≤ foreground ≤ 1; found 0.2 and 0.1"),
        ({"weight": -1}, "expected a weight of at least 0; found -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}"):
        Conta((8,), 2, **options)
