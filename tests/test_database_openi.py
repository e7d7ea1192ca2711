"""Open-i: MeSH terms, archives, views, both forms of the images and damaged XML."""

import tarfile

import numpy as np
import pytest

from hilum.databases.openi import VIEWS, OpenI, report_labels
from hilum.databases.openi_mesh import COLUMNS, listed_by
from hilum.databases.openi_reports import read_reports
from hilum.databases.positive_lists import labels_of
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

REPORTS = "ecgen-radiology"


@pytest.fixture
def root(tmp_path):
    OpenI.write_replica(tmp_path)
    return tmp_path


def labels(*terms):
    return labels_of([listed_by(terms)], COLUMNS).iloc[0]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("term", "findings"),
    [
        ("Pulmonary Atelectasis/base/left", {"Atelectasis"}),
        ("Opacity/lung/base/left", {"Lung Opacity"}),
        ("Airspace Disease/lung/base", {"Lung Opacity"}),
        ("Fractures, Bone/ribs/left/healed", {"Fracture", "Rib Fracture"}),
        ("Fractures, Bone/thoracic vertebrae", {"Fracture"}),
        ("Calcified Granuloma/lung/small", {"Granuloma", "Calcification"}),
        ("Thickening/pleura/apex", {"Pleural_Thickening"}),
        ("Subcutaneous  Emphysema/right", {"Subcutaneous Emphysema"}),
        ("Hernia, Hiatal/large", {"Hernia", "Hiatal Hernia"}),
        ("Nodule/lung/lingula", {"Nodule", "Nodule/Mass"}),
        ("Aorta, Thoracic/tortuous/mild", {"Aortic Elongation"}),
        ("Lung/hyperdistention", {"Hyperinflation"}),
        ("normal", {"No Finding"}),
        ("Spondylosis", set()),
    ],
)
def test_a_term_stands_for_its_findings_and_the_others_are_absent(term, findings):
    found = labels(term)
    assert set(found.index[found == 1]) == findings
    assert found["Edema"] == 0
    assert found["No Finding"] == float(term == "normal")


@pytest.mark.parametrize(
    ("term", "unknown"),
    [
        ("Cardiac Shadow/enlarged/mild", "Cardiomegaly"),
        ("Mass/breast", "Mass"),
        ("Consolidation/lung", "Lung Opacity"),
        ("Cicatrix/lung/apex", "Fibrosis"),
        ("Granulomatous Disease", "Granuloma"),
        ("Calcinosis/aorta", "Calcification"),
    ],
)
def test_a_finding_that_is_near_but_not_named_is_unknown(term, unknown):
    assert np.isnan(labels(term)[unknown])
    assert labels(term)["Edema"] == 0


@pytest.mark.parametrize("term", ["No Indexing", "Technical Quality of Image Unsatisfactory "])
def test_a_report_that_was_not_indexed_says_nothing_of_what_it_does_not_name(term):
    assert labels(term).isna().all()
    found = labels(term, "Cardiomegaly")
    assert (found["Cardiomegaly"], found["No Finding"]) == (1, 0)
    assert np.isnan(found["Effusion"])


def test_a_report_without_terms_is_unknown():
    assert labels().isna().all()


def test_images_of_a_report_share_patient_study_and_labels(root):
    manifest = OpenI.read(root)
    assert (len(manifest), manifest.images["patientid"].nunique()) == (26, 13)
    assert manifest.images["patientid"].equals(manifest.images["studyid"])
    per_report = manifest.labels.fillna(-9).groupby(manifest.images["studyid"]).nunique()
    assert (per_report == 1).all(axis=None)
    assert manifest.rows[:3] == (f"{REPORTS}/1.xml", f"{REPORTS}/1.xml", f"{REPORTS}/2.xml")


def test_a_report_without_an_image_is_a_report_all_the_same(root):
    reports, problems = read_reports(root)
    assert (len(reports), problems) == (14, [])
    assert list(reports["report"][:3]) == ["CXR1", "CXR2", "CXR3"]
    assert reports["images"].iloc[-1] == ()
    assert report_labels(reports)["No Finding"].iloc[-1] == 1


def test_extra_holds_the_terms_and_no_text_of_the_report(root):
    extra = OpenI.read(root).extra
    assert list(extra) == ["mesh", "mesh automatic"]
    assert extra["mesh"][0] == "Cardiomegaly/mild; Pleural Effusion/bilateral/small"
    assert extra["mesh automatic"][0] == "cardiomegaly"
    assert not extra.astype(str).apply(lambda column: column.str.contains("Made up")).any(axis=None)


