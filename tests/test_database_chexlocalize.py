"""CheXlocalize: masks in COCO's form, parts, keys, and what it shares with CheXpert."""

import json

import numpy as np
import pytest

from hilum.databases import rle
from hilum.databases.chexlocalize import FINDINGS_14, CheXlocalize
from hilum.databases.chexpert import CheXpert
from hilum.errors import DataError

VAL, TEST = "CheXlocalize/gt_segmentations_val.json", "CheXlocalize/gt_segmentations_test.json"
FIRST = "patient64541_study1_view1_frontal"
KEY = "val/patient64541/study1/view1_frontal.jpg"


@pytest.fixture
def root(tmp_path):
    CheXlocalize.write_replica(tmp_path)
    return tmp_path


def change(path, edit):
    masks = json.loads(path.read_text())
    edit(masks)
    path.write_text(json.dumps(masks))


def test_masks_are_of_the_findings_of_the_vocabulary_in_place(root):
    manifest = CheXlocalize.read(root)
    masks = manifest.masks[manifest.masks["image_id"] == KEY].set_index("finding")
    assert set(masks.index) == {"Lung Opacity", "Consolidation", "Pneumothorax"}
    mask = rle.decode(masks.loc["Lung Opacity", "rle"], 96, 96)
    expected = np.zeros((96, 96), bool)
    expected[48:72, 24:48] = True
    assert (mask == expected).all()


def test_runs_are_read_column_by_column(root):
    """A mask of 3 × 4 px of which the second column is full and the last pixel is set, as COCO writes it."""
    change(root / VAL, lambda masks: masks[FIRST].update(Edema={"size": [3, 4], "counts": "335N"}))
    masks = CheXlocalize.read(root).masks
    edema = masks[(masks["image_id"] == KEY) & (masks["finding"] == "Edema")].iloc[0]
    assert (edema["width"], edema["height"]) == (4, 3)
    assert rle.decode(edema["rle"], 4, 3).astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 1]]


def test_masks_of_nothing_are_left_out_and_lie_on_positive_images(root):
    manifest = CheXlocalize.read(root)
    assert len(manifest.masks) == 46
    labels = manifest.labels.set_index(manifest.images["image_id"])
    assert all(labels.loc[mask.image_id, mask.finding] == 1 for mask in manifest.masks.itertuples())


def test_labels_are_all_known_and_val_is_written_valid_in_its_table(root):
    manifest = CheXlocalize.read(root)
    assert list(manifest.labels) == list(FINDINGS_14)
    assert manifest.labels.notna().all(axis=None)
    assert "CheXpert-v1.0/valid/" in (root / "CheXpert/val_labels.csv").read_text()
    assert manifest.images["official_split"].value_counts().to_dict() == {"test": 12, "val": 9}


def test_a_shared_image_has_the_origin_that_chexpert_gives_it(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("chexpert")
    CheXpert.write_replica(other)
    chexpert, here = CheXpert.read(other).images, CheXlocalize.read(root).images
    shared = set(chexpert["origin"]) & set(here["origin"])
    assert "chexpert/val/patient64541/study1/view1_frontal.jpg" in shared
    assert set(here["origin_patientid"]) & set(chexpert["origin_patientid"]) >= {"chexpert/patient64741"}


def test_the_root_may_be_the_parent(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    root.rename(parent / "chexlocalize")
    manifest = CheXlocalize.read(parent)
    assert all(path.is_file() for path in manifest.paths())
    assert len(manifest.masks) == 46


def test_the_images_of_val_may_lie_in_valid(root):
    (root / "CheXpert/val").rename(root / "CheXpert/valid")
    assert all(path.is_file() for path in CheXlocalize.read(root).paths())


@pytest.mark.parametrize(
    ("file", "kind", "images", "masks"),
    [
        ("CheXpert/test_labels.csv", "official file not on disk", 9, 20),
        (TEST, "official file not on disk", 21, 20),
    ],
)
def test_a_part_may_be_absent(root, file, kind, images, masks):
    (root / file).unlink()
    manifest = CheXlocalize.read(root)
    assert (len(manifest), len(manifest.masks)) == (images, masks)
    assert manifest.problems[0].kind == kind


def test_a_mask_of_an_unlisted_image_is_a_problem(root):
    change(root / VAL, lambda masks: masks.update({"patient9_study1_view1_frontal": {}}))
    assert [problem.kind for problem in CheXlocalize.read(root).problems] == ["mask of an image not in the label table"]


def test_a_partial_download_leaves_images_and_their_masks_out(root):
    (root / "CheXpert" / KEY).unlink()
    manifest = CheXlocalize.read(root)
    assert [problem.where for problem in manifest.problems] == ["val_labels.csv row 2"]
    assert KEY not in set(manifest.masks["image_id"])


def test_without_any_labels_or_masks_it_says_where_they_are_given(root):
    (root / VAL).unlink()
    (root / TEST).unlink()
    with pytest.raises(DataError, match=r"^chexlocalize: expected the file '.*gt_segmentations_val.json'.*aimi"):
        CheXlocalize.read(root)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda masks: masks[FIRST].update(Edema={"size": [2, 2], "counts": "335N"}),
        lambda masks: masks[FIRST].update(Edema={"counts": "335N"}),
        lambda masks: masks[FIRST].update(Oedema={"size": [3, 4], "counts": "335N"}),
        lambda masks: masks.update({FIRST: []}),
    ],
)
def test_faulty_masks_are_errors(root, wrong):
    change(root / VAL, wrong)
    with pytest.raises(DataError, match=r"^chexlocalize: expected .*gt_segmentations_val\.json'"):
        CheXlocalize.read(root)


def test_a_damaged_file_of_masks_is_an_error(root):
    (root / VAL).write_text('{"patient')
    with pytest.raises(DataError, match="an object of images and their findings"):
        CheXlocalize.read(root)
