"""CheXpert: labels, views, the parts of its downloads, the test labels, and CheXpert Plus."""

import csv
import json

import numpy as np
import pytest

from hilum.databases.chexpert import FINDINGS_14, CheXpert
from hilum.databases.chexpert_tables import OBSERVATIONS
from hilum.databases.replica import save_radiograph
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

TRAIN_1 = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
VALID_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"
PLUS = "df_chexpert_plus_240401.csv"
PLUS_HEAD = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,age,sex,race,"
    "ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)
REPORT = '"CHEST, TWO VIEWS\nNo change."'


@pytest.fixture
def root(tmp_path):
    CheXpert.write_replica(tmp_path)
    return tmp_path


@pytest.fixture
def plus(tmp_path):
    """Three made-up images of two patients, with labels of two sections of their reports."""
    rows = [PLUS_HEAD]
    who = {
        "train/patient00003/study1/view1_frontal": "Frontal,PA",
        "train/patient00003/study1/view2_lateral": "Lateral,",
    }
    who["valid/patient64541/study1/view1_frontal"] = "Frontal,LL"
    labels = []
    for k, (stem, view) in enumerate(who.items()):
        patient, part = stem.split("/")[1], stem.split("/")[0]
        rows.append(
            f"{stem}.jpg,{stem}.dcm,{view},{patient},{k + 1},{REPORT},{40 + k}.0,Female,A,B,No,C,24.5,No,{part}"
        )
        cells = dict.fromkeys(OBSERVATIONS) | {"Pleural Effusion": 1.0, "Edema": -1.0, "Fracture": 0.0}
        labels.append({"path_to_image": f"{stem}.jpg", **cells})
        save_radiograph(tmp_path / f"PNG/PNG/{stem}.png")
    (tmp_path / PLUS).write_text("\n".join(rows) + "\n")
    write_labels(tmp_path / "chexbert_labels/impression_fixed.json", labels)
    write_labels(tmp_path / "report_fixed.json", [row | {"Edema": 1.0} for row in labels[:2]])
    return tmp_path


