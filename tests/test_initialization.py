"""A trunk begins with what a donor lends it, in a study by name, and with nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import hospitals
from fakes import tiny_model
from hilum.errors import StudyError
from hilum.evaluation.similarity import linear_cka
from hilum.models import BACKBONES, INITIALIZATIONS
from hilum.models.backbones.residual import ResidualTrunk
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.initialization.transfusion import prefix
from hilum.randomness import torch_generator
from hilum.study.arms import initial_model, new_model
from hilum.study.donors import check_donor
from hilum.study.hospitals import cache_of, load_sites
from hilum.study.run import run_study
from hilum.study.spec import load_study
from hilum.training.losses.masked_bce import masked_bce
from hilum.training.state import copy_state, load_state, save_state


def start(name: str, trunk: ResidualTrunk, donor: dict[str, torch.Tensor], **options: Any) -> None:
    INITIALIZATIONS.load(name)("unread", **options)(trunk, donor, torch_generator(0, "initialization"))


def donor_of(widths: tuple[int, int, int] = (8, 8, 16)) -> dict[str, torch.Tensor]:
    """A trunk whose every tensor has a mean and a variance of its own."""
    state = ResidualTrunk(widths).state_dict()
    generator = torch.Generator().manual_seed(0)
    for k, tensor in enumerate(t for t in state.values() if t.is_floating_point()):
        tensor.normal_(0.1 * k, 0.01 * k + 0.01, generator=generator)
    return state


def test_mean_var_keeps_mean_and_variance_and_nothing_else() -> None:
    trunk, donor = ResidualTrunk((64, 64, 64)), donor_of((64, 64, 64))
    before = copy_state(trunk)
    start("mean_var", trunk, donor)
    for name, parameter in trunk.named_parameters():
        drawn = parameter.detach()
        if drawn.numel() > 2000:
            assert float(drawn.mean()) == pytest.approx(float(donor[name].mean()), abs=0.02)
            assert float(drawn.std()) == pytest.approx(float(donor[name].std()), rel=0.1)
        both = torch.stack([drawn.flatten(), donor[name].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.5
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(trunk.state_dict()[name], before[name]) for name in statistics)


def test_mean_var_takes_a_donor_of_another_width_and_repeats() -> None:
    first, second = ResidualTrunk((8, 8, 16)), ResidualTrunk((8, 8, 16))
    for trunk in (first, second):
        start("mean_var", trunk, donor_of((4, 4, 8)))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_mean_var_refuses_a_trunk_of_which_a_part_is_never_trained() -> None:
    trunk = BACKBONES.load("efficientnet_lite0")(blocks=2, frozen_blocks=1, pretrained=False)
    donor = {name: torch.full_like(tensor, 2.0) for name, tensor in trunk.state_dict().items()}
    before = copy_state(trunk)
    with pytest.raises(ValueError, match=r"trained as a whole; found \d+ frozen tensors, such as _conv_stem\.weight"):
        start("mean_var", trunk, donor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    whole = BACKBONES.load("efficientnet_lite0")(blocks=2, frozen_blocks=0, pretrained=False)
    start("mean_var", whole, donor)
    assert bool((whole.state_dict()["_conv_stem.weight"] == 2).all())


@pytest.mark.parametrize(
    ("upto", "taken"),
    [
        ("stem", ("stem.",)),
        ("stages.0", ("stem.", "stages.0.")),
        ("stages.1.conv1", ("stem.", "stages.0.", "stages.1.conv1.")),
        ("stages", ("stem.", "stages.")),
        (None, ("stem.", "stages.")),
    ],
)
def test_transfusion_takes_a_prefix_of_the_layers(upto: str | None, taken: tuple[str, ...]) -> None:
    trunk, donor = ResidualTrunk((8, 8, 16)), donor_of()
    before = copy_state(trunk)
    start("transfusion", trunk, donor, upto=upto)
    for name, tensor in trunk.state_dict().items():
        assert torch.equal(tensor, donor[name] if name.startswith(taken) else before[name])


@pytest.mark.parametrize("name", ["residual", "cbr", "tuberculosis_net", "patch_bag"])
def test_tensors_stand_in_the_order_in_which_an_image_meets_them(name: str) -> None:
    """What a prefix of the layers is: an untrained layer changes no stage before it."""
    trunk, images = BACKBONES.load(name)().eval(), torch.rand(1, 1, 32, 32)
    names = list(trunk.state_dict())
    with torch.no_grad():
        before = trunk.pyramid(images)
        state = trunk.state_dict()
        for name_ in names[len(names) // 2 :]:
            if state[name_].is_floating_point():
                state[name_].add_(0.1)
        after = trunk.pyramid(images)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == sorted(same, reverse=True)
    assert not same[-1]


def test_a_layer_or_a_donor_of_another_trunk_is_refused() -> None:
    trunk = ResidualTrunk((8, 8, 16))
    with pytest.raises(ValueError, match=r"^expected a layer of the trunk, such as stem\.0, .*; found 'stage'"):
        prefix(trunk, "stage")
    wanted = r"^expected a donor with stem\.0\.weight of shape \(8, 1, 5, 5\); found "
    with pytest.raises(ValueError, match=wanted + r"one of shape \(4, 1, 5, 5\)"):
        start("transfusion", trunk, donor_of((4, 4, 4)))
    with pytest.raises(ValueError, match=wanted + "none"):
        start("transfusion", trunk, {})
    with pytest.raises(ValueError, match=r"^expected a donor with the trunk's stem\.0\.weight; found none"):
        start("mean_var", trunk, {})


def test_a_study_begins_with_its_donor_and_every_arm_with_the_same(tiny_study: Path, tmp_path: Path) -> None:
    donor = new_model(load_study(tiny_study), 7)
    save_state(tmp_path / "donor.safetensors", donor.state_dict())
    value = f"model.initialization={{name: transfusion, donor: {tmp_path / 'donor.safetensors'}, upto: stages.0}}"
    study = load_study(tiny_study, [value])
    model, fresh = initial_model(study, 0).state_dict(), new_model(study, 0).state_dict()
    for name, tensor in model.items():
        lent = name.startswith(("backbone.stem.", "backbone.stages.0."))
        assert torch.equal(tensor, (donor.state_dict() if lent else fresh)[name])
    short = ("arms=[federated]", "seeds=[0]", "training.rounds=1", "training.updates=1", "training.optimizer.lr=1e-30")
    settings = [part for v in (*short, value) for part in ("--set", v)]
    outcome = hospitals.hilum("study", tiny_study, "--out", tmp_path / "run", *settings)
    assert outcome.status == 0, outcome.err
    trained = load_state(tmp_path / "run/models/seed_0/federated/federated/model.safetensors")
    assert torch.equal(trained["backbone.stem.0.weight"], donor.state_dict()["backbone.stem.0.weight"])


def test_a_donor_is_found_beside_the_study_file_and_one_that_is_not_weights_is_named(tiny_study: Path) -> None:
    study = load_study(tiny_study, ["model.initialization={name: mean_var, donor: weights/model.safetensors}"])
    assert (study.model.initialization.model_extra or {})["donor"] == str(
        tiny_study.parent.resolve() / "weights/model.safetensors"
    )
    with pytest.raises(StudyError, match=r"Expected model\.initialization\.donor .*weights/model\.safetensors"):
        initial_model(study, 0)
    with pytest.raises(StudyError, match="'mean_var' has no option 'upto'"):
        load_study(tiny_study, ["model.initialization={name: mean_var, upto: stem}"])


def test_without_a_donor_a_study_begins_with_the_seeds_weights() -> None:
    trunk = tiny_model().backbone
    before = copy_state(trunk)
    INITIALIZATIONS.load("none")()(trunk, {}, torch_generator(0, "initialization"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())


@pytest.fixture(scope="module")
def donors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hospitals without a split of their own, and a run of them."""
    folder = tmp_path_factory.mktemp("donors")
    for name, images in (("north", 64), ("south", 48), ("east", 12)):
        hospitals.write_hospital(folder / name, images, split=False)
    (folder / "study.yaml").write_text(hospitals.STUDY, encoding="utf-8")
    settings = ("arms=[local, federated]", "seeds=[0]", "training.rounds=1", "evaluation.gallery=0")
    trained(folder, "donor", *settings)
    return folder


