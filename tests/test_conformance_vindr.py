"""VinDr-CXR: the published counts and prevalences from the official table of the VinBigData challenge."""

import pytest

from conformance import official
from hilum.databases.vindr import VinDr

POSITIVES = {
    "Aortic Enlargement": 3_067,
    "Cardiomegaly": 2_300,
    "Pleural_Thickening": 1_981,
    "Fibrosis": 1_617,
    "Lung Opacity": 1_322,
    "Other Lesion": 1_134,
    "Effusion": 1_032,
    "Nodule/Mass": 826,
    "Infiltration": 613,
    "Calcification": 452,
    "Interstitial Lung Disease": 386,
    "Consolidation": 353,
    "Atelectasis": 186,
    "Pneumothorax": 96,
    "No Finding": 10_606,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return official(tmp_path_factory.mktemp("vindr"), {"train.csv": "vinbigdata-train.csv.gz"})


@pytest.fixture(scope="module")
def manifest(root):
    return VinDr.read(root, labels_only=True)


def test_images_views_and_boxes(manifest):
    counts = manifest.counts()
    assert (counts["images"], counts["patients"], counts["boxes"]) == (15_000, 15_000, 36_096)
    assert counts["views"] == {"PA": 15_000}
    assert set(manifest.boxes["reader"]) <= {f"R{n}" for n in range(1, 18)}
    assert manifest.problems == ()


def test_images_per_finding(manifest):
    findings = manifest.counts()["findings"]
    assert {name: count["positive"] for name, count in findings.items()} == POSITIVES
    assert all(count["unknown"] == count["uncertain"] == 0 for count in findings.values())


def test_prevalence(manifest):
    prevalence = manifest.counts()["prevalence"]
    expected = {
        "No Finding": 70.71,
        "Atelectasis": 1.24,
        "Cardiomegaly": 15.33,
        "Consolidation": 2.35,
        "Effusion": 6.88,
        "Pneumothorax": 0.64,
    }
    assert {name: round(100 * prevalence[name], 2) for name in expected} == expected
    assert not {"Edema", "Pneumonia"} & set(manifest.labels)


def test_three_readers_an_image_who_agree_on_no_finding(root, manifest):
    assert (manifest.extra["readers"] == 3).all()
    assert set(manifest.extra["votes: No Finding"]) == {0, 3}
    positives = [manifest.labels]
    positives += [VinDr.read(root, labels_only=True, readers=readers).labels for readers in ("majority", "unanimous")]
    assert [int((labels["Cardiomegaly"] == 1).sum()) for labels in positives] == [2_300, 1_817, 1_297]
    assert [int((labels["No Finding"] == 1).sum()) for labels in positives] == [10_606] * 3
