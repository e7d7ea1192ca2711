"""What ``data check`` says of images: those that cannot be used, and those that several patients have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from hilum.databases import DATABASES
from hilum.databases.manifest import Manifest
from hilum.images.check import shared, unreadable


def check(manifest: Manifest) -> list[str]:
    return [str(p) for p in unreadable(manifest.paths(), manifest.places(), list(manifest.images["patientid"]))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    DATABASES.load("folder").write_replica(tmp_path)
    return tmp_path


def test_a_row_is_that_of_the_label_file(root: Path) -> None:
    """Also after a row whose image is not on disk, which the manifest leaves out."""
    names = pd.read_csv(root / "labels.csv")["image"]
    (root / names[0]).unlink()
    (root / names[3]).write_bytes(b"")
    assert check(DATABASES.load("folder").read(root)) == [f"labels.csv row 5 ({names[3]}): empty file"]


def test_a_database_without_a_table_numbers_its_images(tmp_path: Path) -> None:
    DATABASES.load("kermany").write_replica(tmp_path)
    manifest = DATABASES.load("kermany").read(tmp_path)
    manifest.paths()[4].write_bytes(b"")
    assert check(manifest) == [f"image 5 of {len(manifest)} ({manifest.images['path'][4]}): empty file"]


@pytest.mark.parametrize("name", ["folder", "nih14", "hannover"])
def test_every_image_of_a_table_has_its_row(name: str, tmp_path: Path) -> None:
    DATABASES.load(name).write_replica(tmp_path)
    manifest = DATABASES.load(name).read(tmp_path)
    assert len(manifest.rows) == len(manifest)
    assert manifest.rows[0].endswith(".csv row 2")


def test_an_image_of_two_patients_is_told_and_one_of_the_same_patient_is_not(root: Path) -> None:
    manifest = DATABASES.load("folder").read(root)
    paths, places, patients = manifest.paths(), manifest.places(), list(manifest.images["patientid"])
    assert patients[0] == patients[1] != patients[2]
    shutil.copy(paths[0], paths[1])
    assert check(manifest) == []
    shutil.copy(paths[0], paths[2])
    assert check(manifest) == [f"{places[row]}: the same image as {places[0]}, of another patient" for row in (1, 2)]
    assert unreadable(paths, places) == []


def test_files_without_content_are_not_the_same() -> None:
    assert shared(["", "", "a", "b", "a", "b"], [1, 2, 3, 4, 3, 5]) == [[3, 5]]