def test_reports_are_read_from_their_archive(root):
    expected = OpenI.read(root)
    with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as tar:
        tar.add(root / REPORTS, arcname=REPORTS)
    for file in (root / REPORTS).iterdir():
        file.unlink()
    (root / REPORTS).rmdir()
    manifest = OpenI.read(root)
    assert manifest.images.equals(expected.images)
    assert manifest.labels.equals(expected.labels)
    archive = (root / "NLMCXR_reports.tgz").read_bytes()
    (root / "NLMCXR_reports.tgz").write_bytes(archive[: len(archive) // 2])
    with pytest.raises(DataError, match=r"NLMCXR_reports\.tgz'; found that it is damaged"):
        OpenI.read(root)


def test_views_of_the_table_or_unknown(root):
    images = OpenI.read(root).images
    assert images["view"].fillna("unknown").value_counts().to_dict() == {"PA": 13, "LATERAL": 7, "unknown": 6}
    edit(root / VIEWS, "LL", "LARGE LATERAL")
    assert OpenI.read(root).images.equals(images)
    (root / VIEWS).unlink()
    assert OpenI.read(root).images["view"].isna().all()


def test_the_image_of_report_1_is_named_in_two_ways(root):
    edit(root / REPORTS / "1.xml", "CXR1_IM", "CXR1_1_IM")
    for k in (1, 2):
        (root / f"NLMCXR_png/CXR1_IM-0001-{k}001.png").rename(root / f"NLMCXR_png/CXR1_1_IM-0001-{k}001.png")
    images = OpenI.read(root).images
    assert list(images["image_id"][:2]) == ["CXR1_1_IM-0001-1001", "CXR1_1_IM-0001-2001"]
    assert list(images["view"][:2]) == ["PA", "LATERAL"]


@pytest.mark.parametrize("folder", ["NLMCXR_dcm", "."])
def test_images_may_be_dicom_whose_headers_tell_the_view(root, folder):
    expected = OpenI.read(root)
    (root / VIEWS).unlink()
    for number, path in enumerate(expected.paths()):
        path.unlink()
        film = path.stem.removeprefix("CXR")
        target = root / folder / film.partition("_")[0] / f"{film}.dcm"
        save_dicom_radiograph(target, view="AP" if number % 2 else "LL")
    manifest = OpenI.read(root)
    assert list(manifest.images["view"][:2]) == ["LATERAL", "AP"]
    assert manifest.images["path"][0] == f"{folder}/1/1_IM-0001-1001.dcm".removeprefix("./")
    assert manifest.labels.equals(expected.labels)
    assert OpenI.read(root, labels_only=True).images["view"].isna().all()


def test_png_may_lie_in_the_root(root):
    expected = OpenI.read(root)
    for path in expected.paths():
        path.rename(root / path.name)
    manifest = OpenI.read(root)
    assert manifest.images["path"].equals(expected.images["image_id"] + ".png")


def test_a_partial_download_leaves_images_out(root):
    for path in OpenI.read(root).paths()[:2]:
        path.unlink()
    manifest = OpenI.read(root)
    assert len(manifest) == 24
    assert manifest.problem_counts() == {"image not on disk": 2}


@pytest.mark.parametrize(
    "content",
    [
        "<eCitation><uId id='CXR1'/><MeSH>",
        "<eCitation><MeSH/></eCitation>",
        "<eCitation><uId id='CXR1'/><MeSH/><parentImage id='../../CXR1'/></eCitation>",
        "<!DOCTYPE e [<!ENTITY x SYSTEM 'secret.txt'>]><eCitation><uId id='CXR1'/>"
        "<MeSH><major>&x;</major></MeSH></eCitation>",
        "<!DOCTYPE e [<!ENTITY x 'normal'>]><eCitation><uId id='CXR1'/><MeSH><major>&x;</major></MeSH></eCitation>",
        "",
    ],
)
def test_a_damaged_or_unsafe_report_is_one_problem_and_the_others_are_read(root, content):
    (root / "secret.txt").write_text("normal")
    (root / REPORTS / "1.xml").write_text(content)
    manifest = OpenI.read(root)
    assert [(p.where, p.kind) for p in manifest.problems] == [(f"{REPORTS}/1.xml", "report that is not readable")]
    assert len(manifest) == 24
    assert "CXR1" not in set(manifest.images["patientid"])


def test_no_report_and_the_same_report_twice_are_errors(root):
    (root / REPORTS / "99.xml").write_text((root / REPORTS / "1.xml").read_text())
    with pytest.raises(DataError, match=r"every report once; found 'CXR1' again in '99\.xml'"):
        OpenI.read(root)
    for file in (root / REPORTS).iterdir():
        file.write_text("<")
    with pytest.raises(DataError, match="found none that can be read"):
        OpenI.read(root)
    (root / REPORTS).rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"NLMCXR_reports\.tgz'.*given at https://openi"):
        OpenI.read(root)