def write_labels(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def kinds(manifest):
    return [problem.kind for problem in manifest.problems]


def test_uncertain_stays_and_blank_is_unknown(root):
    edit(root / "train.csv", ",Frontal,PA,", ",Frontal,PA,1.0,0.0,-1.0,,,,,,,,0.0,,,1.0\n#")
    lines = (root / "train.csv").read_text().splitlines()
    (root / "train.csv").write_text("\n".join(line for line in lines if not line.startswith("#")) + "\n")
    labels = CheXpert.read(root).labels
    assert list(labels) == list(FINDINGS_14)
    known = labels.iloc[0].dropna().to_dict()
    assert known == {
        "No Finding": 1.0,
        "Enlarged Cardiomediastinum": 0.0,
        "Cardiomegaly": -1.0,
        "Effusion": 0.0,
        "Support Devices": 1.0,
    }


@pytest.mark.parametrize(
    ("side", "projection", "view"),
    [
        ("Frontal", "AP", "AP"),
        ("Frontal", "PA", "PA"),
        ("Frontal", "LL", "FRONTAL"),
        ("Frontal", "RL", "FRONTAL"),
        ("Frontal", "", "FRONTAL"),
        ("Lateral", "", "LATERAL"),
    ],
)
def test_views(root, side, projection, view):
    edit(root / "train.csv", ",34,Frontal,PA,", f",34,{side},{projection},")
    manifest = CheXpert.read(root)
    assert manifest.images["view"][0] == view
    assert manifest.extra["AP/PA"][0] == projection or np.isnan(manifest.extra["AP/PA"][0])


def test_patient_study_origin_and_split_are_of_the_path(root):
    images = CheXpert.read(root).images.set_index("image_id")
    first = images.loc["train/patient00001/study1/view1_frontal.jpg"]
    assert first[["patientid", "studyid"]].tolist() == ["patient00001", "patient00001/study1"]
    assert first["origin"] == "chexpert/train/patient00001/study1/view1_frontal.jpg"
    assert first["origin_patientid"] == "chexpert/patient00001"
    valid = images.loc["val/patient64541/study1/view1_frontal.jpg"]
    assert (valid["official_split"], valid["path"].split("/")[0]) == ("val", "valid")
    assert images["official_split"].value_counts().to_dict() == {"train": 21, "val": 6, "test": 6}


def test_age_zero_and_unknown_sex_are_unknown(root):
    edit(root / "train.csv", f"{TRAIN_1},Male,34,", f"{TRAIN_1},Unknown,0,")
    manifest = CheXpert.read(root)
    assert manifest.images[["age_years", "sex_male"]].iloc[0].isna().all()
    assert [str(problem).startswith("train.csv row 2: expected the age") for problem in manifest.problems] == [True]


@pytest.mark.parametrize(
    ("old", "new", "view", "kind"),
    [
        (",34,Frontal,PA,", ",34,Frontal,XX,", "FRONTAL", "projection not recognized"),
        (",34,Frontal,PA,", ",34,Oblique,PA,", None, "view not recognized"),
        (f"{TRAIN_1},Male,", f"{TRAIN_1},Mal,", "PA", "sex not recognized"),
        (f"{TRAIN_1},Male,", f"{TRAIN_1},Unknown,", "PA", None),
        (f"{TRAIN_1},Male,", f"{TRAIN_1},,", "PA", None),
    ],
)
def test_codes_that_are_not_known_are_unknown_with_a_problem(root, old, new, view, kind):
    edit(root / "train.csv", old, new)
    manifest = CheXpert.read(root)
    first = manifest.images.iloc[0]
    assert first["view"] == view or (view is None and np.isnan(first["view"]))
    assert np.isnan(first["sex_male"]) == ("Male" in old)
    assert kinds(manifest) == ([kind] if kind else [])
    assert all(problem.where == "train.csv row 2" for problem in manifest.problems)


def test_no_finding_is_never_uncertain_in_a_replica(root):
    """As in the download: it is 1.0 or blank where a labeller wrote it, and no other finding is positive then."""
    labels = CheXpert.read(root).labels
    train = labels[CheXpert.read(root).images["official_split"] == "train"]
    assert set(train["No Finding"].dropna()) == {1.0}
    healthy = labels["No Finding"] == 1
    assert not (labels[healthy].drop(columns="No Finding") == 1).any(axis=None)


@pytest.mark.parametrize("folder", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_the_root_may_be_the_parent(root, tmp_path_factory, folder):
    parent = tmp_path_factory.mktemp("parent")
    root.rename(parent / folder)
    manifest = CheXpert.read(parent)
    assert manifest.images["path"][0] == f"{folder}/train/patient00001/study1/view1_frontal.jpg"
    assert all(path.is_file() for path in manifest.paths())


def test_the_batches_of_the_full_download(root):
    expected = CheXpert.read(root)
    batches = [f"CheXpert-v1.0 batch {k + 2} (train {k + 1})" for k in range(3)]
    for k, patient in enumerate(sorted((root / "train").iterdir())):
        (root / batches[k % 3]).mkdir(exist_ok=True)
        patient.rename(root / batches[k % 3] / patient.name)
    (root / VALID_BATCH).mkdir()
    for name in ("train.csv", "valid.csv", "valid", "test_labels.csv", "test"):
        (root / name).rename(root / VALID_BATCH / name)
    (root / "train").rmdir()
    manifest = CheXpert.read(root)
    assert manifest.problems == ()
    assert all(path.is_file() for path in manifest.paths())
    assert manifest.labels.equals(expected.labels)
    assert manifest.images.drop(columns="path").equals(expected.images.drop(columns="path"))


def test_a_part_without_its_table_is_a_problem(root):
    (root / "valid.csv").unlink()
    manifest = CheXpert.read(root)
    assert kinds(manifest) == ["official file not on disk"]
    assert "aimi.stanford.edu" in manifest.problems[0].reason
    assert "val" not in set(manifest.images["official_split"])


def test_without_test_labels_there_is_no_test_part_and_no_problem(root):
    (root / "test_labels.csv").unlink()
    manifest = CheXpert.read(root)
    assert (set(manifest.images["official_split"]), manifest.problems) == ({"train", "val"}, ())


def test_the_test_labels_of_studies_are_those_of_their_images(root):
    expected = CheXpert.read(root)
    (root / "test_labels.csv").unlink()
    row = ",".join("01"[j % 3 == 0] for j in range(14))
    studies = [f"CheXpert-v1.0/test/patient{64741 + k}/study1,{row}" for k in range(5)]
    (root / "groundtruth.csv").write_text("\n".join([",".join(("Study", *OBSERVATIONS)), *studies]) + "\n")
    manifest = CheXpert.read(root)
    assert list(manifest.images["image_id"]) == list(expected.images["image_id"])
    test = manifest.images["official_split"] == "test"
    assert manifest.images["view"][test].value_counts().to_dict() == {"FRONTAL": 4, "LATERAL": 2}
    assert (manifest.labels["No Finding"][test] == 1).all()
    assert (manifest.labels["Cardiomegaly"][test] == 0).all()
    assert [str(problem).startswith("groundtruth.csv row 6: the study") for problem in manifest.problems] == [True]


def test_a_partial_download_is_counted_for_every_table(root):
    for path in ("train/patient00001/study1/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg"):
        (root / path).unlink()
    manifest = CheXpert.read(root)
    assert len(manifest) == 31
    assert [problem.where for problem in manifest.problems] == ["train.csv row 2", "valid.csv row 2"]


def test_rows_name_their_table(root):
    manifest = CheXpert.read(root)
    assert (manifest.rows[0], manifest.rows[-1]) == ("train.csv row 2", "test_labels.csv row 7")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Pleural Effusion", "Effusion", 'column "Pleural Effusion"'),
        ("AP/PA", "View", 'column "AP/PA"'),
        (
            TRAIN_1,
            "CheXpert-v1.0-small/train/0001.jpg",
            "such as 'train/patient00001.* in the rows|others in the rows 2",
        ),
        (TRAIN_1, "", '"Path" in every row'),
        (TRAIN_1, f"../{TRAIN_1}", "lead out of it"),
        (",34,Frontal,PA,", ",34,Frontal,PA,maybe", "found 'maybe.*rows 2"),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    edit(root / "train.csv", old, new)
    with pytest.raises(DataError, match=message):
        CheXpert.read(root)


def test_a_missing_table_says_where_it_is_given(tmp_path):
    with pytest.raises(DataError, match=r"'train.csv' or 'valid.csv' or 'df_chexpert_plus.*aimi\.stanford\.edu"):
        CheXpert.read(tmp_path)


def test_an_unknown_section_is_an_error(root):
    with pytest.raises(DataError, match="'section' as one of impression, findings, report; found 'history'"):
        CheXpert.read(root, section="history")


def test_plus_has_the_origins_of_chexpert_and_what_it_tells_of_a_patient(plus):
    manifest = CheXpert.read(plus)
    assert manifest.problems == ()
    images = manifest.images
    assert images["origin"][0] == "chexpert/train/patient00003/study1/view1_frontal.jpg"
    assert images["path"][2] == "PNG/PNG/valid/patient64541/study1/view1_frontal.png"
    assert list(images["view"]) == ["PA", "LATERAL", "FRONTAL"]
    assert list(images["official_split"]) == ["train", "train", "val"]
    assert images[["age_years", "sex_male"]].iloc[1].tolist() == [41.0, 0.0]
    assert manifest.labels.iloc[0].dropna().to_dict() == {"Effusion": 1.0, "Edema": -1.0, "Fracture": 0.0}
    assert manifest.extra.iloc[0][["race", "recent_bmi", "patient_report_date_order"]].tolist() == ["A", "24.5", "1"]
    assert "report" not in manifest.extra


def test_the_replica_of_plus_has_its_columns_and_the_images_of_the_small_one(root, tmp_path_factory):
    plus = tmp_path_factory.mktemp("plus")
    CheXpert.replicas["plus"](plus)
    with (plus / PLUS).open(newline="") as file:
        head, *rows = csv.reader(file)
    assert len(head) == 27
    assert head[:6] == PLUS_HEAD.split(",")[:6]
    assert [name for name in head if not name.startswith("section_")] == PLUS_HEAD.split(",")
    assert {len(row) for row in rows} == {27}
    small, found = CheXpert.read(root), CheXpert.read(plus)
    shared = small.images["official_split"] != "test"
    assert list(found.images["origin"]) == list(small.images["origin"][shared])


def test_plus_labels_of_another_section_and_of_unlisted_images(plus):
    manifest = CheXpert.read(plus, section="report")
    assert manifest.labels["Edema"].tolist()[:2] == [1.0, 1.0]
    assert manifest.labels.iloc[2].isna().all()
    assert [str(problem).startswith(f"{PLUS} row 4: 'valid/patient64541") for problem in manifest.problems] == [True]


def test_plus_images_may_be_dicom(plus):
    (plus / "PNG").rename(plus / "unused")
    for path in CheXpert.read(plus, labels_only=True).images["path"]:
        save_dicom_radiograph(plus / "DICOM/Uncompressed" / path.removeprefix("PNG/").replace(".png", ".dcm"))
    assert all(path.is_file() and path.suffix == ".dcm" for path in CheXpert.read(plus).paths())


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (PLUS, "frontal_lateral", "view", "missing: frontal_lateral"),
        ("chexbert_labels/impression_fixed.json", '"Edema"', '"Oedema"', "one JSON object an image"),
        ("chexbert_labels/impression_fixed.json", "{", "[", "one JSON object an image"),
        ("chexbert_labels/impression_fixed.json", "-1.0", "2", "found '2"),
    ],
)
def test_faulty_files_of_plus_are_errors(plus, file, old, new, message):
    edit(plus / file, old, new)
    with pytest.raises(DataError, match=f"^chexpert: expected.*{message}"):
        CheXpert.read(plus)


def test_plus_without_its_labels_is_an_error(plus):
    (plus / "chexbert_labels/impression_fixed.json").unlink()
    with pytest.raises(DataError, match=r"'chexbert_labels/impression_fixed.json'.*given at https"):
        CheXpert.read(plus)


def test_plus_table_that_is_damaged_is_an_error(plus):
    (plus / f"{PLUS}.gz").write_bytes((plus / PLUS).read_bytes())
    (plus / PLUS).unlink()
    with pytest.raises(DataError, match="damaged or not readable"):
        CheXpert.read(plus)
