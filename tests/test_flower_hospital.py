"""What a hospital's node does with a message, and what it tells when something goes wrong."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("flwr")

import hospitals
from flower_processes import SITES, write_study
from hilum.databases import DATABASES
from hilum.errors import DataError, ImageError, RunError, StudyError, TrainingError
from hilum.federation.audit import verified
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import Task
from hilum.federation.payload import EXTRA, STATE, reply_of, task_payload
from hilum.federation.runtimes.flower_records import Envelope, Identity
from hilum.study import approval as approvals
from hilum.study.approval import approval, study_digest
from hilum.study.arms import initial_model, memory_of, new_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.flower.app import DONOR, app_study, server_study, write_app, write_donor
from hilum.study.flower.client import answer, told
from hilum.study.flower.commands import LOOPBACK, Address
from hilum.study.flower.folders import Layout
from hilum.study.flower.folders import write_hospital as write_folder
from hilum.study.flower.hospital import NotApproved, own_site, read_hospital, require_approved
from hilum.study.flower.server import begin
from hilum.study.hospitals import load_sites
from hilum.study.sections import NamedOptions
from hilum.study.spec import Study, dump_study, load_study, parse_study, read_mapping
from hilum.training.state import copy_state, fingerprint, save_state

MODEL = "seed_0/federated/federated"
SAID = {  # of a reply: groups of the model's tensors, and what else it tells → the words of the administrator's page
    "trunk": "trunk",
    "norm_affine": "scale and shift",
    "norm_stats": "statistics of normalization",
    "head": "all rows of the head, north's own too",
    "images": "the number of training images",
    "known": "how many of them have each finding known",
    "positive": "and positive",
    "loss": "the mean loss",
    "updates": "the number of updates",
    "validation": "the loss on validation patients",
    "moments": "the mean and the second moment of the features",
    "key": "a public key",
}
SECRETS = ("secret", ".png", "labels.csv", "/north", "images/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals, their study, the app of it; not to be changed."""
    folder = tmp_path_factory.mktemp("hospitals")
    study = load_study(write_study(folder))
    write_app(folder / "app", app_study(study, SITES, "float32", 1), {})
    return folder


@pytest.fixture
def shared(folder: Path) -> Study:
    return parse_study(read_mapping(folder / "app" / "study.yaml"), "app")


def hospital(folder: Path, tmp_path: Path, **other: Any) -> Path:
    """Write the file of the hospital 'north'."""
    shared = parse_study(read_mapping(folder / "app" / "study.yaml"), "app")
    facts = {"site": "north", "root": str(folder / "north"), "memory": "memory", "cache": "cache"}
    path = tmp_path / "hospital.yaml"
    path.write_text(yaml.safe_dump({**facts, "approved": [approval(shared)], **other}))
    return path


def asked(folder: Path, file: Path, kind: str = "train", **identity: str) -> Envelope:
    """Return what the hospital answers to a task of the first round."""
    shared = parse_study(read_mapping(folder / "app" / "study.yaml"), "app")
    of = Identity(**{"study": study_digest(shared), "model": MODEL, "run": "0a1b", **identity})
    state = {} if kind == "count" else copy_state(new_model(shared, 0))
    task = Task(kind, 1, state, np.array([0.5, 0.5]), visit=1)
    records = Envelope.of(of, task, task_payload(task)).records()
    context: Any = SimpleNamespace(node_config={"hospital": str(file)}, run_config={})
    return answer(records, folder / "app" / "study.yaml", context)


def test_a_hospital_answers_a_task(folder: Path, tmp_path: Path) -> None:
    envelope = asked(folder, hospital(folder, tmp_path))
    assert envelope.lost == ""
    assert envelope.payload is not None
    reply = reply_of(envelope.payload)
    assert (reply.site, reply.round, reply.updates) == ("north", 1, 2)


@pytest.mark.parametrize("arm", ["federated", "scaffold"])
def test_a_reply_holds_what_the_page_of_the_administrator_says_and_no_more(
    arm: str, folder: Path, tmp_path: Path, shared: Study
) -> None:
    model = new_model(shared, 0)
    groups, start = model.state_groups(), copy_state(model)
    payload = asked(folder, hospital(folder, tmp_path), model=f"seed_0/{arm}/{arm}").payload
    assert payload is not None
    reply = reply_of(payload)
    corrected = [name for name, _ in model.named_parameters() if groups[name] in ("trunk", "norm_affine")]
    added = {f"control/{name}" for name in corrected if arm == "scaffold"}
    assert reply.state.keys() == start.keys()
    assert reply.extra.keys() == added
    assert payload.arrays.keys() == {*("known", "positive"), *map(STATE.__add__, start), *map(EXTRA.__add__, added)}
    facts = json.loads(payload.scalars)
    assert (facts["moments"], facts["validation"]) == (None, {})
    told = {*groups.values(), *facts, "known", "positive"} - {"site", "round", "tensors"}  # whose, to what; shapes
    assert told == SAID.keys()
    page = administrators_page(tmp_path)
    assert all(words in page for words in SAID.values())


