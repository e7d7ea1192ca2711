"""A hospital's own folder: every documented column, and every error of it."""

import numpy as np
import pandas as pd
import pytest

from hilum.databases.folder import Folder, read_folder
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    Folder.write_replica(tmp_path)
    return tmp_path


def labels_of(root):
    return pd.read_csv(root / "labels.csv", dtype=object)


def rewrite(root, table, file="labels.csv"):
    table.to_csv(root / file, index=False)


def test_documented_columns_are_read(root):
    table = labels_of(root)
    table["split"] = ["train"] * 10 + ["test"] * 10
    table.loc[0, "Pneumonia"] = ""
    table.loc[0, "view"] = "lateral"
    rewrite(root, table)
    manifest = Folder.read(root)
    first = manifest.images.iloc[0].dropna().to_dict()
    assert first == {
        "image_id": "images/000_0.png",
        "path": "images/000_0.png",
        "patientid": "P000",
        "view": "LATERAL",
        "age_years": 40.0,
        "sex_male": 1.0,
        "official_split": "train",
    }
    assert manifest.known_findings == ["Pneumonia", "Lung Opacity", "No Finding"]
    assert np.isnan(manifest.labels["Pneumonia"][0])
    assert (manifest.labels["Lung Opacity"] == -1).sum() == 1
    assert [mask.dropna().to_dict() for _, mask in manifest.masks.iterrows()] == [
        {"image_id": "images/001_0.png", "finding": "Pneumonia", "path": "masks/001_0.png"}
    ]


def test_only_the_required_columns(root):
    rewrite(root, labels_of(root)[["image", "patient", "Pneumonia"]])
    images = Folder.read(root).images
    assert images[["view", "age_years", "sex_male", "official_split"]].isna().all(axis=None)


def test_sex_male_column(root):
    table = labels_of(root).rename(columns={"sex": "sex_male"})
    table["sex_male"] = table["sex_male"].map({"M": "1", "F": "0"})
    expected = Folder.read(root).images["sex_male"]
    rewrite(root, table)
    assert Folder.read(root).images["sex_male"].equals(expected)


def test_the_database_may_have_another_name(root):
    manifest = read_folder(root, "phantom")
    assert manifest.database == "phantom"
    with pytest.raises(DataError, match=r"^phantom: "):
        read_folder(root / "images", "phantom")


def test_replica_boxes_are_fractions_of_the_file(root):
    boxes = Folder.read(root).boxes
    np.testing.assert_allclose(boxes[["x0", "y0", "x1", "y1"]].to_numpy(float), [[0.2, 0.3, 0.4, 0.5]] * 10)


def test_boxes_in_a_stated_frame(root):
    boxes = pd.read_csv(root / "boxes.csv").assign(width=192, height=160)
    rewrite(root, boxes, "boxes.csv")
    found = Folder.read(root).boxes[["x0", "y0", "x1", "y1"]].to_numpy(float)
    np.testing.assert_allclose(found, [[0.1, 0.15, 0.2, 0.25]] * 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.rename(columns={"patient": "patient_id"}),
            'column "patient" .*found "patient_id"; rename',
        ),
        (lambda t: t.rename(columns={"image": "image_path"}), 'column "image" .*found "image_path"; rename'),
        (lambda t: t.rename(columns={"Pneumonia": "Pnuemonia"}), 'Did you mean "Pneumonia"'),
        (lambda t: t.rename(columns={"No Finding": "no_finding"}), 'Did you mean "No Finding"'),
        (lambda t: t.drop(columns=["Pneumonia", "Lung Opacity", "No Finding"]), "named after a finding"),
        (lambda t: t.iloc[:0], "found only its header"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), "repeated images in the rows 5, 22"),
        (lambda t: t.assign(patient=t["patient"].where(t.index != 4)), '"patient" in every row .* rows 6'),
        (lambda t: t.assign(image=t["image"].where(t.index != 4)), '"image" in every row .* rows 6'),
        (lambda t: t.assign(image=["../" + n for n in t["image"]]), "lead out of it"),
        (lambda t: t.assign(Pneumonia="yes"), "column \"Pneumonia\" of 'labels.csv'; found 'yes' .rows 2, 3"),
        (lambda t: t.assign(Pneumonia="2"), "1, 0, -1 .uncertain. or blank"),
        (lambda t: t.assign(sex="X"), '"sex" M or F'),
        (lambda t: t.assign(sex_male="1"), "found both"),
        (lambda t: t.assign(split="dev"), "a split among train, val, test"),
        (lambda t: t.assign(split=["train", "test"] * 10), "every patient in one split"),
    ],
)
def test_a_faulty_table_is_an_error(root, change, message):
    rewrite(root, change(labels_of(root)))
    with pytest.raises(DataError, match=message) as error:
        Folder.read(root)
    assert "P00" not in str(error.value)


