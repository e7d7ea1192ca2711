"""Open-i: the published counts and prevalences from the official reports."""

import pytest

from conformance import official
from hilum.databases.openi import OpenI, report_labels
from hilum.databases.openi_reports import read_reports

FILES = {"NLMCXR_reports.tgz": "NLMCXR_reports.tgz", "nlmcxr_dicom_metadata.csv": "nlmcxr_dicom_metadata.csv.gz"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return official(tmp_path_factory.mktemp("openi"), FILES)


@pytest.fixture(scope="module")
def manifest(root):
    return OpenI.read(root, labels_only=True)


@pytest.fixture(scope="module")
def reports(root):
    return read_reports(root)[0]


def test_images_reports_and_views(manifest, reports):
    assert (len(manifest), len(reports)) == (7_470, 3_955) == (OpenI.card.images, OpenI.card.patients)
    assert (reports["images"].map(len) == 0).sum() == 104
    assert manifest.images["studyid"].nunique() == 3_955 - 104
    assert manifest.counts()["views"] == {"PA": 3_593, "unknown": 2_587, "LATERAL": 867, "AP": 423}
    assert manifest.problems == ()


def test_the_manifest_has_the_labels_of_its_reports(manifest, reports):
    per_report = report_labels(reports).set_axis(reports["report"])
    assert manifest.labels.equals(per_report.loc[manifest.images["studyid"]].reset_index(drop=True))


def test_prevalence_per_report(reports):
    percent = ((report_labels(reports) == 1).mean() * 100).round(2)
    expected = {
        "No Finding": 35.17,
        "Atelectasis": 8.39,
        "Cardiomegaly": 9.48,
        "Consolidation": 0.76,
        "Edema": 1.16,
        "Pneumonia": 1.06,
        "Effusion": 4.07,
        "Pneumothorax": 0.58,
    }
    assert percent[list(expected)].to_dict() == expected


def test_the_counts_tell_of_reports_without_an_image_too(manifest):
    facts = manifest.counts()["facts"]
    assert (facts["reports"], facts["reports without an image"]) == (3_955, 104)
    assert round(100 * facts["prevalence per report"]["Cardiomegaly"], 2) == 9.48


def test_what_reports_without_an_index_or_of_a_poor_film_leave_unknown(reports):
    labels = report_labels(reports)
    assert (labels.isna().all(axis=1)).sum() == 95 + 6
    assert labels["Edema"].isna().sum() == 180
