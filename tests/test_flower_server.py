"""A whole study through the two ends of the app, over nodes that are no processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

pytest.importorskip("flwr")

from flwr.app import Message, RecordDict

from flower_nodes import FakeGrid, FakeNode, Time
from flower_processes import SITES, STUDY, write_study
from hilum.errors import RunError, StudyError, TrainingError
from hilum.federation import aggregation
from hilum.federation.messages import Task
from hilum.federation.payload import task_of
from hilum.federation.runtimes.flower_records import TASK, opened
from hilum.federation.strategies.fedavg import HEADS_OF
from hilum.models.neck.conta import Conta
from hilum.study.approval import approval
from hilum.study.directory import RunDirectory
from hilum.study.flower.app import app_study, write_app
from hilum.study.flower.client import answer
from hilum.study.flower.handout import HAND_OUT, TAUGHT
from hilum.study.flower.server import serve
from hilum.study.inference import predict_paths
from hilum.study.spec import Study, load_study
from hilum.training.state import fingerprint, load_state
from hospitals import hilum

MODELS = ("seed_0/federated/federated", "seed_0/scaffold/scaffold", "seed_0/masked/masked")
Spoil = Callable[[str, RecordDict], RecordDict]


@pytest.fixture(scope="module", autouse=True)
def own_rows() -> Iterator[None]:
    """Few labels are enough for a hospital to have head rows of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aggregation, "OWN_EVIDENCE", 1.0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hospitals, and what 'hilum study' makes of them; not to be changed."""
    folder = tmp_path_factory.mktemp("hospitals")
    outcome = hilum("study", write_study(folder), "--out", folder / "plain")
    assert outcome.status == 0, outcome.err
    return folder


def between(
    folder: Path,
    here: Path,
    spoil: Spoil = lambda site, records: records,
    arms: str = "[federated, scaffold, masked]",
    **federation: Any,
) -> FakeGrid:
    """Serve the study of ``folder``; folders of the hospitals, and the server's run, are in ``here``."""
    study = load_study(folder / "study.yaml", [f"arms={arms}", *(f"federation.{k}={v}" for k, v in federation.items())])
    shared = app_study(study, SITES, "float32", 1)
    write_app(here / "app", shared, {})
    grid = FakeGrid({k: FakeNode(site, at(site, folder, here, shared, spoil)) for k, site in enumerate(SITES)}, Time())
    serve(shared, grid, {"out": str(here / "run"), "sites": ",".join(SITES)})
    return grid


def at(site: str, folder: Path, here: Path, shared: Study, spoil: Spoil) -> Callable[[Message], RecordDict]:
    file = here / site / "hospital.yaml"
    file.parent.mkdir(exist_ok=True)
    facts = {"site": site, "root": str(folder / site), "memory": "memory", "cache": str(folder / "cache")}
    file.write_text(yaml.safe_dump({**facts, "approved": [approval(shared)]}))
    context: Any = SimpleNamespace(node_config={"hospital": str(file)}, run_config={})

    def say(message: Message) -> RecordDict:
        return spoil(site, answer(message.content, here / "app" / "study.yaml", context).records())

    return say


def losing(lost: str, kind: str) -> Spoil:
    def spoil(site: str, records: RecordDict) -> RecordDict:
        return RecordDict() if site == lost and opened(records).kind == kind else records

    return spoil


