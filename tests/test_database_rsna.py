"""RSNA 2018: targets and boxes, three classes, headers of two sources, the mapping to the NIH."""

import json

import numpy as np
import pytest
from pydicom import DataElement, config, dcmread

from hilum.databases.rsna import CLASSES, FOLDER, HEADERS, IMAGES, LABELS, MAPPING, RSNA
from hilum.errors import DataError

FIRST = "00000000-0000-4000-8000-000000000000"
BOXED = "00000002-0000-4000-8000-000000000000"


@pytest.fixture
def root(tmp_path):
    RSNA.write_replica(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_target_and_classes(root):
    manifest = RSNA.read(root)
    assert list(manifest.labels) == ["Lung Opacity", "No Finding"]
    assert manifest.labels["Lung Opacity"].tolist() == [0.0, 0.0, 1.0] * 5
    assert manifest.labels["No Finding"].tolist() == [1.0, 0.0, 0.0] * 5
    assert manifest.extra["class"].tolist()[:3] == ["Normal", "No Lung Opacity / Not Normal", "Lung Opacity"]


def test_boxes_are_scaled_from_1024(root):
    boxes = RSNA.read(root).boxes
    first = boxes[boxes["image_id"] == BOXED]
    np.testing.assert_allclose(first[["x0", "y0", "x1", "y1"]], [[0.2, 0.5, 0.4, 0.7], [0.6, 0.4, 0.8, 0.6]])
    assert (first["row"].tolist(), set(boxes["finding"])) == ([4, 5], {"Lung Opacity"})


def test_pneumonia_is_the_same_target_on_demand(root):
    plain, manifest = RSNA.read(root), RSNA.read(root, pneumonia=True)
    assert manifest.labels["Pneumonia"].equals(manifest.labels["Lung Opacity"])
    assert manifest.boxes["finding"].value_counts().to_dict() == {"Lung Opacity": 10, "Pneumonia": 10}
    assert manifest.counts()["boxes"] == plain.counts()["boxes"] == 10
    with pytest.raises(DataError, match=r"^rsna: expected the option 'pneumonia' as true or false; found 'yes'"):
        RSNA.read(root, pneumonia="yes")


def test_without_the_classes_no_finding_is_unknown_and_a_problem_says_why(root):
    (root / CLASSES).unlink()
    manifest = RSNA.read(root)
    assert manifest.labels["No Finding"].isna().all()
    assert manifest.labels["Lung Opacity"].sum() == 5
    assert [p.kind for p in manifest.problems] == ["official file not on disk"]
    assert "cannot be told apart" in str(manifest.problems[0])


def test_an_image_without_a_class(root):
    edit(root / CLASSES, f"{FIRST},Normal\n", "")
    manifest = RSNA.read(root)
    assert np.isnan(manifest.labels["No Finding"][0])
    assert [p.where for p in manifest.problems] == [f"{LABELS} row 2"]


def test_view_age_and_sex_are_those_of_the_headers(root):
    images = RSNA.read(root).images
    assert images["view"].tolist()[:3] == ["PA", "AP", "PA"]
    assert images[["age_years", "sex_male"]].iloc[2].tolist() == [26.0, 0.0]


def test_an_age_without_a_unit_in_the_header(root):
    path = root / IMAGES / f"{FIRST}.dcm"
    data = dcmread(path)
    data[0x00101010] = DataElement(0x00101010, "AS", "51", validation_mode=config.IGNORE)
    data.save_as(path)
    assert RSNA.read(root).images["age_years"][0] == 51.0


def test_without_images_there_are_no_headers(root):
    images = RSNA.read(root, labels_only=True).images
    assert images[["view", "age_years", "sex_male"]].isna().all(axis=None)


@pytest.mark.parametrize("name", HEADERS)
def test_a_table_of_headers_is_read_instead(root, name):
    table = f",PatientID,PatientAge,PatientSex,ViewPosition\n0,{FIRST},151,M,AP\n1,{BOXED},40,F,AP\n"
    (root / name).write_text(table)
    manifest = RSNA.read(root, labels_only=True)
    images = manifest.images.set_index("image_id")
    assert images.loc[BOXED, ["view", "age_years", "sex_male"]].tolist() == ["AP", 40.0, 0.0]
    assert np.isnan(images.loc[FIRST, "age_years"])
    assert images["view"].notna().sum() == 2
    assert [p.kind for p in manifest.problems] == ["age not plausible"]


def test_the_mapping_tells_image_and_patient_of_the_nih(root):
    mapping = json.loads((root / MAPPING).read_text())
    mapping[1]["img_id"] = "00000001_003.png"
    (root / MAPPING).write_text(json.dumps(mapping[:3]))
    images = RSNA.read(root).images
    assert images["origin"].tolist()[:2] == ["nih14/00000001_000.png", "nih14/00000001_003.png"]
    assert images["origin_patientid"].tolist()[:3] == ["nih14/1", "nih14/1", "nih14/3"]
    assert images["patientid"].tolist()[:3] == ["nih14/1", "nih14/1", "nih14/3"]
    assert images["origin"][3:].isna().all()
    assert images["patientid"][3] == images["image_id"][3]


def test_without_the_mapping_every_image_is_a_patient(root):
    (root / MAPPING).unlink()
    manifest = RSNA.read(root)
    assert manifest.images[["origin", "origin_patientid"]].isna().all(axis=None)
    assert manifest.images["patientid"].equals(manifest.images["image_id"])
    assert [problem.where for problem in manifest.problems] == [MAPPING]


def test_the_root_may_be_the_parent(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp("kaggle")
    root.rename(parent / FOLDER)
    assert len(RSNA.read(parent)) == 15


def test_a_partial_download_leaves_rows_out(root):
    (root / IMAGES / f"{BOXED}.dcm").unlink()
    manifest = RSNA.read(root)
    assert (len(manifest), len(manifest.boxes)) == (14, 8)
    assert [p.where for p in manifest.problems] == [f"{LABELS} row 4"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LABELS, "Target", "target", 'column "Target" .*found "target"; rename it'),
        (LABELS, f"{FIRST},,,,,0", f"{FIRST},,,,,2", "one Target an image, 0 or 1.* rows 2"),
        (LABELS, f"{FIRST},,,,,0", f"{BOXED},,,,,0", "one Target an image"),
        (LABELS, f"{FIRST},", ",", '"patientId" in every row'),
        (LABELS, FIRST, "../secret", "paths that lead out"),
        (CLASSES, f"{FIRST},Normal", f"{FIRST},Healthy", "one of the classes .* rows 2"),
        (CLASSES, f"{FIRST},Normal", f"{BOXED},Normal", "one of the classes"),
        (MAPPING, "subset_img_id", "id", "'img_id' and 'subset_img_id'"),
        (MAPPING, "[{", "{", "'img_id' and 'subset_img_id'"),
    ],
)
def test_a_faulty_file_is_an_error(root, file, old, new, message):
    edit(root / file, old, new)
    with pytest.raises(DataError, match=f"^rsna: .*{message}"):
        RSNA.read(root)


def test_a_missing_table_says_where_it_is_given(root):
    (root / LABELS).unlink()
    with pytest.raises(DataError, match=r"^rsna: expected the file 'stage_2_train_labels.csv'.*kaggle\.com"):
        RSNA.read(root)
