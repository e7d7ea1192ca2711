"""PadChest: the published counts and prevalences from the official table."""

import pytest

from conformance import official
from hilum.databases.padchest import TABLE, PadChest
from hilum.databases.padchest_strings import STRINGS, strings_of

FRONTAL = 110_633


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = official(tmp_path_factory.mktemp("padchest"), {TABLE: f"{TABLE}.gz"})
    return PadChest.read(root, labels_only=True)


@pytest.fixture(scope="module")
def frontal(manifest):
    return manifest.images["view"].isin(["PA", "AP"]).to_numpy()


def with_strings(manifest, which, wanted):
    """Count images whose raw list holds one of the strings."""
    cells = manifest.extra["labels"][which].dropna()
    return int(cells.map({cell: bool(wanted & set(strings_of(cell))) for cell in cells.unique()}).sum())


def test_images_patients_projections_and_methods(manifest, frontal):
    counts = manifest.counts()
    assert (counts["images"], counts["patients"]) == (160_861, 67_625)
    assert (PadChest.card.images, PadChest.card.patients) == (160_861, 67_625)
    projections = manifest.extra["projection"].value_counts()
    assert projections[:4].to_dict() == {"PA": 91_728, "L": 49_579, "AP_horizontal": 14_346, "AP": 4_559}
    assert counts["views"] == {"PA": 91_728, "LATERAL": 49_579, "AP": 18_905, "unknown": 649}
    assert frontal.sum() == FRONTAL
    assert manifest.extra["method"].value_counts().to_dict() == {"RNN_model": 121_808, "Physician": 39_053}
    assert manifest.problems == ()


def test_the_strings_are_those_of_the_table(manifest):
    cells = manifest.extra["labels"].dropna().unique()
    assert set().union(*(strings_of(cell) for cell in cells)) == STRINGS


def test_held_out_findings_of_frontal_images(manifest, frontal):
    positives = (manifest.labels[frontal] == 1).sum()
    expected = {
        "Hiatal Hernia": 1_609,
        "Bronchiectasis": 1_549,
        "Scoliosis": 5_573,
        "Pacemaker": 2_295,
        "Obsolete Tuberculosis": 639,
        "Rib Fracture": 488,
        "Lung Cavity": 353,
        "Azygos Lobe": 326,
        "Lung Metastasis": 223,
        "Subcutaneous Emphysema": 177,
        "Tuberculosis": 172,
    }
    assert positives[list(expected)].to_dict() == expected


def test_prevalence_of_frontal_images(manifest, frontal):
    percent = ((manifest.labels[frontal] == 1).mean() * 100).round(2)
    expected = {
        "No Finding": 32.63,
        "Cardiomegaly": 8.90,
        "Consolidation": 1.51,
        "Edema": 1.17,
        "Pneumonia": 4.72,
        "Pneumothorax": 0.38,
        "Atelectasis": 5.55,
        "Effusion": 6.32,
    }
    assert percent[list(expected)].to_dict() == expected


def test_ages_are_plausible(manifest):
    ages = manifest.images["age_years"]
    assert ages.isna().sum() == 6
    assert (ages.min(), ages.max(), ages.median()) == (0, 105, 62)


def test_labels_of_physicians_alone(tmp_path):
    root = official(tmp_path, {TABLE: f"{TABLE}.gz"})
    labels = PadChest.read(root, labels_only=True, method="physician").labels
    assert len(labels) == 160_861
    assert labels.notna().any(axis=1).sum() <= 39_053
    assert (labels["Pneumonia"] == 1).sum() > 0
