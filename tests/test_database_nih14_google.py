"""Google's labels of ChestX-ray14: two sets of labels, answers of readers, the joined table, NIH's images."""

import numpy as np
import pandas as pd
import pytest

from hilum.databases.nih14 import FINDINGS_14
from hilum.databases.nih14_google import ABNORMAL, BUCKET, FOLDERS, JOINED, NIH14Google
from hilum.errors import DataError

FOUR, ALL = FOLDERS["four"], FOLDERS["all"]


@pytest.fixture
def root(tmp_path):
    NIH14Google.write_replica(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_four_findings_in_our_names(root):
    manifest = NIH14Google.read(root)
    assert list(manifest.labels) == ["Fracture", "Pneumothorax", "Lung Opacity", "Nodule/Mass"]
    assert manifest.labels.iloc[0].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert manifest.rows[0] == "test_labels.csv row 2"


def test_image_and_patient_are_those_of_the_nih(root):
    row = NIH14Google.read(root).images.iloc[0]
    assert row[["image_id", "patientid", "view", "age_years", "sex_male", "official_split"]].tolist() == [
        *("00000001_000.png", "1", "PA", 31.0, 0.0, "test")
    ]
    assert row[["origin", "origin_patientid"]].tolist() == ["nih14/00000001_000.png", "nih14/1"]


def test_the_two_tables_are_the_official_split(root):
    assert NIH14Google.read(root).images["official_split"].value_counts().to_dict() == {"test": 12, "val": 6}
    (root / FOUR / "test_labels.csv").unlink()
    manifest = NIH14Google.read(root)
    assert manifest.images["official_split"].value_counts().to_dict() == {"val": 6}
    (problem,) = manifest.problems
    assert problem.where == f"{FOUR}/test_labels.csv"
    assert "cloud.google.com" in problem.reason


def test_an_image_without_an_answer_is_unknown(root):
    edit(root / FOUR / "test_labels.csv", "31,F,PA,NO,NO,YES,NO", "31,F,PA,NO,NO,,NO")
    manifest = NIH14Google.read(root)
    assert np.isnan(manifest.labels["Lung Opacity"][0])
    assert manifest.labels.isna().sum().sum() == 1


def test_hedge_is_uncertain(root):
    edit(root / FOUR / "test_labels.csv", "31,F,PA,NO,NO,YES,NO", "31,F,PA,NO,HEDGE,YES,NO")
    assert NIH14Google.read(root).labels["Pneumothorax"][0] == -1


def test_answers_of_the_readers_are_counted(root):
    extra = NIH14Google.read(root).extra
    assert extra["Finding Labels"].eq("No Finding").all()
    assert extra["readers"].eq(3).all()
    assert extra.loc[0, ["Lung Opacity: yes", "Nodule/Mass: yes", "Nodule/Mass: hedge"]].tolist() == [3, 0, 1]
    (root / FOUR / "individual_readers.csv").unlink()
    manifest = NIH14Google.read(root)
    assert list(manifest.extra) == ["Finding Labels"]
    assert [problem.where for problem in manifest.problems] == [f"{FOUR}/individual_readers.csv"]


def test_all_findings_of_810_images(root):
    manifest = NIH14Google.read(root, findings="all")
    assert list(manifest.labels) == [*FINDINGS_14, "No Finding"]
    assert manifest.labels.notna().all(axis=None)
    healthy = manifest.labels["No Finding"] == 1
    assert (manifest.labels.loc[healthy, list(FINDINGS_14)] == 0).all(axis=None)
    assert 0 < healthy.sum() < len(manifest)
    assert set(manifest.images["view"]) == {"PA"}
    assert set(manifest.images["official_split"]) == {"test"}
    assert manifest.extra["Other"].eq("NO").all()


def test_normal_may_be_told_in_words(root):
    table = root / ALL / "test_labels.csv"
    frame = pd.read_csv(table, dtype=str)
    frame[ABNORMAL] = frame[ABNORMAL].map({"1": "YES", "0": "NO"})
    expected = NIH14Google.read(root, findings="all").labels
    frame.to_csv(table, index=False)
    assert NIH14Google.read(root, findings="all").labels.equals(expected)


def test_an_unknown_set_is_an_error(root):
    with pytest.raises(DataError, match=r"^nih14_google: expected the option 'findings' .*four, all; found 'six'"):
        NIH14Google.read(root, findings="six")


def test_the_sex_may_be_called_so(root):
    edit(root / FOUR / "test_labels.csv", "Patient Gender", "Patient Sex")
    assert NIH14Google.read(root).images["sex_male"].notna().all()


@pytest.mark.parametrize("folder", [FOUR, "."])
def test_tables_may_have_the_folder_in_their_name(root, folder):
    expected = NIH14Google.read(root)
    for file in sorted((root / FOUR).iterdir()):
        file.rename(root / folder / f"{FOUR}_{file.name}")
    manifest = NIH14Google.read(root)
    assert manifest.images.equals(expected.images)
    assert manifest.extra.equals(expected.extra)


def test_tables_may_lie_in_the_folder_of_the_bucket(root):
    expected = NIH14Google.read(root)
    (root / BUCKET).mkdir()
    (root / FOUR).rename(root / BUCKET / FOUR)
    assert NIH14Google.read(root).images.equals(expected.images)


def test_the_joined_table_is_read_where_there_is_no_other(root):
    expected = NIH14Google.read(root)
    parts = [pd.read_csv(root / FOUR / name, dtype=str) for name in ("test_labels.csv", "validation_labels.csv")]
    for file in sorted((root / FOUR).iterdir()):
        file.unlink()
    pd.concat(parts).to_csv(root / JOINED, index=False)
    manifest = NIH14Google.read(root)
    assert manifest.images.equals(expected.images)
    assert manifest.labels.equals(expected.labels)
    assert manifest.problems == ()
    (root / ALL / "test_labels.csv").unlink()
    with pytest.raises(DataError, match=r"^nih14_google: expected the file 'all_findings_expert_labels"):
        NIH14Google.read(root, findings="all")


def test_images_may_lie_in_the_parts_of_the_download(root):
    (root / "images_001" / "images").mkdir(parents=True)
    for image in sorted((root / "images").iterdir())[:5]:
        image.rename(root / "images_001" / "images" / image.name)
    manifest = NIH14Google.read(root)
    assert (len(manifest), manifest.problems) == (18, ())
    assert all(path.is_file() for path in manifest.paths())


def test_a_partial_download_leaves_rows_out(root):
    (root / "images" / "00000001_001.png").unlink()
    manifest = NIH14Google.read(root)
    assert len(manifest) == len(manifest.extra) == len(manifest.rows) == 17
    assert [p.kind for p in manifest.problems] == ["image not on disk"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Airspace opacity", "Airspace", 'column "Airspace opacity" .*found "Airspace"; rename it'),
        ("31,F,PA,NO,NO,YES,NO", "31,F,PA,NO,NO,MAYBE,NO", 'YES, NO or HEDGE under "Airspace opacity" .* rows 2'),
        ("00000001_000.png,", ",", '"Image Index" in every row'),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    edit(root / FOUR / "test_labels.csv", old, new)
    with pytest.raises(DataError, match=f"^nih14_google: .*{message}"):
        NIH14Google.read(root)


def test_missing_tables_say_where_they_are_given(root):
    for file in sorted((root / FOUR).iterdir()):
        file.unlink()
    with pytest.raises(DataError, match=r"^nih14_google: expected the file .*google2019.* given at https://cloud"):
        NIH14Google.read(root)
