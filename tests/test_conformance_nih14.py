"""ChestX-ray14: the published counts, prevalences and box statistics from the official tables."""

import numpy as np
import pandas as pd
import pytest

from conformance import official
from hilum.databases.nih14 import FINDINGS_14, NIH14

COUNTS = {
    "Infiltration": 19_894,
    "Effusion": 13_317,
    "Atelectasis": 11_559,
    "Nodule": 6_331,
    "Mass": 5_782,
    "Pneumothorax": 5_302,
    "Consolidation": 4_667,
    "Pleural_Thickening": 3_385,
    "Cardiomegaly": 2_776,
    "Emphysema": 2_516,
    "Edema": 2_303,
    "Fibrosis": 1_686,
    "Pneumonia": 1_431,
    "Hernia": 227,
    "No Finding": 60_361,
}
PREVALENCE = {
    "No Finding": 53.84,
    "Atelectasis": 10.31,
    "Cardiomegaly": 2.48,
    "Consolidation": 4.16,
    "Edema": 2.05,
    "Effusion": 11.88,
    "Pneumonia": 1.28,
    "Pneumothorax": 4.73,
}
# n, median width and height, mean ± sd of the centre's column and row (px of 1024), median and mean area fraction
BOXES = {
    "Atelectasis": (180, 171, 118, 521, 218, 582, 118, 0.019, 0.032),
    "Cardiomegaly": (146, 478, 382, 588, 50, 583, 66, 0.171, 0.176),
    "Effusion": (153, 208, 277, 507, 285, 575, 122, 0.056, 0.069),
    "Infiltration": (123, 228, 265, 541, 180, 538, 119, 0.057, 0.097),
    "Mass": (85, 120, 141, 519, 210, 462, 119, 0.015, 0.042),
    "Nodule": (79, 70, 68, 538, 256, 494, 158, 0.005, 0.005),
    "Pneumonia": (120, 229, 275, 517, 193, 569, 107, 0.057, 0.094),
    "Pneumothorax": (98, 201, 206, 469, 226, 332, 192, 0.036, 0.052),
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    files = {name: f"{name}.gz" for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv")}
    return NIH14.read(official(tmp_path_factory.mktemp("nih14"), files), labels_only=True)


def test_images_patients_views(manifest):
    counts = manifest.counts()
    assert (counts["images"], counts["patients"]) == (112_120, 30_805) == (NIH14.card.images, NIH14.card.patients)
    assert counts["views"] == {"PA": 67_310, "AP": 44_810}
    assert manifest.images["origin"].is_unique
    assert manifest.images["origin_patientid"].nunique() == 30_805


def test_positives(manifest):
    assert {name: counted["positive"] for name, counted in manifest.counts()["findings"].items()} == COUNTS
    assert manifest.labels.notna().all(axis=None)


def test_findings_together(manifest):
    findings = manifest.labels[list(FINDINGS_14)].sum(axis=1)
    assert round(100 * (findings >= 2).mean(), 1) == 18.5
    assert round(findings[findings > 0].mean(), 2) == 1.57
    assert ((findings == 0) == (manifest.labels["No Finding"] == 1)).all()
    assert round(COUNTS["Infiltration"] / COUNTS["Hernia"]) == 88


def test_prevalence(manifest):
    prevalence = manifest.counts()["prevalence"]
    assert {name: round(100 * prevalence[name], 2) for name in PREVALENCE} == PREVALENCE


def test_boxes(manifest):
    boxes = manifest.boxes
    assert (len(boxes), boxes["image_id"].nunique()) == (984, 880)
    width, height = 1024 * (boxes["x1"] - boxes["x0"]), 1024 * (boxes["y1"] - boxes["y0"])
    found = pd.DataFrame(
        {
            "finding": boxes["finding"],
            "width": width,
            "height": height,
            "x": 512 * (boxes["x0"] + boxes["x1"]),
            "y": 512 * (boxes["y0"] + boxes["y1"]),
            "area": width * height / 1024**2,
        }
    ).groupby("finding")
    assert set(found.groups) == set(BOXES)
    for finding, (n, *numbers) in BOXES.items():
        one = found.get_group(finding)
        assert len(one) == n
        pixels = [one["width"].median(), one["height"].median(), one["x"].mean(), one["x"].std()]
        pixels += [one["y"].mean(), one["y"].std()]
        np.testing.assert_allclose(pixels, numbers[:6], atol=0.51, err_msg=finding)
        np.testing.assert_allclose([one["area"].median(), one["area"].mean()], numbers[6:], atol=0.00051)


def test_without_the_lists_the_patients_with_a_box_are_test(manifest):
    images = manifest.images
    test = images[images["official_split"] == "test"]
    boxed = images["image_id"].isin(manifest.boxes["image_id"])
    assert set(test["patientid"]) == set(images["patientid"][boxed])
    assert images["official_split"].isna().sum() == len(images) - len(test)
