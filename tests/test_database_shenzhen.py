"""Shenzhen: the label in the file name, age and sex in the readings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.databases.shenzhen import Shenzhen, _age_and_sex


@pytest.fixture
def root(tmp_path):
    Shenzhen.write_replica(tmp_path)
    return tmp_path


def test_label_patient_age_and_sex(root):
    manifest = Shenzhen.read(root)
    assert manifest.labels["Tuberculosis"].tolist() == [1.0, 0.0] * 7
    assert (manifest.labels["No Finding"] == 1 - manifest.labels["Tuberculosis"]).all()
    first = manifest.images.iloc[2]
    assert first[["image_id", "patientid", "age_years", "sex_male"]].tolist() == [
        "CHNCXR_0003_1.png",
        "0003",
        23.0,
        0.0,
    ]
    assert manifest.images[["view", "official_split"]].isna().all(axis=None)


@given(st.integers(0, 120), st.sampled_from(["{} {}yrs", "{}, {} years", "{}  {}yr", "{} {}Y"]), st.booleans())
def test_reading_lines(years, form, male):
    line = form.format("Male" if male else "female", years)
    assert _age_and_sex(line) == (years, float(male))


def test_reading_lines_of_children_and_gaps():
    assert _age_and_sex("female 6 months") == (0.5, 0.0)
    assert _age_and_sex("male 10days") == (10 / 365.25, 1.0)
    for line in ("", "normal", "male 430yrs"):
        assert np.isnan(_age_and_sex(line)[0])


def test_readings_are_optional_and_gaps_are_problems(root):
    (root / "ClinicalReadings" / "CHNCXR_0001_1.txt").write_text("PTB\n")
    (root / "ClinicalReadings" / "CHNCXR_0002_0.txt").unlink()
    (root / "ClinicalReadings" / "CHNCXR_0004_0.txt").write_text("")
    manifest = Shenzhen.read(root)
    assert manifest.images["age_years"].isna().tolist() == [True, True, False, True, *[False] * 10]
    assert [p.where for p in manifest.problems] == [
        "ClinicalReadings/CHNCXR_0001_1.txt",
        "ClinicalReadings/CHNCXR_0004_0.txt",
    ]


def test_other_files_are_left_out(root):
    image = root / "CXR_png" / "CHNCXR_0001_1.png"
    (root / "CXR_png" / "Thumbs.db").touch()
    (root / "CXR_png" / ".hidden").touch()
    image.rename(image.with_name("CHNCXR_0001_2.png"))
    (root / "mask").mkdir()
    (root / "mask" / "CHNCXR_0002_0_mask.png").touch()
    manifest = Shenzhen.read(root)
    assert (len(manifest), len(manifest.masks)) == (13, 0)
    assert [p.where for p in manifest.problems] == ["CXR_png/CHNCXR_0001_2.png"]
