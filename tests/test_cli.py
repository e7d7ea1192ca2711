"""The command line: help that can be read, names, data, demo, report, and errors in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import hilum as package
import hospitals
from hilum.cli import main
from hilum.cli.listing import KINDS
from hilum.databases import DATABASES
from hilum.errors import StudyError
from hilum.findings.vocabulary import FINDINGS
from hilum.study import demo
from hilum.study.directory import RunDirectory
from hilum.study.spec import parse_study

VERBS = (
    "demo",
    "study",
    "evaluate",
    "similarity",
    "shift",
    "predict",
    "report",
    "list",
    "data",
    "data check",
    "data manifest",
)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_readable_at_80_columns(verb: str) -> None:
    outcome = hospitals.hilum(*verb.split(), "--help")
    assert outcome.status == 0
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "..." not in outcome.out.replace("}...", "").replace("PATH...", "").replace(
        "[ARGS]...", ""
    )  # nothing is cut off
    assert "``" not in outcome.out
    assert "\\[" not in outcome.out
    assert len(outcome.out.split("Options:")[0].split()) > 10


def test_help_tells_what_an_argument_is() -> None:
    assert "One of: databases" in hospitals.hilum("list", "--help").out
    assert "PNG, JPEG or DICOM images" in hospitals.hilum("predict", "--help").out


def test_help_names_every_verb() -> None:
    listed = hospitals.hilum("--help").out.split("Commands:")[1]
    assert [verb for verb in VERBS if " " not in verb and f"  {verb} " not in listed] == []


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "hilum", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"hilum {package.__version__}\n"


def test_version() -> None:
    assert hospitals.hilum("--version").out == f"hilum {package.__version__}\n"


@pytest.mark.parametrize("arguments", [["studdy"], ["study"], ["study", "a.yaml", "--sett", "a=b"], ["predict", "run"]])
def test_wrong_usage_exits_2_with_a_hint(arguments: list[str]) -> None:
    outcome = hospitals.hilum(*arguments)
    assert outcome.status == 2
    assert "Usage:" in outcome.err
    assert "Traceback" not in outcome.err


def listed(out: str) -> list[str]:
    return [re.split(r"[ (]", line.strip())[0] for line in out.splitlines()]


def test_list_of_a_kind_tells_the_options_and_their_defaults() -> None:
    poolings = hospitals.hilum("list", "poolings").out.splitlines()
    (top_k,) = (line for line in poolings if line.startswith("  top_k(fraction=0.1, bottom=0.0) "))
    assert {line[top_k.index("Mean of") - 1] for line in poolings} == {" "}
    assert "  residual(widths=[24, 48, 96], dilation=1) " in hospitals.hilum("list", "backbones").out
    assert "  transfusion(donor, upto=null) " in hospitals.hilum("list", "initializations").out
    assert "  mimic_cxr(labeller=chexpert, radiologist=false) " in hospitals.hilum("list", "databases").out


def test_list_names_everything_a_study_may_use() -> None:
    everything = hospitals.hilum("list")
    assert everything.status == 0
    whole = dict(re.findall(r"^(\w+):\n((?:  .*\n)+)", everything.out, re.MULTILINE))
    assert list(whole) == list(KINDS)
    for kind in KINDS:
        assert listed(hospitals.hilum("list", kind).out) == listed(whole[kind])
    assert listed(hospitals.hilum("list", "databases").out) == list(DATABASES)
    assert [line.strip() for line in hospitals.hilum("list", "findings").out.splitlines()] == list(FINDINGS)


def test_list_holds_what_the_keys_of_a_study_take() -> None:
    """Every name of these kinds, and no other, is a value of its key; each with a summary."""
    base = {"name": "x", "findings": ["Nodule"], "sites": {"a": {"database": "folder", "root": "a"}}}
    assert "metrics" not in KINDS
    for kind, section, key in (
        ("normalizations", "federation", "normalization"),
        ("weightings", "federation", "weighting"),
        ("policies", "", "label_policy"),
    ):
        lines = hospitals.hilum("list", kind).out.splitlines()
        assert all(len(line.split()) > 4 for line in lines), lines
        names = [line.split()[0] for line in lines]
        for name in names:
            parse_study({**base, **({section: {key: name}} if section else {key: name})}, "study")
        with pytest.raises(StudyError) as caught:
            parse_study({**base, **({section: {key: "?"}} if section else {key: "?"})}, "study")
        assert sorted(set(re.findall(r"[\w-]+", str(caught.value).partition("expected")[2])) & set(names)) == sorted(
            names
        )


def test_list_of_an_unknown_kind_suggests_one() -> None:
    outcome = hospitals.hilum("list", "database")
    assert outcome.status == 1
    assert "Did you mean 'databases'?" in outcome.err


def test_list_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hilum.cli import main\n"
        "for arguments in (['list'], ['study', '--help']):\n"
        "    sys.argv = ['hilum', *arguments]\n"
        "    try: main()\n    except SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'matplotlib', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    return hospitals.write_hospital(tmp_path / "here")


def test_data_check_counts(hospital: Path) -> None:
    outcome = hospitals.hilum("data", "check", "folder", hospital, "--json")
    assert outcome.status == 0
    counts = json.loads(outcome.out)
    assert counts["images"] == 24
    assert counts["patients"] == 12
    assert counts["boxes"] == 12
    assert counts["findings"]["Nodule"] == {"positive": 12, "negative": 12, "uncertain": 0, "unknown": 0}
    assert counts["problems"] == []
    assert "secret" not in outcome.out
    table = hospitals.hilum("data", "check", "folder", hospital).out
    assert table.startswith("folder: 24 images of 12 patients, 12 boxes")
    assert table.rstrip().endswith("0 problems")


def test_data_check_names_what_a_study_would_refuse(hospital: Path) -> None:
    images = hospital / "images"
    (images / "here00.png").write_bytes(b"")
    (images / "here01.png").write_bytes((images / "here02.png").read_bytes()[:99])
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(images / "here03.png")
    (images / "here04.png").unlink()
    problems = "\n".join(json.loads(hospitals.hilum("data", "check", "folder", hospital, "--json").out)["problems"])
    for told in (
        "labels.csv row 2 (images/here00.png): empty file",
        "labels.csv row 3 (images/here01.png): truncated or damaged",
        "labels.csv row 5 (images/here03.png): constant image",
        "labels.csv row 6: the image 'images/here04.png' is not on disk",
    ):
        assert told in problems


def write_hospital_file(folder: Path, approved: list[str]) -> Path:
    """Write a study, and the file of the hospital 'north' beside it."""
    hospitals.write_study(folder)
    path = folder / "hospital.yaml"
    facts = {"site": "north", "root": "north", "memory": "memory", "cache": "cache", "approved": approved}
    path.write_text(yaml.safe_dump(facts))
    return path


def test_data_check_of_a_hospital_tells_whether_its_node_would_train(tmp_path: Path) -> None:
    file = write_hospital_file(tmp_path, [])
    found = hospitals.hilum("federation", "hash", tmp_path / "study.yaml").out.strip()
    refused = hospitals.hilum("data", "check", "--hospital", file)
    assert refused.status == 1
    assert f"code and study: not approved ({found})" in refused.out
    assert "north: 32 images" in refused.out
    assert "has not approved" in refused.err
    file.write_text(file.read_text().replace("[]", f"[{found}]"))
    outcome = hospitals.hilum("data", "check", "--hospital", file)
    assert (outcome.status, outcome.err) == (0, "")
    assert f"code and study: approved ({found})" in outcome.out
    assert "secret" not in outcome.out


def test_data_check_of_a_hospital_names_what_is_left_out(tmp_path: Path) -> None:
    file = write_hospital_file(tmp_path, [])
    study = tmp_path / "study.yaml"
    text = study.read_text().replace("images: {", "images: {on_error: leave_out, ")
    study.rename(tmp_path / "other.yaml").write_text(text)
    (tmp_path / "north" / "images" / "north00.png").write_bytes(b"")
    (tmp_path / "north" / "images" / "north01.png").unlink()
    out = hospitals.hilum("data", "check", "--hospital", file, "--study", tmp_path / "other.yaml").out
    assert "north: 30 images" in out
    assert "labels.csv row 2 (images/north00.png): empty file" in out
    assert "labels.csv row 3: the image 'images/north01.png' is not on disk" in out
    assert "\n2 problems:" in out
    assert f"a study file at {study}; there is none" in hospitals.hilum("data", "check", "--hospital", file).err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ([], "expected NAME and ROOT"),
        (["folder"], "expected NAME and ROOT"),
        (["folder", ".", "--study", "study.yaml"], "or --hospital, perhaps with --study"),
        (["folder", ".", "--hospital", "hospital.yaml"], "expected --study alone"),
        (["--hospital", "hospital.yaml", "--labels-only"], "expected --study alone"),
        (["--hospital", "hospital.yaml", "--json"], "expected --study alone"),
        (["--hospital", "hospital.yaml", "--option", "a=b"], "expected --study alone"),
    ],
)
def test_data_check_is_of_a_database_or_of_a_hospital(arguments: list[str], advice: str) -> None:
    outcome = hospitals.hilum("data", "check", *arguments)
    assert outcome.status == 2
    assert advice in " ".join(outcome.err.split())


@pytest.mark.parametrize("name", list(DATABASES))
def test_data_check_reads_every_database(name: str, tmp_path: Path) -> None:
    DATABASES.load(name).write_replica(tmp_path)
    counts = json.loads(hospitals.hilum("data", "check", name, tmp_path, "--json").out)
    keys = {"images", "patients", "studies", "views", "boxes", "masks", "findings", "prevalence"}
    keys |= {"frontal", "facts", "problems"}
    assert set(counts) == keys
    assert counts["images"] > 0
    for finding, labels in counts["findings"].items():
        assert finding in FINDINGS
        assert list(labels) == ["positive", "negative", "uncertain", "unknown"]
        assert sum(labels.values()) == counts["images"]


def test_data_manifest_writes_labels_and_boxes(hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "manifest.csv"
    outcome = hospitals.hilum("data", "manifest", "folder", hospital, "--out", out)
    assert outcome.out.splitlines() == [f"24 images: {out}", f"12 boxes: {out.with_suffix('.boxes.csv')}"]
    table = pd.read_csv(out)
    given = pd.read_csv(hospital / "labels.csv")
    assert list(table["image_id"]) == list(given["image"])
    assert list(table["patientid"]) == list(given["patient"])
    assert list(table["Nodule"]) == list(given["Nodule"])
    boxes, drawn = pd.read_csv(out.with_suffix(".boxes.csv")), pd.read_csv(hospital / "boxes.csv")
    assert list(boxes["image_id"]) == list(drawn["image"])
    corners = ["x0", "y0", "x1", "y1"]
    np.testing.assert_allclose(boxes[corners], drawn[corners], rtol=1e-4)
    for name, *size in boxes[["image_id", "width", "height"]].itertuples(index=False):
        with Image.open(hospital / name) as image:
            assert tuple(size) == image.size


def test_data_manifest_gives_boxes_of_dicom_in_pixels(tmp_path: Path) -> None:
    DATABASES.load("vindr").write_replica(tmp_path / "db")
    out = tmp_path / "m.csv"
    assert hospitals.hilum("data", "manifest", "vindr", tmp_path / "db", "--out", out).status == 0
    boxes = pd.read_csv(tmp_path / "m.boxes.csv")
    fractions = DATABASES.load("vindr").read(tmp_path / "db").boxes
    assert (boxes["width"].unique(), boxes["height"].unique()) == (96, 120)
    corners = ["x0", "y0", "x1", "y1"]
    np.testing.assert_allclose(boxes[corners], fractions[corners] * [96, 120, 96, 120], rtol=1e-4)


def test_data_manifest_without_boxes_writes_one_file(tmp_path: Path) -> None:
    DATABASES.load("shenzhen").write_replica(tmp_path / "db")
    assert hospitals.hilum("data", "manifest", "shenzhen", tmp_path / "db", "--out", tmp_path / "m.csv").status == 0
    assert not (tmp_path / "m.boxes.csv").exists()


def test_data_manifest_that_cannot_be_written_is_told(hospital: Path) -> None:
    outcome = hospitals.hilum("data", "manifest", "folder", hospital, "--out", hospital / "labels.csv" / "m.csv")
    assert outcome.status == 1
    assert outcome.err.startswith("hilum: Expected to write")


def test_report_is_written_again(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    outcome = hospitals.hilum("report", run)
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"report: {run / 'report.html'}\n"
    assert len((run / "report.html").read_text()) == len(before)
    assert hospitals.hilum("report", tmp_path / "absent").status == 1


def test_demo_draws_hospitals_and_goes_on_when_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "IMAGES", dict.fromkeys(demo.IMAGES, 40))
    monkeypatch.setattr(demo, "SIZE", 48)
    monkeypatch.setattr(demo.os, "cpu_count", lambda: 1)
    small = ["findings=[Cardiomegaly, Effusion]", "images.size=32", "training.rounds=1", "training.updates=1"]
    small += ["training.batch=8", "training.precision=float32", "training.threads=1", "evaluation.resamples=100"]
    small += ["arms=[federated]", "model.backbone.widths=[4, 6, 8]"]
    arguments = ["demo", "--out", tmp_path / "demo", *(part for value in small for part in ("--set", value))]
    outcome = hospitals.hilum(*arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"report: {tmp_path / 'demo' / 'report.html'}\n"
    report = (tmp_path / "demo/report.html").read_text()
    assert "synthetic" in report
    again = hospitals.hilum(*arguments)
    assert again.status == 0, again.err
    assert RunDirectory(tmp_path / "demo/run").read_json("run.json")["data"] == "phantom"


def test_ctrl_c_while_processes_draw_is_one_line(tmp_path: Path) -> None:
    """A terminal sends it to the whole group; the drawing processes must not print tracebacks."""
    code = (
        "from hilum.cli import main\n"
        "from hilum.study import demo\n"
        "demo.os.cpu_count = lambda: 2\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "command.py").write_text(code)
    command = [sys.executable, str(tmp_path / "command.py"), "demo", "--out", str(tmp_path / "demo")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        until = time.monotonic() + 600
        while not any((tmp_path / "demo").rglob("*.png")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.startswith("hilum: Stopped")
    assert len(err.splitlines()) == 1, err


def test_demo_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = hospitals.hilum("demo", "--out", tmp_path / "file")
    assert (outcome.status, "is a file" in outcome.err) == (1, True)


def test_demo_leaves_another_study_file_alone(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: mine\n")
    outcome = hospitals.hilum("demo", "--out", tmp_path)
    assert outcome.status == 1
    assert "Expected no study.yaml but the demonstration's" in outcome.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("study.yaml", "name: mine\n")]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.round=3", "Did you mean 'rounds'?"),
        (
            "model.backbone.widths=[4, 6]",
            "model.backbone: expected three whole numbers above 0 as widths; found [4, 6].",
        ),
    ],
)
def test_demo_tells_a_mistake_before_it_draws(
    override: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "write_hospital", lambda *_: pytest.fail("it draws"))
    outcome = hospitals.hilum("demo", "--out", tmp_path / "demo", "--set", override)
    assert (outcome.status, told in outcome.err) == (1, True), outcome
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("options", "out"), [((), "runs/ours"), (("--out", "runs/other"), "runs/other")])
def test_a_federation_on_this_machine_goes_to_runs_under_the_name_of_the_study(
    options: tuple[str, ...], out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flwr")
    given: list[Any] = []
    monkeypatch.setattr("hilum.study.spec.load_study", lambda file, _: SimpleNamespace(name="ours"))
    monkeypatch.setattr(
        "hilum.study.flower.local.run_local", lambda _, run, *rest: given.append(run) or RunDirectory(run)
    )
    monkeypatch.setattr("hilum.study.evaluation.evaluate.evaluate_run", given.append)
    monkeypatch.setattr("hilum.report.write_report", lambda root: root / "report.html")
    outcome = hospitals.hilum("federation", "local", "study.yaml", *options)
    assert outcome.status == 0, outcome.err
    assert given == [Path(out), Path(out)]  # run, and evaluated
    assert outcome.out == f"report: {out}/report.html\n"


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (KeyboardInterrupt(), "hilum: Stopped. What was computed is kept"),
        (KeyboardInterrupt("Stopped: 7 of 9 new images are kept."), "hilum: Stopped: 7 of 9 new images are kept."),
    ],
)
def test_ctrl_c_tells_what_the_stopped_step_says(stop: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any) -> None:
        raise stop

    monkeypatch.setattr("hilum.study.spec.load_study", stopped)
    outcome = hospitals.hilum("study", "study.yaml")
    assert outcome.status == 130
    assert outcome.err.startswith(told)
    assert len(outcome.err.splitlines()) == 1


def test_main_lets_a_bug_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("hilum.study.spec.load_study", bug)
    monkeypatch.setattr(sys, "argv", ["hilum", "study", "study.yaml"])
    with pytest.raises(ZeroDivisionError):
        main()
