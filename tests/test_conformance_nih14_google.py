"""Google's labels of ChestX-ray14: the counts of the table that torchxrayvision joins."""

import pandas as pd
import pytest

from conformance import official, tables
from hilum.databases.nih14 import NIH14
from hilum.databases.nih14_google import JOINED, NIH14Google

POSITIVES = {"Fracture": 186, "Pneumothorax": 238, "Lung Opacity": 2_166, "Nodule/Mass": 605}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = official(tmp_path_factory.mktemp("google"), {JOINED: f"{JOINED}.gz"})
    return NIH14Google.read(root, labels_only=True)


def test_images_patients_views_and_parts(manifest):
    counts, card = manifest.counts(), NIH14Google.card
    assert (counts["images"], counts["patients"]) == (4_376, 1_695) == (card.images, card.patients)
    assert counts["views"] == {"AP": 3_244, "PA": 1_132}
    assert manifest.images["official_split"].value_counts().to_dict() == {"val": 2_414, "test": 1_962}


def test_positives(manifest):
    findings = manifest.counts()["findings"]
    assert {name: counted["positive"] for name, counted in findings.items()} == POSITIVES
    assert manifest.labels.notna().all(axis=None)


def test_the_official_tables_read_as_the_joined_one(manifest, tmp_path):
    joined = pd.read_csv(tables() / f"{JOINED}.gz", dtype=str)
    folder = tmp_path / "four_findings_expert_labels"
    folder.mkdir()
    for name, part in (("validation_labels.csv", "val"), ("test_labels.csv", "test")):
        joined[joined["Set Id"] == part].drop(columns="Set Id").to_csv(folder / name, index=False)
    official_tables = NIH14Google.read(tmp_path, labels_only=True)
    pd.testing.assert_frame_equal(_by_image(official_tables), _by_image(manifest))


def test_every_image_and_patient_is_one_of_the_nih(manifest, tmp_path):
    table = "Data_Entry_2017_v2020.csv"
    nih = NIH14.read(official(tmp_path, {table: f"{table}.gz"}), labels_only=True).images
    ours = manifest.images.merge(nih, on="origin", suffixes=("", "_nih"))
    assert len(ours) == 4_376
    for column in ("origin_patientid", "view", "sex_male"):
        assert (ours[column] == ours[f"{column}_nih"]).all()


def _by_image(manifest):
    return manifest.images.join(manifest.labels).sort_values("image_id", ignore_index=True)
