"""TBX11K: labels by group and lesion type, boxes, parts and faulty annotation files."""

import json

import numpy as np
import pytest

from hilum.databases.tbx11k import TBX11K
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    TBX11K.write_replica(tmp_path)
    return tmp_path


def edit(root, part, change):
    path = root / "annotations" / "json" / f"TBX11K_{part}.json"
    coco = json.loads(path.read_text())
    change(coco)
    path.write_text(json.dumps(coco))


def only_train(root):
    for part in ("val", "trainval"):
        (root / "annotations" / "json" / f"TBX11K_{part}.json").unlink()
        (root / "lists" / f"TBX11K_{part}.txt").unlink()


def labels_of(manifest, image):
    row = manifest.labels[manifest.images["image_id"] == image].iloc[0]
    return row[["Tuberculosis", "Active Tuberculosis", "Obsolete Tuberculosis", "No Finding"]].tolist()


def test_labels_follow_the_group_and_the_lesions(root):
    manifest = TBX11K.read(root)
    assert labels_of(manifest, "health/h0000.png") == [0, 0, 0, 1]
    assert labels_of(manifest, "sick/s0000.png") == [0, 0, 0, 0]
    assert labels_of(manifest, "tb/tb0000.png") == [1, 1, 0, 0]
    assert labels_of(manifest, "tb/tb0001.png") == [1, 0, 1, 0]
    assert labels_of(manifest, "tb/tb0002.png") == [1, -1, -1, 0]


def test_two_types_and_no_lesion(root):
    only_train(root)

    def change(coco):
        image = {i["file_name"]: i["id"] for i in coco["images"]}
        lesion = {"iscrowd": 0, "bbox": [0, 0, 64, 64]}
        coco["annotations"] = [
            lesion | {"id": 1, "image_id": image["tb/tb0000.png"], "category_id": 1},
            lesion | {"id": 2, "image_id": image["tb/tb0000.png"], "category_id": 2},
            lesion | {"id": 3, "image_id": image["tb/tb0001.png"], "category_id": 1},
            lesion | {"id": 4, "image_id": image["tb/tb0001.png"], "category_id": 3},
        ]

    edit(root, "train", change)
    manifest = TBX11K.read(root)
    assert labels_of(manifest, "tb/tb0000.png") == [1, 1, 1, 0]
    assert labels_of(manifest, "tb/tb0001.png") == [1, 1, -1, 0]
    assert labels_of(manifest, "tb/tb0002.png") == [1, -1, -1, 0]
    assert manifest.boxes["finding"].value_counts().to_dict() == {
        "Tuberculosis": 4,
        "Active Tuberculosis": 2,
        "Obsolete Tuberculosis": 1,
    }


def test_boxes_are_scaled_from_their_frame_and_given_for_tuberculosis_too(root):
    manifest = TBX11K.read(root)
    corners = manifest.boxes[["x0", "y0", "x1", "y1"]].to_numpy(float)
    np.testing.assert_allclose(corners, [[0.25, 0.25, 0.5, 0.5]] * 10)
    assert (manifest.boxes["finding"] == "Tuberculosis").sum() == 6
    assert manifest.counts()["boxes"] == 6, "a lesion counts once"
    assert not manifest.boxes.duplicated().any()


def test_no_annotation_is_no_box(root):
    only_train(root)
    edit(root, "train", lambda coco: coco["annotations"].clear())
    manifest = TBX11K.read(root)
    assert len(manifest.boxes) == 0
    assert labels_of(manifest, "tb/tb0000.png") == [1, -1, -1, 0]


def test_both_parts_are_the_official_split(root):
    images = TBX11K.read(root).images
    assert images["official_split"].value_counts().to_dict() == {"train": 12, "val": 6}
    assert images["patientid"].is_unique


def test_one_part_splits_nothing(root):
    only_train(root)
    images = TBX11K.read(root).images
    assert (len(images), images["official_split"].isna().all()) == (12, True)


def test_any_one_file_will_do(root):
    expected = TBX11K.read(root)
    for part in ("train", "val"):
        (root / "annotations" / "json" / f"TBX11K_{part}.json").unlink()
    manifest = TBX11K.read(root)
    assert manifest.problems == ()
    assert manifest.images.equals(expected.images)
    assert len(manifest.boxes) == len(expected.boxes)


def test_absent_parts_and_lists_are_problems_with_their_source(root):
    only_train(root)
    problems = TBX11K.read(root).problems
    assert [problem.where for problem in problems] == ["annotations/json/TBX11K_val.json", "lists/TBX11K_val.txt"]
    assert all("mmcheng.net" in problem.reason for problem in problems)


def test_test_and_extra_images_are_not_read(root):
    def change(coco):
        coco["images"] += [
            {"id": 90, "file_name": "test/t0001.png", "width": 512, "height": 512},
            {"id": 91, "file_name": "extra/montgomery/m1.png", "width": 512, "height": 512},
        ]

    edit(root, "train", change)
    assert (len(TBX11K.read(root)), TBX11K.read(root).problems) == (18, ())


def test_an_absent_image_and_faulty_boxes(root):
    (root / "imgs" / "tb" / "tb0000.png").unlink()

    def change(coco):
        coco["annotations"][1]["bbox"] = [500, 0, 64, 64]

    only_train(root)
    edit(root, "train", change)
    manifest = TBX11K.read(root)
    assert len(manifest) == 11
    assert manifest.boxes["x1"].max() == 1.0
    text = [str(p) for p in manifest.problems if p.kind != "official file not on disk"]
    assert "tb/tb0000.png" in text[0]
    assert "leaves the image" in text[1]
    assert len(text) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coco: coco.pop("categories"), "missing: .'categories'"),
        (lambda coco: coco["annotations"][0].update(image_id=999), "found a fault at 999"),
        (lambda coco: coco["annotations"][0].update(bbox=[1, 2]), "COCO annotations"),
        (lambda coco: coco["images"][0].pop("width"), "'width'"),
        (lambda coco: coco["categories"][0].update(name="Cavity"), "found 'Cavity'"),
    ],
)
def test_faulty_annotations_are_an_error(root, change, message):
    edit(root, "val", change)
    with pytest.raises(DataError, match=message):
        TBX11K.read(root)


def test_a_truncated_file_is_an_error(root):
    path = root / "annotations" / "json" / "TBX11K_val.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(DataError, match=r"expected JSON in 'TBX11K_val\.json'"):
        TBX11K.read(root)
