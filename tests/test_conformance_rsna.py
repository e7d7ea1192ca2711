"""RSNA 2018: the published counts and box statistics from the official table."""

import pytest

from conformance import official
from hilum.databases.rsna import RSNA

FILES = {
    "stage_2_train_labels.csv": "kaggle_stage_2_train_labels.csv.zip",
    "stage_2_train_images_dicom_headers.csv": "kaggle_stage_2_train_images_dicom_headers.csv.gz",
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return RSNA.read(official(tmp_path_factory.mktemp("rsna"), FILES), labels_only=True)


def test_images_views_and_targets(manifest):
    counts = manifest.counts()
    assert (counts["images"], counts["patients"]) == (26_684, 26_684) == (RSNA.card.images, RSNA.card.patients)
    assert counts["views"] == {"PA": 14_511, "AP": 12_173}
    opacity = counts["findings"]["Lung Opacity"]
    assert (opacity["positive"], opacity["negative"]) == (6_012, 8_851 + 11_821)


def test_ages_above_120_years_are_unknown(manifest):
    images = manifest.images
    assert images["age_years"].isna().sum() == 5
    assert images["sex_male"].value_counts().to_dict() == {1.0: 15_166, 0.0: 11_518}


def test_boxes(manifest):
    boxes = manifest.boxes
    assert (len(boxes), manifest.counts()["boxes"], boxes["image_id"].nunique()) == (9_555, 9_555, 6_012)
    assert round(len(boxes) / 6_012, 2) == 1.59
    width, height = 1024 * (boxes["x1"] - boxes["x0"]), 1024 * (boxes["y1"] - boxes["y0"])
    assert (round(width.median()), round(height.median())) == (217, 298)
    assert not [p for p in manifest.problems if "box" in p.kind]


def test_without_the_classes_no_finding_is_unknown(manifest):
    assert manifest.counts()["findings"]["No Finding"]["unknown"] == 26_684
    assert "official file not on disk" in manifest.problem_counts()
