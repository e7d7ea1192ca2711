"""Kermany: the patient and the cause in the file name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from hilum.cli.app import app
from hilum.databases.kermany import _NAMES, Kermany, _patient_and_cause

number = st.integers(1, 9999)


@pytest.fixture
def root(tmp_path):
    Kermany.write_replica(tmp_path)
    return tmp_path


def read_name(kind, name):
    return _patient_and_cause(_NAMES[kind].fullmatch(name))


@given(number, number, st.sampled_from(["bacteria", "virus"]))
def test_patient_of_a_pneumonia(person, image, cause):
    assert read_name("PNEUMONIA", f"person{person}_{cause}_{image}.jpeg") == (f"person{person}", cause)


@given(number, st.lists(number, min_size=1, max_size=2), st.sampled_from(["", "NORMAL2-"]))
def test_patient_of_a_normal(patient, images, numbering):
    tail = "".join(f"-{image:04d}" for image in images)
    found = read_name("NORMAL", f"{numbering}IM-{patient:04d}{tail}.jpeg")
    assert found == (f"{numbering}IM-{patient:04d}", "NORMAL")


def test_bacteria_and_virus_of_one_person_are_one_patient(root):
    manifest = Kermany.read(root)
    rows = manifest.images["patientid"] == "person4"
    assert manifest.labels.loc[rows].values.tolist() == [[1, 0, 1, 0], [1, 0, 0, 1]]
    assert list(manifest.labels) == ["Pneumonia", "No Finding", "Bacterial Pneumonia", "Viral Pneumonia"]


def test_patients_across_folders_and_numberings(root):
    images = Kermany.read(root).images
    assert images["patientid"].nunique() == 14
    counts = images["patientid"].value_counts()
    assert counts[["IM-0115", "IM-0116", "NORMAL2-IM-0116", "person1", "person7"]].tolist() == [2, 1, 1, 2, 2]
    assert images["official_split"].isna().all()


def test_normal_is_negative_for_every_pneumonia(root):
    manifest = Kermany.read(root)
    normal = manifest.images["patientid"].str.contains("IM")
    assert (manifest.labels.loc[normal] == [0, 1, 0, 0]).all(axis=None)


def test_a_repeated_file_name_is_told_apart_by_its_folder(root):
    ids = set(Kermany.read(root).images["image_id"])
    assert {f"{part}/NORMAL/NORMAL2-IM-1427-0001.jpeg" for part in ("train", "test")} <= ids
    assert "person1_bacteria_1.jpeg" in ids


def test_the_root_may_be_chest_xray_itself(root):
    parent, inner = Kermany.read(root), Kermany.read(root / "chest_xray")
    assert inner.images["image_id"].equals(parent.images["image_id"])
    assert all(path.is_file() for path in inner.paths())


def test_a_file_without_a_patient_is_left_out(root):
    folder = root / "chest_xray" / "train" / "PNEUMONIA"
    (folder / "person1_bacteria_1.jpeg").rename(folder / "scan.jpeg")
    (folder / ".DS_Store").touch()
    manifest = Kermany.read(root)
    assert len(manifest) == 19
    assert [p.where for p in manifest.problems] == ["train/PNEUMONIA/scan.jpeg"]


def test_data_check_says_how_many_views_are_unknown(root):
    result = CliRunner().invoke(app, ["data", "check", "kermany", str(root)])
    assert "views: unknown 20\n" in result.output