def trained(folder: Path, out: str, *values: str) -> Path:
    return run_study(load_study(folder / "study.yaml", list(values)), folder / out).root


def begun_with(donor: Path, *values: str) -> list[str]:
    initialization = f"model.initialization={{name: transfusion, donor: {donor}}}"
    return ["arms=[federated]", "seeds=[0]", "training.rounds=1", initialization, *values]


@pytest.mark.usefixtures("unevaluated")
def test_a_donor_that_has_seen_test_patients_is_refused(donors: Path) -> None:
    """It is counted by hand in the tables of both splits; no patient is named."""
    federated = donors / "donor/models/seed_0/federated/federated/model.safetensors"
    local = donors / "donor/models/seed_0/local/south/model.safetensors"
    study = load_study(donors / "study.yaml", ["split.seed=1"])
    expected = {}
    for site in load_sites(study, cache_of(study)):
        seen = pd.read_csv(donors / f"donor/splits/{site.name}.csv").query("split != 'test'")["image_id"]
        tested = site.manifest.images.iloc[site.indices("test")]
        patients = tested[tested["image_id"].isin(seen)]["patientid"].nunique()
        expected[site.name] = f"'{site.name}': {patients} of {tested['patientid'].nunique()} test patients"
    for donor, told in ((federated, ("north", "south")), (local, ("south",))):
        with pytest.raises(StudyError, match="Expected a donor that has not seen the patients") as caught:
            trained(donors, "refused", *begun_with(donor, "split.seed=1"))
        assert [line.strip() for line in str(caught.value).splitlines()[1:-1]] == [expected[name] for name in told]
        assert str(caught.value).splitlines()[-1].startswith("Split as its study does (split.seed: 0, split.val: 0.15,")
        assert "secret" not in str(caught.value)
    assert not (donors / "refused/run.json").exists()


