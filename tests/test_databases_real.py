"""Counts of the real databases, where they are at hand."""

from pathlib import Path

import pytest

from hilum.databases import DATABASES

DATA = Path(__file__).parents[2] / "shared" / "data"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real radiographs in ../shared/data are absent"),
]


@pytest.mark.parametrize(
    ("name", "folder", "images", "patients", "boxes", "positive"),
    [
        ("nih14", "nih", 785, 531, 39, {"Pneumonia": 387, "No Finding": 393}),
        ("shenzhen", "shenzhen", 503, 503, 0, {"Tuberculosis": 252, "No Finding": 251}),
        ("tbx11k", "tbx11k", 601, 601, 902, {"Tuberculosis": 600, "No Finding": 1}),
        ("kermany", "kermany", 4722, 2513, 0, {"Pneumonia": 3484, "No Finding": 1238}),
        ("hannover", "hannover", 243, 71, 0, {"COVID-19": 243}),
    ],
)
def test_counts(name, folder, images, patients, boxes, positive):
    manifest = DATABASES.load(name).read(DATA / folder)
    counts = manifest.counts()
    assert (counts["images"], counts["patients"], counts["boxes"]) == (images, patients, boxes)
    assert {f: counts["findings"][f]["positive"] for f in positive} == positive
    assert set(manifest.problem_counts()) <= {"official file not on disk"}
    assert all(path.is_file() for path in manifest.paths())


def test_every_lesion_of_tbx11k_is_a_box_of_tuberculosis():
    boxes = DATABASES.load("tbx11k").read(DATA / "tbx11k").boxes
    assert (boxes["finding"] == "Tuberculosis").sum() == 902
