"""Bad input: one clear message without a traceback or a patient's id, and what was computed is kept."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hospitals
from hilum.training.loop import LocalTrainer
from hospitals import Outcome, hilum, write_hospital, write_study

pytestmark = pytest.mark.usefixtures("unmeasured")

SMALL = ("--set", "arms=[federated]", "--set", "seeds=[0]")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def run(study: Path, *options: str) -> Outcome:
    outcome = hilum("study", study, "--out", study.parent / "run", *SMALL, *options)
    assert "Traceback" not in outcome.err
    assert "secret" not in outcome.err + outcome.out
    return outcome


def refused(study: Path, *told: str, options: tuple[str, ...] = ()) -> str:
    """Run a study that must be refused; return what it prints."""
    outcome = run(study, *options)
    assert outcome.status == 1, outcome
    assert outcome.err.startswith("hilum: ")
    assert [text for text in told if text not in outcome.err] == [], outcome.err
    return outcome.err


def edit(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame], name: str = "labels.csv") -> None:
    """Rewrite a table of a hospital."""
    change(pd.read_csv(root / name, dtype=str)).to_csv(root / name, index=False)


def records(study: Path, kind: str = "classification") -> list[dict[str, Any]]:
    return json.loads((study.parent / "run/metrics.json").read_text())[kind]


# An empty study


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("name: x\nfindings: [Nodule]\nsites: {}\n", "sites:"),
        ("name: x\nfindings: []\nsites: {a: {database: folder, root: north}}\n", "findings:"),
        ("name: x\nsites: {a: {database: folder, root: north}}\n", "findings: expected this key; found none"),
    ],
)
def test_empty_study(text: str, told: str, study: Path) -> None:
    study.write_text(text)
    outcome = hilum("study", study, "--out", study.parent / "run")
    assert outcome.status == 1
    assert told in outcome.err
    assert not (study.parent / "run").exists()


def test_mistake_can_be_corrected_in_place(study: Path) -> None:
    """A study that failed before it computed anything does not block its directory."""
    text = study.read_text()
    study.write_text(text.replace("root: south", "root: nowhere"))
    refused(study, "folder: expected a folder at", "nowhere")
    study.write_text(text)
    assert run(study).status == 0


def test_directory_with_other_files_is_not_used(study: Path) -> None:
    (study.parent / "run").mkdir()
    (study.parent / "run/thesis.tex").write_text("")
    refused(study, "Expected an empty directory")


# A site with no images, one image, one class, no labels


def test_site_without_images(study: Path) -> None:
    edit(study.parent / "south", lambda t: t.iloc[:0])
    refused(study, "folder: expected images in the label file", "found only its header")


def test_site_whose_images_are_all_absent(study: Path) -> None:
    shutil.rmtree(study.parent / "south/images")
    refused(study, "found none of the 32 listed")


def test_site_with_one_training_image(study: Path) -> None:
    """It trains; it has no test patient, so nobody is tested there."""
    edit(study.parent / "south", lambda t: t[t["split"] == "train"].iloc[:1])
    assert run(study).status == 0
    assert {r["site"] for r in records(study)} == {"north", "east", "macro"}
    sites = {s["name"]: s for s in json.loads((study.parent / "run/sites.json").read_text())}
    assert sites["south"]["splits"]["test"] == {"images": 0, "patients": 0}


def test_site_with_one_test_image(study: Path) -> None:
    edit(study.parent / "south", lambda t: t[t["split"] == "test"].iloc[:1])
    refused(study, "Site 'south': expected at least one training patient; found 1 patients (1 images)")


def test_outside_site_with_one_image(study: Path) -> None:
    edit(study.parent / "east", lambda t: t.iloc[:1])
    assert run(study).status == 0
    assert {r["value"] for r in records(study) if r["site"] == "east"} == {None}


def test_one_class_at_one_site_is_legal(study: Path) -> None:
    """South has nodules only: it trains, and the figures of its test patients do not exist."""
    edit(study.parent / "south", lambda t: t.assign(Nodule="1"))
    assert run(study).status == 0
    south = [r for r in records(study) if (r["site"], r["finding"]) == ("south", "Nodule")]
    assert {r["metric"] for r in south} == {"auroc", "average_precision"}
    assert [(r["value"], r["low"], r["n"], r["positives"]) for r in south if r["metric"] == "auroc"] == [
        (None, None, 8, 8)
    ] * 2
    assert all(r["value"] is not None for r in records(study) if (r["site"], r["finding"]) == ("north", "Nodule"))


def test_one_class_over_all_sites_is_refused(study: Path) -> None:
    edit(study.parent / "north", lambda t: t.assign(Effusion="0"))
    refused(study, "positive and negative training images of 'Effusion' over all sites; found 0 positive", "Remove it")


def test_no_labels_of_any_finding(study: Path) -> None:
    edit(study.parent / "south", lambda t: t.drop(columns="Nodule").assign(Mass="1"))
    refused(study, "Site 'south'", "(Nodule, Effusion); found labels of Mass", "Change 'findings'")


def test_no_labels_among_training_patients(study: Path) -> None:
    edit(study.parent / "south", lambda t: t.assign(Nodule=t["Nodule"].where(t["split"] == "test")))
    refused(study, "Site 'south': expected training images with labels")


def test_no_column_of_any_finding(study: Path) -> None:
    edit(study.parent / "south", lambda t: t.drop(columns="Nodule"))
    refused(study, "expected a column named after a finding in 'labels.csv'")


# Patients and images in two places


def test_patient_in_two_sites(study: Path) -> None:
    def move(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, "patient"] = "north-secret3"
        return table

    edit(study.parent / "south", move)
    refused(study, "'north' and 'south' share 1 patients and 0 identical images", "Remove them from one site")


def test_image_in_two_sites(study: Path) -> None:
    shutil.copy(study.parent / "north/images/north05.png", study.parent / "east/images/east05.png")
    refused(study, "'north' and 'east' share 0 patients and 1 identical images")


def test_image_of_two_patients(study: Path) -> None:
    images = study.parent / "north/images"
    shutil.copy(images / "north05.png", images / "north09.png")
    refused(
        study,
        "Site 'north': expected every image to be of one patient; found 1 that several patients have",
        "  labels.csv row 7 (images/north05.png), labels.csv row 11 (images/north09.png)\n",
        "Keep one of each",
    )


def test_image_twice_of_one_patient(study: Path) -> None:
    images = study.parent / "north/images"
    shutil.copy(images / "north04.png", images / "north05.png")
    assert run(study).status == 0


def test_patient_in_two_splits(study: Path) -> None:
    def move(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[0, "split"] = "test"
        return table

    edit(study.parent / "north", move)
    refused(study, "expected every patient in one split", "rows 2, 3")


def test_duplicate_image_ids(study: Path) -> None:
    edit(study.parent / "north", lambda t: pd.concat([t, t.iloc[[4]]]))
    refused(study, "expected one row an image in 'labels.csv'; found repeated images in the rows 6, 34")


# Columns and boxes


def test_missing_column(study: Path) -> None:
    edit(study.parent / "north", lambda t: t.drop(columns="patient"))
    refused(study, "Expected a column \"patient\" in 'labels.csv'; found image, split, Nodule, Effusion")


def test_renamed_column(study: Path) -> None:
    edit(study.parent / "north", lambda t: t.rename(columns={"patient": "patient_id"}))
    refused(study, 'Expected a column "patient"', 'found "patient_id"; rename it')


def test_misspelt_finding(study: Path) -> None:
    edit(study.parent / "north", lambda t: t.rename(columns={"Effusion": "Efusion"}))
    refused(study, 'Did you mean "Effusion"?')


def test_label_that_is_no_label(study: Path) -> None:
    def spoil(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[3, "Nodule"] = "yes"
        return table

    edit(study.parent / "north", spoil)
    refused(study, 'in the column "Nodule"', "found 'yes' (rows 5)")


def test_box_outside_its_image(study: Path) -> None:
    """It is left out, told as a problem, and the study runs on the others."""

    def move(boxes: pd.DataFrame) -> pd.DataFrame:
        boxes.loc[0, ["x0", "x1"]] = ["900", "950"]
        return boxes

    edit(study.parent / "east", move, "boxes.csv")
    assert run(study).status == 0
    sites = {s["name"]: s for s in json.loads((study.parent / "run/sites.json").read_text())}
    assert sites["east"]["boxes"] == {"Nodule": 5}
    assert sites["east"]["problems"] == [{"reason": "box outside its image", "count": 1}]
    assert "has no area inside the image" in hilum("data", "check", "folder", study.parent / "east").out


def test_box_that_is_no_number(study: Path) -> None:
    edit(study.parent / "east", lambda t: t.assign(x0="left"), "boxes.csv")
    refused(study, "expected a number of pixels in the column \"x0\" of 'boxes.csv'; found 'left'")


# Files that are absent or cannot be read


def spoil_three(root: Path) -> None:
    (root / "images" / f"{root.name}00.png").unlink()
    (root / "images" / f"{root.name}01.png").write_bytes(b"no image")
    Image.fromarray(np.full((40, 40), 9, np.uint8)).save(root / "images" / f"{root.name}02.png")


def test_absent_files_are_refused_with_row_and_reason(study: Path) -> None:
    for k in range(9):
        (study.parent / f"south/images/south{k:02d}.png").unlink()
    told = refused(
        study,
        "Site 'south': expected every listed image on disk; found 9 that are not:",
        "labels.csv row 2: the image 'images/south00.png' is not on disk\n",
        "and 4 more",
        "`on_error: leave_out`",
        "the other 23",
    )
    assert len(told.splitlines()) == 8


def test_unreadable_files_are_refused_with_row_and_reason(study: Path) -> None:
    spoil_three(study.parent / "south")
    (study.parent / "south/images/south00.png").write_bytes(b"")
    refused(
        study,
        "south: images: expected 32 readable images; found 3 that are not:",
        "labels.csv row 2 (images/south00.png): empty file",
        "labels.csv row 3 (images/south01.png): wrong format",
        "labels.csv row 4 (images/south02.png): constant image",
        "on_error: leave_out",
    )


def test_left_out_files_are_counted(study: Path) -> None:
    spoil_three(study.parent / "south")
    assert run(study, "--set", "sites.south.on_error=leave_out").status == 0
    sites = {s["name"]: s for s in json.loads((study.parent / "run/sites.json").read_text())}
    assert sites["south"]["images"] == 29
    assert sites["south"]["left_out"] == [
        {"reason": "image not on disk", "count": 1},
        {"reason": "wrong format", "count": 1},
        {"reason": "constant image", "count": 1},
    ]
    assert sites["north"]["left_out"] == []
    report = (study.parent / "run/report.html").read_text()
    assert "image not on disk" in report
    assert "secret" not in report


def test_names_in_files_and_cells_stay_where_they_are(study: Path) -> None:
    """``data check`` tells them; sites.json and the report, which travel, hold kinds and counts."""
    root = study.parent / "south"
    files = {k: f"images/MUELLER Hans 1950-03-0{k}.png" for k in range(4)}
    for k, name in files.items():
        (root / f"images/south0{k}.png").rename(root / name)
    (root / files[0]).unlink()
    (root / files[1]).write_bytes(b"no image")

    def name_them(table: pd.DataFrame) -> pd.DataFrame:
        table["image"] = [files.get(k, name) for k, name in enumerate(table["image"])]
        return table.assign(view="Hans Mueller", age_years="Mueller, Hans", **{"Dr Mueller Hans": ""})

    edit(root, name_them)
    edit(root, lambda t: t.assign(image=files[0], x0="900", x1="950"), "boxes.csv")
    assert run(study, "--set", "sites.south.on_error=leave_out").status == 0
    written = [(study.parent / "run" / name).read_text() for name in ("sites.json", "report.html")]
    for text in written:
        assert [word for word in ("hans", "mueller", "1950") if word in text.casefold()] == []
    south = json.loads(written[0])[1]
    assert {one["reason"]: one["count"] for one in south["left_out"]} == {"image not on disk": 1, "wrong format": 1}
    assert {one["reason"]: one["count"] for one in south["problems"]} == {
        "column not a finding": 1,
        "age not plausible": 31,
        "view not recognized": 31,
        "box or mask of an image that is not read": 16,
    }
    checked = hilum("data", "check", "folder", root).out
    assert "MUELLER Hans 1950-03-01.png" in checked
    assert "found 'Hans Mueller'" in checked


def test_many_absent_files_are_all_counted(study: Path) -> None:
    for k in range(2, 32):
        (study.parent / f"south/images/south{k:02d}.png").unlink()
    assert run(study, "--set", "images.on_error=leave_out").status == 0
    sites = {s["name"]: s for s in json.loads((study.parent / "run/sites.json").read_text())}
    assert (sites["south"]["images"], sites["south"]["left_out"]) == (
        2,
        [{"reason": "image not on disk", "count": 30}],
    )


# A loss that is not finite


def test_loss_that_is_not_finite(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds before are kept, and the run goes on once the cause is gone."""
    assert run(study, "--set", "training.rounds=3").status == 0
    expected = (study.parent / "run/metrics.json").read_bytes()
    shutil.rmtree(study.parent / "run")
    update, calls = LocalTrainer._update, 0

    def spoilt(trainer: LocalTrainer, *arguments: Any) -> float:
        nonlocal calls
        calls += 1
        loss = trainer.loss
        trainer.loss = lambda logits, targets: loss(logits, targets) * (float("nan") if calls > 6 else 1)
        return update(trainer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LocalTrainer, "_update", spoilt)
        refused(
            study,
            "Expected a finite loss; found nan at 'south' in round 2 (seed 0)",
            "Earlier rounds are kept",
            options=("--set", "training.rounds=3"),
        )
    assert (study.parent / "run/rounds/seed_0/federated/federated/round_0001/state.json").is_file()
    assert run(study, "--set", "training.rounds=3", "--resume").status == 0
    assert (study.parent / "run/metrics.json").read_bytes() == expected