@pytest.mark.usefixtures("unevaluated")
def test_a_donor_of_the_same_split_or_of_others_is_taken_and_the_donor_of_a_donor_counts(
    donors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    donor = donors / "donor/models/seed_0/federated/federated/model.safetensors"
    second = trained(donors, "second", *begun_with(donor))
    assert hospitals.json_of(second / "run.json")["donor"] == "checked"
    heir = second / "models/seed_0/federated/federated/model.safetensors"
    shutil.copytree(donors / "north", tmp_path / "west", dirs_exist_ok=True)
    (tmp_path / "study.yaml").write_text(
        hospitals.STUDY.replace("root: south", f"root: {donors / 'south'}, role: outside")
        .replace("north", "west")
        .replace("  east: {database: folder, root: east, role: outside}\n", ""),
        encoding="utf-8",
    )
    with pytest.raises(StudyError, match=r"'south': \d+ of 24 test patients"):
        trained(tmp_path, "heir", *begun_with(heir, "split.seed=1"))
    others = "sites={west: {database: folder, root: west}}"
    assert hospitals.json_of(trained(tmp_path, "others", *begun_with(heir, others)) / "run.json")["donor"] == "checked"
    assert "is not known" not in capsys.readouterr().err


@pytest.mark.usefixtures("unevaluated")
def test_a_donor_of_which_nothing_is_told_is_unknown(
    donors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(donors / "donor/models/seed_0/federated/federated/model.safetensors", tmp_path)
    run = trained(donors, "unknown", *begun_with(Path(copy), "split.seed=1"))
    assert capsys.readouterr().err.count("whether it has seen patients whom this study tests is not known") == 1
    assert hospitals.json_of(run / "run.json")["donor"] == "unknown"


def test_a_donor_of_an_arm_with_a_shared_set_is_unknown(
    donors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(donors / "donor", tmp_path / "donor")
    kept = tmp_path / "donor/study.yaml"
    content = yaml.safe_load(kept.read_text())
    content["federation"]["shared"] = {"database": "folder", "root": str(donors / "east")}
    kept.write_text(yaml.safe_dump(content))
    sites = load_sites(load_study(donors / "study.yaml"), tmp_path / "cache")
    for arm, model, known in (("federated", "federated", "unknown"), ("local", "south", "checked")):
        donor = tmp_path / f"donor/models/seed_0/{arm}/{model}/model.safetensors"
        begun = load_study(donors / "study.yaml", begun_with(donor))
        assert check_donor(begun, sites) == known
        assert capsys.readouterr().err.count("no run tells all that") == (known == "unknown")


SIDE = 32
Y, X = np.mgrid[:7, :7] - 3
FIRST = (np.hypot(Y, X) <= 3, abs(np.hypot(Y, X) - 2.7) < 0.7, (Y == 0) | (X == 0), abs(Y) <= 1, abs(X - Y) <= 1)
SECOND = (np.maximum(abs(Y), abs(X)) == 3, (X == Y) | (X == -Y), abs(X) <= 1)


def films(count: int, seed: int, findings: tuple[Any, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise on coarse clouds; each finding is a bright shape of its own, somewhere, in two films of five."""
    rng = np.random.default_rng(seed)
    clouds = np.kron(rng.normal(0.4, 0.12, (count, 5, 5)), np.ones((7, 7)))[:, :SIDE, :SIDE]
    images = (clouds + rng.normal(0, 0.1, clouds.shape)).astype(np.float32)
    labels = rng.random((count, len(findings))) < 0.4
    for k, c in np.argwhere(labels):
        row, column = rng.integers(0, SIDE - 7, 2)
        images[k, row : row + 7, column : column + 7] += 0.25 * findings[c]
    return torch.from_numpy(images)[:, None].clamp(0, 1), torch.from_numpy(labels).float()


def classifier(findings: tuple[Any, ...], seed: int) -> LocalizingClassifier:
    backbone = {"name": "cbr", "widths": (16, 32, 64), "kernel": 5, "output_stride": 8}
    return build_model(backbone, {"name": "log_sum_exp"}, len(findings), seed)


def learn(model: LocalizingClassifier, images: torch.Tensor, labels: torch.Tensor, updates: int, seed: int) -> None:
    rng, optimizer = np.random.default_rng(seed), torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(updates):
        rows = rng.choice(len(images), 16, replace=False)
        loss = masked_bce(model(images[rows]).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_what_a_donor_lends_counts_less_with_more_images_and_deep_layers_change_most(seed: int) -> None:
    """Card 8's experiment: learnt on five shapes, then fine-tuned on three others with 50 and with 2,000 images."""
    learn(donor := classifier(FIRST, 100 + seed), *films(3000, 1000 + seed, FIRST), 600, seed)
    images, labels = films(1000, 2000 + seed, SECOND)
    gaps = []
    for count in (50, 2000):
        told = []
        for name in ("none", "transfusion"):
            model = classifier(SECOND, seed)
            if name != "none":
                start(name, model.backbone, donor.backbone.state_dict())  # type: ignore[arg-type]
            learn(model, *films(count, 3000 + seed, SECOND), 300, seed)
            with torch.no_grad():
                told.append(roc_auc_score(labels.numpy(), model(images).logits.numpy()))
        with torch.no_grad():
            stages = zip(donor.backbone.pyramid(images[:200]), model.backbone.pyramid(images[:200]), strict=True)
        alike = [linear_cka(*(stage.mean((2, 3)).numpy() for stage in pair)) for pair in stages]
        assert alike == sorted(alike, reverse=True), alike
        gaps.append(told[1] - told[0])
    assert gaps[0] > 0.04, gaps
    assert gaps[1] < gaps[0] / 2, gaps
