"""A shared set: balanced, the size that is asked for, mixed in proportion, and counted nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from fakes import fake_site, fake_trainer
from hilum.errors import StudyError
from hilum.federation.messages import counts_of
from hilum.randomness import numpy_generator
from hilum.sites.examples import Examples
from hilum.sites.shared import balanced_rows, shared_examples
from hilum.study.arms import new_model, workers_of
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.hospitals import load_sites, training_sites
from hilum.study.run import run_study
from hilum.study.shared import load_shared, shared_of_sites
from hilum.study.spec import Study, load_study
from hilum.training.loop import LocalTrainer
from hilum.training.state import fingerprint
from hospitals import STUDY, Outcome, hilum, json_of, write_hospital, write_study

pytestmark = pytest.mark.usefixtures("unmeasured")

SHARED = "federation.shared={database: folder, root: public, share: 0.2, portion: 0.5}"
KEY = ModelKey(0, "federated", "federated")


# Which images


def test_classes_come_out_as_equal_as_they_can_be() -> None:
    """90 of the first finding, 30 of the second, 8 of none: 8 of none, and 16 of each of the others."""
    targets = np.zeros((128, 2), np.float32)
    targets[:90, 0] = 1
    targets[90:120, 1] = 1
    rows = balanced_rows(targets, 40, np.random.default_rng(0))
    chosen = targets[rows]
    assert len(set(rows.tolist())) == 40
    assert (chosen.sum(0).tolist(), int((chosen.sum(1) == 0).sum())) == ([16, 16], 8)


def test_an_image_of_both_findings_counts_for_both() -> None:
    targets = np.repeat(np.array([[1, 1], [1, 0], [0, 1], [0, 0]], np.float32), 30, 0)
    chosen = targets[balanced_rows(targets, 30, np.random.default_rng(1))]
    counts = [*chosen.sum(0).tolist(), float((chosen.sum(1) == 0).sum())]
    assert max(counts) - min(counts) <= 2


def test_unlabelled_images_are_never_drawn_and_all_others_may_be() -> None:
    targets = np.array([[np.nan, np.nan], [1, np.nan], [np.nan, 0], [0, 0]], np.float32)
    assert balanced_rows(targets, 3, np.random.default_rng(0)).tolist() == [1, 2, 3]


def test_a_site_gets_its_own_random_portion() -> None:
    site: Any = fake_site("public", train=40)
    rows = np.arange(3, 33)
    parts = {n: shared_examples(site, rows, 0.5, 7, n).sources[0][1] for n in ("a", "b")}
    assert all(len(np.unique(part)) == 15 and set(part) <= set(rows) for part in parts.values())
    assert parts["a"].tolist() != parts["b"].tolist()
    assert parts["a"].tolist() == np.sort(numpy_generator(7, "a", "shared").choice(rows, 15, replace=False)).tolist()
    assert shared_examples(site, rows, 1.0, 7, "a").sources[0][1].tolist() == rows.tolist()


# How they are mixed


def mixed(own: int, beside: int) -> LocalTrainer:
    site, public = fake_site("a", train=own), fake_site("public", train=beside, unknown=(1,), seed=3)
    plain = fake_trainer(site)
    shared = Examples.of([public], "train")  # type: ignore[list-item]
    plan = replace(plain.plan, tau=1.0, weighting="known")
    return LocalTrainer("a", plain.model, plain.train_examples, plain.validation_examples, plan, 0, shared)


def test_counts_and_updates_are_of_the_sites_own_images() -> None:
    trainer, plain = mixed(12, 30), fake_trainer(fake_site("a", train=12))
    told, own = counts_of(trainer.train_examples), counts_of(plain.train_examples)
    assert (told.images, told.known.tolist()) == (own.images, own.known.tolist())
    assert trainer.updates == plain.updates
    assert len(trainer.drawn_examples) == 42


def test_a_loss_goes_by_the_labels_of_all_that_is_drawn() -> None:
    trainer = mixed(12, 30)
    own, beside = (Examples((source,)) for source in trainer.drawn_examples.sources)
    positive, known = own.positive() + beside.positive(), own.known() + beside.known()
    assert trainer.loss.positive.tolist() == pytest.approx(positive.sum(0).tolist())
    assert trainer.loss.negative.tolist() == pytest.approx((known - positive).sum(0).tolist())


def test_the_prior_correction_of_a_shared_image_is_that_of_the_shared_set() -> None:
    trainer = mixed(12, 30)
    trainer.plan = replace(trainer.plan, prior_correction="relative")
    offsets = trainer._offsets(np.array([0.5, 0.5]))
    assert offsets.shape == (2, 2)
    assert offsets[1, 1] == 0  # the shared set knows nothing of the second finding
    assert (offsets[0] != 0).any()


# In a study


def load(tmp_path: Path, *overrides: str, images: int = 40) -> tuple[Study, list[Any]]:
    study = write_study(tmp_path)
    write_hospital(tmp_path / "public", images)
    spec = load_study(study, [SHARED, *overrides])
    return spec, load_sites(spec, tmp_path / "cache")


def test_size_is_the_share_of_all_training_images_and_the_draw_is_in_proportion(tmp_path: Path) -> None:
    study, sites = load(tmp_path)
    training = training_sites(sites)
    shared = load_shared(study, sites, tmp_path / "cache", study.arms)
    assert list(shared) == ["federated"]
    total = sum(len(site.indices("train")) for site in training)
    parts = shared_of_sites(study, "federated", 0, training, shared)
    assert {name: len(part) for name, part in parts.items()} == dict.fromkeys(parts, round(0.5 * round(0.2 * total)))
    assert shared_of_sites(study, "pooled", 0, training, shared) == {}
    with pytest.raises(StudyError, match=r"no federation\.shared in the arm 'federated' between hospitals"):
        shared_of_sites(study, "federated", 0, training, {})
    model = new_model(study, 0)
    workers = workers_of(study, KEY, training, model, RunDirectory(tmp_path), "float32", shared)
    for worker in workers:
        drawn = worker.trainer.drawn_examples
        own, beside = (len(rows) for _, rows in drawn.sources)
        plan = worker.trainer.plan
        batches = drawn.draw(500 * 8, 8, plan.tau, np.random.default_rng(0), plan.weighting)
        share = float(np.mean([batch.source.numpy().mean() for batch in batches]))
        assert share == pytest.approx(beside / (own + beside), abs=0.02)


def test_only_images_for_training_are_shared(tmp_path: Path) -> None:
    study, sites = load(tmp_path)
    site = load_shared(study, sites, tmp_path / "cache", ["federated"])["federated"]
    official = site.manifest.images["official_split"].to_numpy()
    assert {"train"} == set(official[site.indices("train")])
    assert {"test", "val"} <= set(official)


def run(study: Path, *options: str) -> Outcome:
    outcome = hilum("study", study, "--out", study.parent / "run", "--set", SHARED, "--set", "seeds=[0]", *options)
    assert "Traceback" not in outcome.err
    assert "secret" not in outcome.err + outcome.out
    return outcome


def test_it_changes_the_federated_arm_and_no_other(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_hospital(tmp_path / "public", 40)
    assert run(study).status == 0
    plain = hilum("study", study, "--out", tmp_path / "plain", "--set", "seeds=[0]")
    assert plain.status == 0
    same = {
        arm: fingerprint(load_file(tmp_path / "run" / path)) == fingerprint(load_file(tmp_path / "plain" / path))
        for arm, model in (("local", "north"), ("pooled", "pooled"), ("federated", "federated"))
        for path in [f"models/seed_0/{arm}/{model}/model.safetensors"]
    }
    assert same == {"local": True, "pooled": True, "federated": False}
    told = json_of(tmp_path / "run" / "run.json")["shared"]["federated"]
    assert (told["database"], told["images"], told["synthetic"]) == ("folder", 24, False)
    assert set(told["positive"]) == {"Nodule", "Effusion"}
    assert [entry["name"] for entry in json_of(tmp_path / "run" / "sites.json")] == ["north", "south", "east"]


def test_resumed_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_study(tmp_path, STUDY.replace("rounds: 2", "rounds: 3"))
    write_hospital(tmp_path / "public", 40)
    options = [SHARED, "seeds=[0]", "arms=[federated]", "federation.compression={name: top_k, share: 0.1}"]
    whole = run_study(load_study(study, options), tmp_path / "whole")
    log_round, calls = RunDirectory.log_round, []

    def stopping(self: RunDirectory, key: ModelKey, record: dict[str, Any]) -> None:
        calls.append(record)
        if len(calls) == 3:
            raise KeyboardInterrupt
        log_round(self, key, record)

    monkeypatch.setattr(RunDirectory, "log_round", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_study(load_study(study, options), tmp_path / "cut")
    cut = run_study(load_study(study, options), tmp_path / "cut", resume=True)
    path = "models/seed_0/federated/federated/model.safetensors"
    assert fingerprint(load_file(cut.root / path)) == fingerprint(load_file(whole.root / path))
    assert json_of(cut.root / "metrics.json") == json_of(whole.root / "metrics.json")


def test_other_shared_images_are_another_run(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_hospital(tmp_path / "public", 40)
    assert run(study).status == 0
    write_hospital(tmp_path / "new" / "public", 44)
    (tmp_path / "public").rename(tmp_path / "old")
    (tmp_path / "new" / "public").rename(tmp_path / "public")
    outcome = run(study, "--resume")
    assert outcome.status == 1
    assert "some have changed, come or gone" in outcome.err


def test_a_set_that_is_too_small_is_refused(tmp_path: Path) -> None:
    study, sites = load(tmp_path, "federation.shared.share=0.9")
    with pytest.raises(StudyError, match=r"labelled images in federation.shared, 0.9 of .*; found 24\. .*lower"):
        load_shared(study, sites, tmp_path / "cache", ["federated"])


def test_patients_of_a_site_are_refused(tmp_path: Path) -> None:
    study, sites = load(tmp_path, "federation.shared.root=north")
    with pytest.raises(StudyError, match=r"'north' and 'federation\.shared' share"):
        load_shared(study, sites, tmp_path / "cache", ["federated"])


def test_a_finding_that_it_lacks_is_said(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    write_hospital(tmp_path / "public", 40, ("Nodule",))
    outcome = run(study, "--set", "arms=[federated]")
    assert outcome.status == 0, outcome.err
    assert "the shared images of 'federated' hold no positive image of 'Effusion'" in outcome.err


def test_phantoms_may_be_shared(tmp_path: Path) -> None:
    from hilum.databases.phantom import Phantom

    study = write_study(tmp_path)
    Phantom.write_replica(tmp_path / "phantoms")
    spec = load_study(study, ["federation.shared={database: phantom, root: phantoms, share: 0.3}"])
    sites = load_sites(spec, tmp_path / "cache")
    site = load_shared(spec, sites, tmp_path / "cache", ["federated"])["federated"]
    assert site.card.synthetic
    parts = shared_of_sites(spec, "federated", 0, training_sites(sites), {"federated": site})
    total = sum(len(s.indices("train")) for s in training_sites(sites))
    assert len(parts["north"]) == round(0.3 * total)


def test_paths_are_relative_to_the_study_also_in_further_federations(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    spec = load_study(study, ["federations={mixed: {shared: {database: folder, root: public}}}"])
    shared = spec.federation_of("mixed").shared
    assert shared is not None
    assert shared.root == tmp_path / "public"