def test_rate_that_diverges(study: Path) -> None:
    refused(
        study,
        "finite",
        options=("--set", "training.optimizer.lr=1.0e+30", "--set", "training.optimizer.name=sgd"),
    )


# A full disk


class FullDisk:
    """Writes fail with ENOSPC from the k-th on whose path, as /proc tells it, holds a text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, holds: str, after: int = 0) -> None:
        self.holds, self.left, self.fsync, self.pwrite = holds, after, os.fsync, os.pwrite
        monkeypatch.setattr(os, "fsync", lambda file: (self.check(file), self.fsync(file))[1])
        monkeypatch.setattr(os, "pwrite", lambda file, *rest: (self.check(file), self.pwrite(file, *rest))[1])

    def check(self, file: int) -> None:
        if self.holds in str(Path(f"/proc/self/fd/{file}").readlink()):
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("holds", "after", "told"),
    [
        ("pixels.u8", 3, "are kept; free some space"),
        ("study.yaml", 0, "the disk is full"),
        ("server.safetensors", 1, "the disk is full"),
        ("metrics.jsonl", 1, "the disk is full"),
        ("model.safetensors", 0, "the disk is full"),
        ("/run/predictions/", 1, "the disk is full"),
        (".npz", 1, "the disk is full"),
        ("metrics.json.", 0, "the disk is full"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the file behind a descriptor is told by /proc alone")
def test_full_disk(
    holds: str, after: int, told: str, study: Path, tiny_run: Path, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message; after room is made the run goes on to the result of one that never stopped."""
    with monkeypatch.context() as patched:
        FullDisk(patched, holds, after)
        err = refused(study, told)
    assert len(err.splitlines()) == 1
    assert "free some space" in err
    assert run(study, "--resume").status == 0
    assert not list((study.parent / "run").rglob(".*.tmp"))
    weights = "models/seed_0/federated/federated/model.safetensors"
    assert (study.parent / "run" / weights).read_bytes() == (tiny_run / weights).read_bytes()
    predictions = "predictions/seed_0/federated/federated/south.csv"
    assert (study.parent / "run" / predictions).read_bytes() == (tiny_run / predictions).read_bytes()
    lines = [json.loads(line) for line in (study.parent / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the file behind a descriptor is told by /proc alone")
def test_full_disk_of_the_report(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr("hilum.report.page.NamedTemporaryFile", full)
    outcome = hilum("report", tiny_run)
    assert outcome.status == 1
    assert outcome.err == (
        "hilum: The disk is full (report.html). What was computed is kept: free some space and repeat the command.\n"
    )


# Ctrl-C


@pytest.mark.parametrize("where", ["hilum.images.cache.normalize", "hilum.training.loop.torch_generator"])
def test_ctrl_c(where: str, study: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it caches and while it trains; see also test_resume."""
    module, _, name = where.rpartition(".")
    original, calls = getattr(importlib.import_module(module), name), 0

    def stop_at_third(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(where, stop_at_third)
        outcome = run(study)
    assert outcome.status == 130
    assert outcome.err.startswith("hilum: Stopped")
    assert len(outcome.err.splitlines()) == 1
    assert run(study, "--resume").status == 0
    weights = "models/seed_0/federated/federated/model.safetensors"
    assert (study.parent / "run" / weights).read_bytes() == (tiny_run / weights).read_bytes()


def test_hospital_of_one_patient_without_a_split_is_told(tmp_path: Path) -> None:
    """With drawn splits a tiny hospital may have nobody to train on."""
    study = write_study(tmp_path)
    shutil.rmtree(tmp_path / "south")
    write_hospital(tmp_path / "south", 2, ("Nodule",), split=False)
    text = hospitals.STUDY + "split: {test: 0.98, val: 0.01}\n"
    study.write_text(text)
    refused(study, "Site 'south': expected at least one training patient", "role 'outside'")