def test_own_statistics_and_rows_leave_with_the_reply(folder: Path, tmp_path: Path, shared: Study) -> None:
    payload = asked(folder, hospital(folder, tmp_path)).payload
    assert payload is not None
    sent, run = reply_of(payload).state, RunDirectory(tmp_path / "memory" / "0a1b")
    own = SiteMemory(memory_of(run, ModelKey(0, "federated", "federated"), "north")).at((1, 0))
    groups, start = new_model(shared, 0).state_groups(), copy_state(new_model(shared, 0))
    assert own.keys() == {name for name, group in groups.items() if group in ("norm_stats", "head")}
    assert all(torch.equal(tensor, sent[name]) for name, tensor in own.items())
    assert not torch.equal(own["head.weight"], start["head.weight"])
    assert "They are no secret: they leave with the model." in administrators_page(tmp_path)


def administrators_page(tmp_path: Path) -> str:
    """Return the README of the hospital 'north', on one line."""
    address = Address(LOOPBACK, 8443)
    write_folder(Layout(tmp_path / "out", SITES, address, address), None, "north")
    return " ".join((tmp_path / "out" / "hospitals" / "north" / "README.md").read_text().split())


def test_a_hospital_alone_loads_what_the_study_loads(folder: Path, tmp_path: Path, shared: Study) -> None:
    together = load_sites(load_study(folder / "study.yaml"), tmp_path / "cache")
    alone = own_site(shared, read_hospital(hospital(folder, tmp_path)))
    same = next(site for site in together if site.name == "north")
    assert (alone.split == same.split).all()
    assert alone.targets.tobytes() == same.targets.tobytes()


def test_a_hospital_whose_name_begins_as_another_ones_loads_its_own_images(
    folder: Path, tmp_path: Path, shared: Study
) -> None:
    sites = {"north": shared.sites["north"], "north-west": shared.sites["west"]}
    file = read_hospital(hospital(folder, tmp_path, site="north-west", root=str(folder / "west")))
    assert own_site(shared.model_copy(update={"sites": sites}), file).name == "north-west"


def test_a_hospital_refuses_what_it_has_not_approved(folder: Path, tmp_path: Path) -> None:
    envelope = asked(folder, hospital(folder, tmp_path, approved=["0" * 64]))
    assert envelope.lost == "it has not approved this code and study."
    assert envelope.payload is None
    assert not (tmp_path / "cache").exists()