def test_faults_that_are_problems(root):
    table = labels_of(root).rename(columns={"sex": "gender", "age_years": "age"}).assign(ward="B")
    table.loc[1, "view"] = "oblique"
    table.loc[0, "image"] = "images/absent.png"
    rewrite(root, table)
    manifest = Folder.read(root)
    assert len(manifest) == 19
    problems = [str(p) for p in manifest.problems]
    assert any("row 2" in p and "images/absent.png" in p for p in problems)
    assert any("row 3" in p and "OBLIQUE" in p.upper() for p in problems)
    assert any('"ward" is neither' in p for p in problems)
    assert any('"age" is neither' in p and '"age_years", rename it' in p for p in problems)
    assert manifest.images["age_years"].isna().all()


def test_faulty_boxes_and_masks(root):
    boxes = pd.read_csv(root / "boxes.csv")
    boxes.loc[0, "x1"] = 200.0
    boxes.loc[1, "x1"] = 0.0
    boxes.loc[2, "image"] = "images/absent.png"
    rewrite(root, boxes, "boxes.csv")
    (root / "masks" / "001_0.png").unlink()
    manifest = Folder.read(root)
    assert (len(manifest.boxes), len(manifest.masks)) == (8, 0)
    assert manifest.boxes["x1"][0] == 1.0
    text = "\n".join(str(p) for p in manifest.problems)
    assert "boxes.csv row 2: the box" in text
    assert "boxes.csv row 3: the box" in text
    assert "boxes.csv row 4: the image 'images/absent.png'" in text
    assert "masks.csv row 2: the mask 'masks/001_0.png'" in text
    assert len(manifest.problems) == 4


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("x0", "left", 'a number of pixels in the column "x0"'), ("finding", "Shadow", "found 'Shadow'")],
)
def test_boxes_that_are_errors(root, column, value, message):
    boxes = pd.read_csv(root / "boxes.csv", dtype=object)
    boxes.loc[0, column] = value
    rewrite(root, boxes, "boxes.csv")
    with pytest.raises(DataError, match=message):
        Folder.read(root)


def test_a_box_on_a_file_of_unreadable_size(root):
    (root / "images" / "001_0.png").write_bytes(b"not an image")
    manifest = Folder.read(root)
    assert len(manifest.boxes) == 9
    assert 'Add the columns "width" and "height"' in str(manifest.problems[0])


def test_boxes_and_masks_of_nothing(root):
    for file in ("boxes.csv", "masks.csv"):
        rewrite(root, pd.read_csv(root / file).iloc[:0], file)
    manifest = Folder.read(root)
    assert (len(manifest.boxes), len(manifest.masks), manifest.problems) == (0, 0, ())


def test_a_column_that_stands_twice_is_named(root):
    path = root / "labels.csv"
    header, rest = path.read_text().split("\n", 1)
    path.write_text(header + ", Pneumonia\n" + rest.replace("\n", ",0\n"))
    with pytest.raises(DataError, match=r"every column of 'labels\.csv' once; found Pneumonia more than once"):
        Folder.read(root)
