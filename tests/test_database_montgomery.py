"""Montgomery: the label in the file name, age and sex in the readings, masks of both lungs."""

import numpy as np
import pytest
from PIL import Image

from hilum.databases.montgomery import FOLDER, IMAGES, MASKS, READINGS, Montgomery
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    Montgomery.write_replica(tmp_path)
    return tmp_path


def columns(root, masks, finding):
    path = masks.loc[masks["finding"] == finding, "path"].iloc[0]
    with Image.open(root / path) as image:
        return np.flatnonzero(np.asarray(image).any(axis=0)).mean() / image.width


def test_label_patient_age_sex_and_view(root):
    manifest = Montgomery.read(root)
    assert manifest.labels["Tuberculosis"].tolist() == [1.0, 0.0] * 7
    assert (manifest.labels["No Finding"] == 1 - manifest.labels["Tuberculosis"]).all()
    columns = ["image_id", "patientid", "view", "age_years", "sex_male"]
    assert manifest.images.loc[2, columns].tolist() == ["MCUCXR_0003_1.png", "0003", "PA", 23.0, 0.0]
    assert manifest.images["sex_male"].tolist()[:2] == [1.0, 0.0]


def test_the_reading_is_kept(root):
    assert Montgomery.read(root).extra["reading"].tolist()[:2] == ["improved right upper infiltrate", "normal"]


@pytest.mark.parametrize(
    ("text", "age", "male", "reading"),
    [
        ("Patient's Sex: F                    \nPatient's Age: 026Y\nnormal", 26.0, 0.0, "normal"),
        ("Patient's Sex: M\r\nPatient's Age: 006M\r\nTB\r\nleft", 0.5, 1.0, "TB\r\nleft"),
        ("PATIENT'S SEX: m\nPATIENT'S AGE: 80\n", 80.0, 1.0, ""),
    ],
)
def test_readings(root, text, age, male, reading):
    (root / READINGS / "MCUCXR_0001_1.txt").write_bytes(text.encode())
    manifest = Montgomery.read(root)
    assert manifest.images.loc[0, ["age_years", "sex_male"]].tolist() == [age, male]
    assert manifest.extra["reading"][0].split() == reading.split()
    assert manifest.problems == ()


def test_readings_are_optional_and_gaps_are_problems(root):
    (root / READINGS / "MCUCXR_0001_1.txt").write_text("normal\n")
    (root / READINGS / "MCUCXR_0002_0.txt").unlink()
    (root / READINGS / "MCUCXR_0003_1.txt").write_text("Patient's Sex: F\nPatient's Age: 430Y\n")
    manifest = Montgomery.read(root)
    assert manifest.images["age_years"].isna().tolist() == [True, True, True, *[False] * 11]
    assert manifest.images["sex_male"].isna().tolist() == [True, True, *[False] * 12]
    assert manifest.extra["reading"][0] == "normal"
    assert [(p.kind, p.where.split()[-1]) for p in manifest.problems] == [
        ("reading without an age or a sex", f"{READINGS}/MCUCXR_0001_1.txt"),
        ("age not plausible", "MCUCXR_0003_1.txt"),
    ]


def test_masks_are_named_after_the_side_of_the_patient(root):
    masks = Montgomery.read(root).masks
    assert masks["finding"].value_counts().to_dict() == {"Left Lung": 14, "Right Lung": 14}
    assert masks["path"][0] == "ManualMask/leftMask/MCUCXR_0001_1.png"
    assert columns(root, masks, "Left Lung") > 0.5 > columns(root, masks, "Right Lung")


def test_masks_named_after_the_side_of_the_image_are_turned(root):
    left, right = (root / folder for folder in MASKS)
    left.rename(root / "other")
    right.rename(left)
    (root / "other").rename(right)
    masks = Montgomery.read(root).masks
    assert masks.loc[masks["finding"] == "Right Lung", "path"].str.startswith(MASKS[0]).all()
    assert columns(root, masks, "Left Lung") > 0.5 > columns(root, masks, "Right Lung")


def test_masks_that_are_not_on_disk_are_not_listed(root):
    (root / MASKS[1] / "MCUCXR_0001_1.png").unlink()
    masks = Montgomery.read(root).masks
    assert masks["image_id"].value_counts()["MCUCXR_0001_1.png"] == 1
    for file in sorted(root.glob("ManualMask/*/*")):
        file.unlink()
    assert len(Montgomery.read(root).masks) == 0


def test_a_damaged_mask_is_an_error(root):
    (root / MASKS[0] / "MCUCXR_0001_1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^montgomery: expected a mask"):
        Montgomery.read(root)


def test_the_root_may_be_the_parent(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    root.rename(parent / FOLDER)
    assert len(Montgomery.read(parent)) == 14


def test_other_files_are_left_out(root):
    image = root / IMAGES / "MCUCXR_0001_1.png"
    (root / IMAGES / "Thumbs.db").touch()
    image.rename(image.with_name("MCUCXR_0001_2.png"))
    manifest = Montgomery.read(root)
    assert (len(manifest), len(manifest.masks)) == (13, 26)
    assert [p.where for p in manifest.problems] == [f"{IMAGES}/MCUCXR_0001_2.png"]


def test_no_image_says_where_they_are_given(root):
    for image in sorted((root / IMAGES).iterdir()):
        image.unlink()
    with pytest.raises(DataError, match=r"^montgomery: expected images named .*given at https://openi"):
        Montgomery.read(root)