def test_another_study_or_other_code_has_another_hash(
    folder: Path, tmp_path: Path, shared: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = read_hospital(hospital(folder, tmp_path))
    require_approved(shared, file)
    more = shared.model_copy(update={"training": shared.training.model_copy(update={"rounds": 3})})
    with pytest.raises(NotApproved, match="has not approved"):
        require_approved(more, file)
    monkeypatch.setattr(approvals, "source_digest", lambda: "changed")
    with pytest.raises(NotApproved, match="has not approved"):
        require_approved(shared, file)


def test_the_hash_of_the_source_tells_of_a_changed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "hilum"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(approvals.hilum, "__file__", str(package / "__init__.py"))
    before = approvals.source_digest()
    (package / "__init__.py").write_text("a = 2\n")
    assert approvals.source_digest() != before


@pytest.mark.parametrize(
    ("identity", "word"),
    [
        ({"study": "other"}, "another study"),
        ({"model": "seed_9/federated/federated"}, "a model of the study"),
        ({"model": "../../elsewhere"}, "a model of the study"),
        ({"run": "../../elsewhere"}, "a model of the study"),
    ],
)
def test_a_task_of_something_else_is_refused(identity: dict[str, str], word: str, folder: Path, tmp_path: Path) -> None:
    envelope = asked(folder, hospital(folder, tmp_path), **identity)
    assert word in envelope.lost
    assert [path.name for path in (tmp_path / "memory").rglob("*")] == ["audit.jsonl"]
    (entry,) = verified(tmp_path / "memory" / "audit.jsonl").entries
    assert word in entry["outcome"]
    assert "sha256" not in entry


def test_images_that_do_not_meet_the_study_are_refused_without_a_word_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    write_app(tmp_path / "app", app_study(load_study(tmp_path / "study.yaml"), SITES, "float32", 1), {})
    file = hospital(tmp_path, tmp_path)
    next((tmp_path / "north" / "images").glob("*.png")).write_bytes(b"no image")
    envelope = asked(tmp_path, file, "count")
    assert "requirements; 'hilum data check --hospital hospital.yaml' there says more" in envelope.lost
    assert not any(secret in envelope.lost for secret in SECRETS)
    log = capsys.readouterr().err
    assert "DataError" in log
    assert not any(secret in log for secret in SECRETS)


def test_what_the_server_is_not_told_is_told_at_the_hospital(tmp_path: Path) -> None:
    write_study(tmp_path)
    write_app(tmp_path / "app", app_study(load_study(tmp_path / "study.yaml"), SITES, "float32", 1), {})
    file, study = hospital(tmp_path, tmp_path), ("--study", tmp_path / "app" / "study.yaml")
    counted = asked(tmp_path, file, "count").payload
    assert counted is not None
    outcome = hospitals.hilum("data", "check", "--hospital", file, *study)
    assert (outcome.status, outcome.err) == (0, "")
    assert "north: 32 images, 16 of them for training" in outcome.out
    table = [line.split() for line in outcome.out.splitlines()]
    labels = reply_of(counted).counts
    for finding, known, positive in zip(("Nodule", "Effusion"), labels.known, labels.positive, strict=True):
        assert [finding, str(known), str(positive)] in table
    image = next((tmp_path / "north" / "images").glob("*.png"))
    image.write_bytes(b"no image")
    assert image.name not in asked(tmp_path, file, "count").lost
    outcome = hospitals.hilum("data", "check", "--hospital", file, *study)
    assert outcome.status == 1
    assert image.name in outcome.err


@pytest.fixture
def linked(folder: Path, tmp_path: Path) -> Path:
    """Return a root of its own for 'north', to put links into."""
    return Path(copytree(folder / "north", tmp_path / "north"))


@pytest.mark.parametrize("name", ["images/north00.png", "images", "labels.csv", "boxes.csv"])
def test_a_link_out_of_the_root_is_refused_before_anything_is_read(
    name: str, folder: Path, linked: Path, tmp_path: Path, shared: Study
) -> None:
    (linked / "labels.csv").write_text("no table of labels")  # a reader would say so
    (linked / name).rename(tmp_path / "elsewhere")
    (linked / name).symlink_to(tmp_path / "elsewhere")
    file = read_hospital(hospital(folder, tmp_path, root=str(linked)))
    with pytest.raises(DataError, match="found 1 that lead out of it") as caught:
        own_site(shared, file)
    assert "north00" not in str(caught.value)


def test_a_link_that_leads_out_over_another_one_is_refused(
    folder: Path, linked: Path, tmp_path: Path, shared: Study
) -> None:
    (linked / "deeper").mkdir()
    (linked / "deeper" / "back").symlink_to("..")
    (linked / "deeper" / "out").symlink_to("back/../absent.csv")  # by its letters inside of the root
    file = read_hospital(hospital(folder, tmp_path, root=str(linked)))
    with pytest.raises(DataError, match="found 1 that lead out of it"):
        own_site(shared, file)


def test_links_within_the_root_and_a_root_that_is_a_link_are_read(
    folder: Path, linked: Path, tmp_path: Path, shared: Study
) -> None:
    (linked / "tables").mkdir()
    (linked / "labels.csv").rename(linked / "tables" / "labels.csv")
    (linked / "labels.csv").symlink_to("tables/labels.csv")
    (linked / "images").rename(linked / "films")
    (linked / "images").symlink_to(linked / "films")
    (tmp_path / "root").symlink_to(linked)
    site = own_site(shared, read_hospital(hospital(folder, tmp_path, root=str(tmp_path / "root"))))
    assert len(site.manifest) == 32


def test_a_file_elsewhere_is_read_where_the_hospital_itself_names_it(
    folder: Path, tmp_path: Path, shared: Study
) -> None:
    DATABASES.load("dicom").write_replica(tmp_path / "archive")
    key = (tmp_path / "archive" / "hilum-id-key").rename(tmp_path / "key")
    dicom = shared.sites["north"].model_copy(update={"database": NamedOptions(name="dicom")})
    study = shared.model_copy(update={"sites": {"north": dicom}, "findings": ["Pneumonia"]})
    options = {"options": {"key_file": str(key)}}
    site = own_site(study, read_hospital(hospital(folder, tmp_path, root=str(tmp_path / "archive"), **options)))
    assert len(site.manifest) == 18
    assert not (tmp_path / "archive" / "hilum-id-key").exists()


@pytest.mark.parametrize(
    "error",
    [
        ImageError("Expected a PNG at images/secret7.png"),
        DataError("row 3 (images/secret7.png)"),
        StudyError("labels.csv of secret7"),
        RunError("Expected /data/north/secret7"),
        KeyError("secret7.png"),
        OSError(errno.EIO, "secret7.png"),
    ],
)
def test_the_words_of_an_error_stay_at_the_hospital(error: BaseException) -> None:
    assert not any(secret in told(error) for secret in SECRETS)


def test_a_full_disk_and_a_loss_that_is_not_finite_are_told() -> None:
    full = RunError("Expected 3 MiB of free space for /data/north")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert told(full) == "its disk is full."
    assert told(TrainingError("found nan at 'north' in round 3")) == "found nan at 'north' in round 3"


def lent_by(donor: Path | str) -> str:
    return f"model.initialization={{name: transfusion, donor: {donor}, upto: stages.0}}"


def test_the_app_holds_no_path_of_anybody_and_no_arm_that_is_not_run(folder: Path) -> None:
    shared = "{database: folder, root: west}"
    unused = f"federations.mixed={{shared: {shared}}}"
    given = [unused, f"federation.shared={shared}", "arms=[scaffold]", "federations.scaffold.shared=null"]
    study = load_study(folder / "study.yaml", [*given, lent_by("lent.safetensors")])
    text = dump_study(app_study(study, SITES, "float32", 1))
    assert str(folder) not in text
    assert "cache: null" in text
    app = yaml.safe_load(text)
    assert (app["arms"], list(app["federations"])) == (["scaffold"], ["scaffold"])
    assert app["federation"]["shared"] is None
    assert app["model"]["initialization"] == {"name": "transfusion", "donor": DONOR, "upto": "stages.0"}
    kept = load_study(folder / "study.yaml", ["arms=[scaffold]"])
    assert app["federations"]["scaffold"] == kept.federations["scaffold"].model_dump(mode="json")


def test_only_the_server_reads_the_donor_and_begins_as_hilum_study_does(folder: Path, tmp_path: Path) -> None:
    study = load_study(folder / "study.yaml", [lent_by(tmp_path / "lent.safetensors")])
    shared = app_study(study, SITES, "float32", 1)
    with pytest.raises(StudyError, match=r"model\.initialization\.donor .*lent\.safetensors"):
        write_donor(tmp_path / "run", study)
    save_state(tmp_path / "lent.safetensors", copy_state(new_model(study, 7)))
    write_donor(tmp_path / "run", study)
    begun = fingerprint(copy_state(initial_model(study, 0)))
    (tmp_path / "lent.safetensors").unlink()
    assert fingerprint(copy_state(initial_model(server_study(shared, tmp_path / "run"), 0))) == begun
    assert begun != fingerprint(copy_state(new_model(shared, 0)))
    write_app(tmp_path / "app", shared, {})
    file = hospital(folder, tmp_path, approved=[approval(shared)])
    assert asked(tmp_path, file).lost == ""


def test_a_run_is_not_gone_on_with_from_another_donor(folder: Path, tmp_path: Path) -> None:
    study = load_study(folder / "study.yaml", [lent_by(tmp_path / "lent.safetensors")])
    shared, run = app_study(study, SITES, "float32", 1), RunDirectory(tmp_path / "run")
    for seed in (7, 8):
        save_state(tmp_path / "lent.safetensors", copy_state(new_model(study, seed)))
        write_donor(run.root, study)
        if seed == 7:
            assert begin(shared, run, SITES) == begin(shared, run, SITES)
    with pytest.raises(RunError, match="donor"):
        begin(shared, run, SITES)


def test_a_study_of_no_federated_arm_or_with_shared_images_is_refused(folder: Path) -> None:
    study = load_study(folder / "study.yaml", ["arms=[local, pooled]"])
    with pytest.raises(StudyError, match="learn together"):
        app_study(study, SITES, "float32", 1)
    study = load_study(folder / "study.yaml", ["federation.shared={database: folder, root: west}"])
    with pytest.raises(StudyError, match="shared images"):
        app_study(study, SITES, "float32", 1)