def memory(here: Path, site: str) -> RunDirectory:
    return RunDirectory(here / site / "memory" / json.loads((here / "run" / "federation.json").read_text())["run"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("between")


@pytest.fixture(scope="module")
def grid(folder: Path, here: Path) -> FakeGrid:
    return between(folder, here)


@pytest.fixture(scope="module")
def served(here: Path, grid: FakeGrid) -> Path:
    return here


def held(run: Path) -> bool:
    """Tell whether somebody is at work in a run's directory."""
    folder = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def test_a_run_that_is_started_twice_has_its_directory_for_itself(folder: Path, tmp_path: Path) -> None:
    seen = []

    def look(site: str, records: RecordDict) -> RecordDict:
        seen.append(held(tmp_path / "run"))
        return records

    between(folder, tmp_path, look)
    assert set(seen) == {True}
    assert not held(tmp_path / "run")


def handed_out(grid: FakeGrid, model: str) -> dict[str, Task]:
    """Return what each hospital was sent after the last round of a model."""
    found = {}
    for message in grid.sent.values():
        if message.metadata.message_type == TASK:
            asked = opened(message.content)
            if (asked.kind, asked.identity.model) == (HAND_OUT, model) and asked.payload is not None:
                found[SITES[message.metadata.dst_node_id]] = task_of(asked.payload)
    return found


def test_hospitals_are_sent_the_heads_of_all_with_the_last_weights_and_no_more(grid: FakeGrid, served: Path) -> None:
    tasks = handed_out(grid, MODELS[0])
    assert tasks.keys() == set(SITES)
    weights = load_state(served / "run" / "models" / MODELS[0] / "model.safetensors")
    parts = ("gate.weight", "gate.bias", "own", "head.weight", "head.bias")  # as the administrator's page says
    for task in tasks.values():
        assert fingerprint(task.state) == fingerprint(weights)
        assert task.extra.keys() == {TAUGHT, *(f"{HEADS_OF}{site}/{part}" for site in SITES for part in parts)}
        assert task.global_prior.size == 0


def test_a_hospital_is_sent_the_own_rows_of_another_but_not_its_statistics(grid: FakeGrid, served: Path) -> None:
    sent = handed_out(grid, MODELS[0])["north"]
    south = load_state(memory(served, "south").root / "models" / MODELS[0] / "site_south.safetensors")
    own = sent.extra[f"{HEADS_OF}south/own"]
    assert own.any()
    assert torch.equal(sent.extra[f"{HEADS_OF}south/head.weight"][own], south["head.weight"][own])
    spreads = [name for name in south if name.endswith("running_var")]
    assert spreads
    assert not any(torch.equal(sent.state[name], south[name]) for name in spreads)


@pytest.mark.parametrize("model", MODELS)
def test_what_a_hospital_keeps_of_a_model_is_what_hilum_study_writes(model: str, folder: Path, served: Path) -> None:
    for site in SITES:
        held, plain = memory(served, site).root / "models" / model, folder / "plain" / "models" / model
        own = {path.name for path in plain.iterdir()} - {
            f"site_{other}.safetensors" for other in SITES if other != site
        }
        assert {path.name for path in held.iterdir()} == own >= {"site_heads.safetensors", f"site_{site}.safetensors"}
        for name in own - {"model.safetensors"}:  # which says what lies beside it
            assert (held / name).read_bytes() == (plain / name).read_bytes()


@pytest.mark.parametrize("site", SITES)
def test_a_hospital_predicts_with_what_it_holds(site: str, folder: Path, served: Path, tmp_path: Path) -> None:
    images = [folder / site / "images"]
    predict_paths(folder / "plain", images, tmp_path / "plain", site=site)
    predict_paths(memory(served, site).root, images, tmp_path / "own", site=site)
    own, plain = (tmp_path / name / "predictions.csv" for name in ("own", "plain"))
    assert own.read_bytes() == plain.read_bytes()
    assert not pd.read_csv(own)["Effusion"].isna().any()  # 'south' labels none, and was taught by the others


def test_the_server_predicts_for_a_hospital_that_took_no_part(folder: Path, served: Path, tmp_path: Path) -> None:
    for name, run in (("plain", folder / "plain"), ("own", served / "run")):
        predict_paths(run, [folder / "north" / "images"], tmp_path / name)
    own, plain = (tmp_path / name / "predictions.csv" for name in ("own", "plain"))
    assert own.read_bytes() == plain.read_bytes()


def test_the_server_cannot_adjust_for_what_hospitals_keep(folder: Path, served: Path, tmp_path: Path) -> None:
    for run in (served / "run", memory(served, "north").root):
        with pytest.raises(RunError, match="each of them holds its own"):
            predict_paths(run, [folder / "north" / "images"], tmp_path, adjust="sites")


def test_a_hospital_is_not_told_of_the_labels_of_others(served: Path) -> None:
    run = memory(served, "north")
    assert run.roles() == {"north": "training"}
    told = "".join(path.read_text() for path in run.root.glob("*.json"))
    assert "south" not in told
    assert "positive" not in told


def test_the_run_stops_where_a_hospital_has_not_taken_the_weights_and_goes_on(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"2 did\. south: "):
        between(folder, tmp_path, losing("south", "hand out"))
    assert not (tmp_path / "run" / "models").exists()
    between(folder, tmp_path)
    for model in MODELS:
        name = f"models/{model}/site_south.safetensors"
        assert (memory(tmp_path, "south").root / name).read_bytes() == (folder / "plain" / name).read_bytes()


def test_within_the_quorum_a_hospital_without_the_weights_is_said(folder: Path, tmp_path: Path) -> None:
    between(folder, tmp_path, losing("south", "hand out"), "[federated, scaffold]", quorum=0.6)
    without = json.loads((tmp_path / "run" / "federation.json").read_text())["without"]
    assert [list(lost) for lost in without.values()] == [["south"], ["south"]]
    assert "Expected a message of hilum" in without[MODELS[0]]["south"]


def without_effusion(folder: Path, *sites: str) -> None:
    """Write three hospitals, of which these ``sites`` have no effusion."""
    write_study(folder)
    for site in sites:
        table = pd.read_csv(folder / site / "labels.csv")
        table.assign(Effusion=0).to_csv(folder / site / "labels.csv", index=False)


def test_a_finding_that_no_hospital_has_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    without_effusion(tmp_path, *SITES)
    (tmp_path / "here").mkdir()
    with pytest.raises(StudyError, match="'Effusion' over all sites; found 0 positive"):
        between(tmp_path, tmp_path / "here")
    assert not list((tmp_path / "here" / "run").rglob("round_*"))


def test_a_finding_that_no_hospital_has_is_not_taught_where_one_joins_late(tmp_path: Path) -> None:
    without_effusion(tmp_path, *SITES)
    (tmp_path / "here").mkdir()
    between(tmp_path, tmp_path / "here", presence="{west: {first: 2}}")
    for run in (tmp_path / "here" / "run", memory(tmp_path / "here", "north").root):
        assert json.loads((run / "run.json").read_text())["taught"] == ["Nodule"]


def test_a_neck_for_which_no_hospital_has_the_images_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Conta, "least", 17)
    write_study(tmp_path, STUDY.replace("backbone:", "neck: {name: conta, width: 4}, backbone:", 1))
    (tmp_path / "here").mkdir()
    with pytest.raises(StudyError, match=r"Expected 17 training patients .* in federated there are at most 8"):
        between(tmp_path, tmp_path / "here", arms="[federated]")
    assert not list((tmp_path / "here" / "run").rglob("round_*"))


def test_a_run_of_another_study_is_refused(folder: Path, served: Path) -> None:
    with pytest.raises(RunError, match="was begun with"):
        between(folder, served, quorum=0.9)
