"""MIMIC-CXR: labellers, views, split, JPG and DICOM, the radiologist's labels, and patients of MIMIC-IV."""

import gzip

import numpy as np
import pytest

from hilum.databases.mimic_cxr import MIMICCXR
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError

METADATA, SPLIT = "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-split.csv.gz"
CHEXPERT, NEGBIO = "mimic-cxr-2.0.0-chexpert.csv.gz", "mimic-cxr-2.0.0-negbio.csv.gz"
FIRST = "02faf080-00000041-00000041-00000041-00000041"


@pytest.fixture
def root(tmp_path):
    MIMICCXR.write_replica(tmp_path)
    return tmp_path


@pytest.fixture
def dicom(root):
    """The same images as DICOM with the list of records, as MIMIC-CXR has them: without metadata and split."""
    images = MIMICCXR.read(root).images
    lines = ["subject_id,study_id,dicom_id,path"]
    for path, row in zip(images["path"], images.itertuples(), strict=True):
        new = path.replace(".jpg", ".dcm")
        save_dicom_radiograph(root / new, view="LL" if row.view == "LATERAL" else row.view)
        (root / path).unlink()
        lines.append(f"{row.patientid},{row.studyid},{row.image_id},{new}")
    (root / "cxr-record-list.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (root / METADATA).unlink()
    (root / SPLIT).unlink()
    return root


def edit(path, old, new):
    text = gzip.decompress(path.read_bytes()).decode()
    assert old in text
    path.write_bytes(gzip.compress(text.replace(old, new, 1).encode()))


@pytest.mark.parametrize(
    ("file", "header"),
    [
        (
            METADATA,
            "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,"
            "StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
            "PatientOrientationCodeSequence_CodeMeaning",
        ),
        (SPLIT, "dicom_id,study_id,subject_id,split"),
        (
            CHEXPERT,
            "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,"
            "Lung Lesion,Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices",
        ),
    ],
)
def test_the_tables_of_the_replica_have_the_columns_of_physionet(root, file, header):
    lines = gzip.decompress((root / file).read_bytes()).decode().splitlines()
    assert lines[0] == header
    assert {line.count(",") for line in lines} == {header.count(",")}


def test_no_finding_is_one_or_blank_in_the_replica(root):
    for labeller in ("chexpert", "negbio"):
        labels = MIMICCXR.read(root, labeller=labeller).labels
        healthy = labels["No Finding"] == 1
        assert set(labels["No Finding"].dropna()) == {1.0}
        assert not (labels[healthy].drop(columns="No Finding") == 1).any(axis=None)


def test_identifiers_split_and_path(root):
    manifest = MIMICCXR.read(root)
    first = manifest.images.iloc[0]
    assert first[["image_id", "patientid", "studyid"]].tolist() == [FIRST, "10000032", "50000000"]
    assert first["path"] == f"files/p10/p10000032/s50000000/{FIRST}.jpg"
    assert first["origin_patientid"] == "mimic_cxr/10000032"
    assert manifest.images["official_split"].value_counts().to_dict() == {"train": 20, "test": 10, "val": 5}


def test_the_labels_of_a_study_are_those_of_all_its_images(root):
    manifest = MIMICCXR.read(root)
    keyed = manifest.labels.fillna(9).groupby(manifest.images["studyid"]).nunique()
    assert (keyed == 1).all(axis=None)
    assert manifest.images["studyid"].value_counts().max() == 2
    first = manifest.labels.iloc[0]
    assert np.isnan(first["No Finding"])
    assert first[["Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity"]].tolist() == [1.0, 0.0, -1.0]


def test_labellers_and_their_agreement(root):
    chexpert, negbio = MIMICCXR.read(root).labels, MIMICCXR.read(root, labeller="negbio").labels
    assert (negbio["Pneumonia"] == 0).all()
    agreed = MIMICCXR.read(root, labeller="agreement").labels
    same = chexpert["Pneumonia"] == 0
    assert 0 < same.sum() < len(same)
    assert (agreed["Pneumonia"][same] == 0).all()
    assert (agreed["Pneumonia"][~same] == -1).all()
    assert agreed.drop(columns="Pneumonia").equals(chexpert.drop(columns="Pneumonia"))
    assert agreed["Fracture"].isna().any()


def test_a_study_that_one_labeller_lacks_is_blank_there(root):
    edit(root / NEGBIO, "10000032,50000000,", "10000032,59999999,")
    agreed = MIMICCXR.read(root, labeller="agreement").labels.iloc[0]
    assert np.isnan(agreed["No Finding"])
    assert agreed["Lung Opacity"] == -1


def test_the_labels_of_the_radiologist_are_of_the_test_part(root):
    manifest, before = MIMICCXR.read(root, radiologist=True), MIMICCXR.read(root)
    test = manifest.images["official_split"] == "test"
    assert manifest.labels[test].isin((0, 1)).all(axis=None)
    assert (manifest.labels["Lung Opacity"][test] == 0).all()
    assert (manifest.labels["Lung Lesion"][test] == 1).all()
    assert manifest.labels[~test].equals(before.labels[~test])


@pytest.mark.parametrize(
    ("written", "view"),
    [
        ("PA,", "PA"),
        ("PA LLD,", "PA"),
        ("AP AXIAL,", "AP"),
        ("LL,", "LATERAL"),
        ("XTABLE LATERAL,", "LATERAL"),
        ("LAO,", None),
        (",", None),
        (",postero-anterior", "PA"),
        (",antero-posterior", "AP"),
        (",lateral", "LATERAL"),
        ("LAO,lateral", None),
    ],
)
def test_views(root, written, view):
    position, meaning = written.split(",")
    taken, code = "96,96,21500101,213014.531,CHEST (PORTABLE AP)", "antero-posterior"
    edit(root / METADATA, f",AP,{taken},{code},", f",{position},{taken},{meaning},")
    manifest = MIMICCXR.read(root)
    found = manifest.images["view"][0]
    assert found == view or (view is None and np.isnan(found))
    assert manifest.extra["ViewPosition"][0] == position or not position


def test_dicom_with_its_records_reads_views_from_headers(dicom):
    manifest = MIMICCXR.read(dicom)
    assert all(path.is_file() and path.suffix == ".dcm" for path in manifest.paths())
    assert manifest.images["view"].value_counts().to_dict() == {"PA": 14, "LATERAL": 14, "AP": 7}
    assert manifest.images["official_split"].isna().all()
    assert [problem.kind for problem in manifest.problems] == ["official file not on disk"]
    assert MIMICCXR.read(dicom, labels_only=True).images["view"].isna().all()


def test_records_beside_metadata_take_what_is_on_disk(root, dicom, tmp_path_factory):
    other = tmp_path_factory.mktemp("jpg")
    MIMICCXR.write_replica(other)
    (dicom / METADATA).write_bytes((other / METADATA).read_bytes())
    assert MIMICCXR.read(dicom).images["path"][0].endswith(".dcm")
    (other / "cxr-record-list.csv.gz").write_bytes((dicom / "cxr-record-list.csv.gz").read_bytes())
    assert MIMICCXR.read(other).images["path"][0].endswith(".jpg")


@pytest.mark.parametrize("folder", [".", "hosp"])
def test_age_and_sex_of_mimic_iv(root, folder):
    (root / folder).mkdir(exist_ok=True)
    rows = ["subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod", "10000032,F,52,2148,2014 - 2016,"]
    rows.append("10000033,M,60,2300,2014 - 2016,")
    (root / folder / "patients.csv").write_text("\n".join(rows) + "\n")
    manifest = MIMICCXR.read(root)
    assert manifest.images[["age_years", "sex_male"]].iloc[0].tolist() == [54.0, 0.0]
    second = manifest.images[manifest.images["patientid"] == "10000033"]
    assert (second["sex_male"] == 1).all()
    assert second["age_years"].isna().all()
    assert set(manifest.problem_counts()) == {"age not plausible"}
    assert manifest.images[manifest.images["patientid"] == "10000034"][["age_years", "sex_male"]].isna().all(axis=None)


def test_a_study_without_labels_is_a_problem_and_unknown(root):
    edit(root / CHEXPERT, "10000032,50000000,", "10000032,59999999,")
    manifest = MIMICCXR.read(root)
    assert manifest.labels.iloc[0].isna().all()
    assert manifest.problem_counts() == {"image without labels": 1}


def test_the_root_may_be_the_parent(root, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    root.rename(parent / "2.1.0")
    manifest = MIMICCXR.read(parent)
    assert manifest.images["path"][0].startswith("2.1.0/files/p10/")
    assert all(path.is_file() for path in manifest.paths())


def test_a_partial_download_leaves_rows_out(root):
    (root / f"files/p10/p10000032/s50000000/{FIRST}.jpg").unlink()
    manifest = MIMICCXR.read(root)
    assert len(manifest) == 34
    assert [problem.where for problem in manifest.problems] == [f"{METADATA} row 2"]


@pytest.mark.parametrize("options", [{"labeller": "chexbert"}, {"radiologist": "yes"}])
def test_unknown_options_are_errors(root, options):
    with pytest.raises(DataError, match=f"^mimic_cxr: expected the option '{next(iter(options))}'"):
        MIMICCXR.read(root, **options)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        (CHEXPERT, {}),
        (NEGBIO, {"labeller": "agreement"}),
        ("mimic-cxr-2.1.0-test-set-labeled.csv", {"radiologist": True}),
    ],
)
def test_a_missing_table_of_labels_says_where_it_is_given(root, file, options):
    (root / file).unlink()
    name = file.removesuffix(".gz")
    with pytest.raises(DataError, match=f"^mimic_cxr: expected the file '{name}'.*physionet"):
        MIMICCXR.read(root, **options)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (METADATA, "subject_id", "subject", 'column "subject_id"'),
        (METADATA, f"{FIRST},", ",", '"dicom_id" in every row'),
        (METADATA, f"{FIRST},", "../../a,", "lead out of it in the rows 2"),
        (CHEXPERT, "Pleural Effusion", "Effusion", 'column "Pleural Effusion"'),
        (CHEXPERT, "10000033,50000010,", "10000033,50000000,", "every study once .* rows 3"),
        (CHEXPERT, "1.0", "yes", "found 'yes'"),
    ],
)
def test_a_faulty_table_is_an_error(root, file, old, new, message):
    edit(root / file, old, new)
    with pytest.raises(DataError, match=f"^mimic_cxr: .*{message}"):
        MIMICCXR.read(root)


def test_a_damaged_table_is_an_error(root):
    (root / SPLIT).write_bytes((root / SPLIT).read_bytes()[:60])
    with pytest.raises(DataError, match="damaged or not readable"):
        MIMICCXR.read(root)
