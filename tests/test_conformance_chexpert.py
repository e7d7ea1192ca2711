"""CheXpert on its real table of train, as torchxrayvision ships it: counts and prevalences."""

import pytest

from conformance import official
from hilum.databases.chexpert import CheXpert

# Positive, uncertain, negative, blank of 223,414 images.
COUNTS = {
    "Enlarged Cardiomediastinum": (10_798, 12_403, 21_638, 178_575),
    "Cardiomegaly": (27_000, 8_087, 11_116, 177_211),
    "Lung Opacity": (105_581, 5_598, 6_599, 105_636),
    "Lung Lesion": (9_186, 1_488, 1_270, 211_470),
    "Edema": (52_246, 12_984, 20_726, 137_458),
    "Consolidation": (14_783, 27_742, 28_097, 152_792),
    "Pneumonia": (6_039, 18_770, 2_799, 195_806),
    "Atelectasis": (33_376, 33_739, 1_328, 154_971),
    "Pneumothorax": (19_448, 3_145, 56_341, 144_480),
    "Effusion": (86_187, 11_628, 35_396, 90_203),
    "Pleural Other": (3_523, 2_653, 316, 216_922),
    "Fracture": (9_040, 642, 2_512, 211_220),
    "Support Devices": (116_001, 1_079, 6_137, 100_197),
    "No Finding": (22_381, 0, 0, 201_033),
}
# Per cent of the frontal images.
PREVALENCE = {
    "No Finding": 8.89,
    "Atelectasis": 15.56,
    "Cardiomegaly": 12.24,
    "Consolidation": 6.80,
    "Edema": 26.00,
    "Effusion": 40.26,
    "Pneumonia": 2.45,
    "Pneumothorax": 9.26,
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = official(tmp_path_factory.mktemp("chexpert"), {"train.csv": "chexpert_train.csv.gz"})
    return CheXpert.read(root, labels_only=True)


def test_sizes_and_views(manifest):
    counts = manifest.counts()
    assert (counts["images"], counts["patients"], counts["frontal"]["images"]) == (223_414, 64_540, 191_027)
    assert counts["views"] == {"AP": 161_590, "LATERAL": 32_387, "PA": 29_420, "FRONTAL": 17}
    assert manifest.extra["AP/PA"].value_counts().to_dict() == {"AP": 161_590, "PA": 29_420, "LL": 16, "RL": 1}
    assert counts["studies"] == 187_641


def test_labels(manifest):
    found = {
        name: tuple(count[kind] for kind in ("positive", "uncertain", "negative", "unknown"))
        for name, count in manifest.counts()["findings"].items()
    }
    assert found == COUNTS


def test_prevalence_among_frontal_images(manifest):
    found = manifest.counts()["frontal"]["prevalence"]
    assert {name: round(100 * found[name], 2) for name in PREVALENCE} == PREVALENCE


def test_ages_and_sexes(manifest):
    images = manifest.images
    assert (images["age_years"].isna().sum(), images["age_years"].min(), images["age_years"].max()) == (3, 18, 90)
    assert images["sex_male"].value_counts(dropna=False).tolist() == [132_636, 90_777, 1]
    assert manifest.problem_counts() == {"age not plausible": 3, "official file not on disk": 1}
