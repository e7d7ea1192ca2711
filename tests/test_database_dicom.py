"""A folder of DICOM files: what the headers tell, what is left out and why, labels, and ids that name nobody."""

import os
import stat

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from dicom_files import film, written
from hilum.cli.app import app
from hilum.databases.dicom import DicomFolder
from hilum.databases.dicom_identity import KEY_BYTES, KEY_FILE, identity_hash
from hilum.databases.replica_dicom import save_dicom_radiograph
from hilum.errors import DataError
from hilum.images.cache import CacheSpec, build_cache
from hilum.images.check import unreadable
from hilum.study.hospitals import plan_of
from hilum.study.spec import dump_study, load_study, parse_study

VALUES = film(12)


@pytest.fixture
def root(tmp_path):
    DicomFolder.write_replica(tmp_path)
    return tmp_path


def save(path, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    uids = {
        "SOPInstanceUID": f"1.2.{int.from_bytes(path.name.encode(), 'big')}",
        "PatientID": "P1",
        "StudyInstanceUID": "1.2.9",
    }
    path.write_bytes(written(VALUES, **(uids | tags)))


def test_the_headers_tell_view_age_sex_patient_and_study(root):
    manifest = DicomFolder.read(root)
    images = manifest.images.set_index("path")
    first, side = images.loc["00/0/IM0.dcm"], images.loc["00/0/lateral.dcm"]
    assert (first["view"], first["age_years"], first["sex_male"]) == ("PA", 40.0, 1.0)
    assert (side["view"], side["patientid"], side["studyid"]) == ("LATERAL", first["patientid"], first["studyid"])
    second = images.loc["00/1/IM1.dcm"]
    assert second["patientid"] == first["patientid"]
    assert second["studyid"] != first["studyid"]
    assert (images["patientid"].nunique(), images["studyid"].nunique(), len(images)) == (13, 18, 19)


def test_every_image_of_the_replica_is_read_by_the_cache(root, tmp_path):
    manifest = DicomFolder.read(root)
    paths = manifest.paths()
    assert unreadable(paths, manifest.places(), manifest.images["patientid"].tolist()) == []
    cache = build_cache(paths, CacheSpec(48), tmp_path / "cache")
    assert cache.kept.all()
    corners = cache.pixels[:][:, :3, :3].mean(axis=(1, 2))
    assert (corners < 80).all(), "the air beside the chest is dark in MONOCHROME1 and 2 alike"


def test_files_of_any_name_in_any_folder(tmp_path):
    for name in ("a/b/c/IM0001", "x.DCM", "deep er/1.2.840.dcm", "noext"):
        save(tmp_path / name)
    assert sorted(DicomFolder.read(tmp_path).images["path"]) == [
        "a/b/c/IM0001",
        "deep er/1.2.840.dcm",
        "noext",
        "x.DCM",
    ]


def test_without_a_table_there_are_no_labels(root):
    expected = DicomFolder.read(root)
    (root / "labels.csv").unlink()
    manifest = DicomFolder.read(root)
    assert list(manifest.labels) == []
    assert (len(manifest.labels), manifest.problems) == (19, ())
    assert manifest.images.equals(expected.images)
    assert manifest.counts()["findings"] == {}


def test_rows_name_images_by_path_or_by_uid(tmp_path):
    save(tmp_path / "a.dcm", SOPInstanceUID="1.2.3.4")
    save(tmp_path / "b.dcm", SOPInstanceUID="1.2.3.5")
    save(tmp_path / "c.dcm", SOPInstanceUID="1.2.3.6")
    rows = [("1.2.3.5", 1, ""), ("a.dcm", 0, -1), ("1.2.3.999", 1, 1)]
    pd.DataFrame(rows, columns=["image", "Pneumonia", "Effusion"]).to_csv(tmp_path / "labels.csv", index=False)
    manifest = DicomFolder.read(tmp_path)
    assert list(manifest.images["path"]) == ["a.dcm", "b.dcm", "c.dcm"]
    np.testing.assert_array_equal(manifest.labels.to_numpy(float), [[0, -1], [1, np.nan], [np.nan, np.nan]])
    assert manifest.problem_counts() == {"label without a radiograph": 1, "radiograph without labels": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,Pneumonia\na.dcm,1\n", 'Expected a column "image"'),
        ("image,Pneumonia\na.dcm,2\n", r"^dicom: expected 1, 0, -1 .* found '2' \(rows 2\)"),
        ("image,Pneumonia\na.dcm,1\n1.2.3.4,1\n", "one row an image .* rows 2, 3"),
        ("image,Pneumoniax\na.dcm,1\n", "Pneumoniax"),
        ("image,Pneumonia\n../a.dcm,1\n", "relative to the root"),
        ("image,Pneumonia\n,1\n", 'a value of "image"'),
    ],
)
def test_a_faulty_table_is_an_error(tmp_path, text, message):
    save(tmp_path / "a.dcm", SOPInstanceUID="1.2.3.4")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        DicomFolder.read(tmp_path)


def test_what_is_no_chest_radiograph_is_left_out_with_its_reason(tmp_path):
    save(tmp_path / "good.dcm")
    save(tmp_path / "ct.dcm", Modality="CT")
    save(tmp_path / "mr.dcm", Modality="MR")
    save(tmp_path / "cine.dcm", NumberOfFrames=4)
    save(tmp_path / "colour.dcm", SamplesPerPixel=3, PhotometricInterpretation="RGB")
    save(tmp_path / "hand.dcm", BodyPartExamined="HAND")
    save(tmp_path / "again.dcm", SOPInstanceUID="1.2.3.4")
    save(tmp_path / "once.dcm", SOPInstanceUID="1.2.3.4")
    (tmp_path / "viewer.exe").write_bytes(b"MZ" + bytes(500))
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "cut.dcm").write_bytes(written(VALUES)[:400])
    manifest = DicomFolder.read(tmp_path)
    assert list(manifest.images["path"]) == ["again.dcm", "good.dcm"]
    assert manifest.problem_counts() == {
        "not a radiograph": 2,
        "multi-frame": 1,
        "colour": 1,
        "not a chest": 1,
        "repeated image": 1,
        "not DICOM": 1,
        "truncated or damaged": 1,
    }
    assert {p.where for p in manifest.problems if p.kind == "not a radiograph"} == {"DICOM files", "ct.dcm", "mr.dcm"}


def test_many_problems_are_counted_and_some_named(tmp_path):
    save(tmp_path / "good.dcm")
    for number in range(30):
        save(tmp_path / f"ct{number}.dcm", Modality="CT")
    problems = DicomFolder.read(tmp_path).problems
    assert (len(problems), problems[0].count, str(problems[0])) == (21, 30, "DICOM files: 30 files: not a radiograph")


def test_a_folder_without_radiographs_says_what_it_found(tmp_path):
    save(tmp_path / "ct.dcm", Modality="CT")
    with pytest.raises(DataError, match=r"^dicom: expected chest radiographs .* 1 files \(not a radiograph: .* CT\)"):
        DicomFolder.read(tmp_path)


def test_a_patient_without_an_id_is_one_a_study(tmp_path):
    save(tmp_path / "a.dcm", PatientID="", StudyInstanceUID="1.1")
    save(tmp_path / "b.dcm", PatientID="", StudyInstanceUID="1.1")
    save(tmp_path / "c.dcm", PatientID="", StudyInstanceUID="1.3")
    save(tmp_path / "d.dcm", PatientID="1.1", StudyInstanceUID="1.4")
    manifest = DicomFolder.read(tmp_path)
    a, b, c, d = manifest.images["patientid"]
    assert a == b
    assert len({a, c, d}) == 3
    assert manifest.problem_counts() == {"no patient id": 3}


# Ids


SECRET = {
    "PatientName": "SECRETNAME^A",
    "PatientID": "SECRETID",
    "StudyInstanceUID": "1.2.77777",
    "StudyDate": "20240506",
}
SECRET |= {"SOPInstanceUID": "1.2.77777.5", "AccessionNumber": "SECRETACC", "PatientBirthDate": "19610203"}
MARKS = ("SECRET", "77777", "20240506", "19610203")


def test_no_identifier_is_in_a_manifest_or_a_problem(tmp_path):
    save(tmp_path / "a.dcm", **SECRET)
    save(tmp_path / "b.dcm", **{**SECRET, "Modality": "CT"})
    save(tmp_path / "c.dcm", **{**SECRET, "SOPInstanceUID": "1.2.77777.6", "PatientID": ""})
    manifest = DicomFolder.read(tmp_path)
    told = repr(manifest.__dict__) + manifest.images.to_csv() + "".join(map(str, manifest.problems))
    assert len(manifest.problems) == 2
    assert not [mark for mark in MARKS if mark in told]
    for column in ("image_id", "patientid", "studyid"):
        assert manifest.images[column].str.fullmatch("[0-9a-f]{16}").all()


def test_ids_last_as_long_as_the_key_and_no_longer(tmp_path):
    save(tmp_path / "a.dcm")
    first, second = DicomFolder.read(tmp_path).images, DicomFolder.read(tmp_path).images
    assert first.equals(second)
    key = tmp_path / KEY_FILE
    assert len(key.read_bytes()) == KEY_BYTES
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    key.unlink()
    third = DicomFolder.read(tmp_path).images
    for column in ("image_id", "patientid", "studyid"):
        assert (third[column] != first[column]).all()


def test_the_hash_is_that_of_the_standard():
    """RFC 4231, test case 2."""
    assert identity_hash(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7"[:16]


def test_a_value_is_another_id_as_patient_than_as_study(tmp_path):
    save(tmp_path / "a.dcm", PatientID="1.2.9", StudyInstanceUID="1.2.9", SOPInstanceUID="1.2.9")
    row = DicomFolder.read(tmp_path).images.iloc[0]
    assert len({row["image_id"], row["patientid"], row["studyid"]}) == 3


def test_the_key_may_lie_elsewhere(root, tmp_path_factory):
    key = tmp_path_factory.mktemp("keys") / "key"
    key.write_bytes(bytes(KEY_BYTES))
    elsewhere = DicomFolder.read(root, key_file=str(key)).images
    assert (elsewhere["patientid"] != DicomFolder.read(root).images["patientid"]).all()
    with pytest.raises(DataError, match=r"^dicom: expected to read or make the key .* key_file"):
        DicomFolder.read(root, key_file=str(key.parent / "absent"))
    key.write_bytes(b"short")
    with pytest.raises(DataError, match=r"expected 32 bytes in the key .* found 5"):
        DicomFolder.read(root, key_file=str(key))


def test_a_root_that_cannot_be_written_asks_for_a_key_file(tmp_path, monkeypatch):
    save(tmp_path / "a.dcm")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=r"hilum-id-key'; Permission denied\. .* option key_file"):
        DicomFolder.read(tmp_path)


def test_labels_only_reads_the_same(root):
    assert DicomFolder.read(root, labels_only=True).images.equals(DicomFolder.read(root).images)


def test_pixels_are_not_read(root):
    """A header of a file whose pixels are cut off is read all the same; the check of images finds it."""
    path = root / "05/0/IM0.dcm"
    path.write_bytes(path.read_bytes()[:-4000])
    manifest = DicomFolder.read(root)
    assert manifest.problems == ()
    (left,) = unreadable(manifest.paths(), manifest.places())
    assert left.kind == "truncated or damaged"


def test_the_replicas_of_other_databases_are_read_too(tmp_path):
    save_dicom_radiograph(tmp_path / "one.dcm", PatientID="7")
    assert DicomFolder.read(tmp_path).images["view"].tolist() == ["PA"]


# Names, links, ages and parts of the body


LATIN = b"M\xfcller"


def test_names_that_are_not_utf8_are_read_and_printed_escaped(tmp_path):
    name = os.fsdecode(LATIN + b".dcm")
    save(tmp_path / "a.dcm")
    (tmp_path / os.fsdecode(LATIN)).mkdir()
    (tmp_path / name).write_bytes(written(VALUES, SOPInstanceUID="", PatientID="", StudyInstanceUID=""))
    (tmp_path / os.fsdecode(LATIN) / "note.txt").write_text("no image")
    manifest = DicomFolder.read(tmp_path)
    assert list(manifest.images["path"]) == [name, "a.dcm"]
    assert manifest.images["image_id"].str.fullmatch("[0-9a-f]{16}").all()
    assert build_cache(manifest.paths(), CacheSpec(48), tmp_path / "cache", names=manifest.places()).kept.all()
    told = manifest.places() + [str(problem) for problem in manifest.problems]
    assert [text.encode() for text in told], "every text can be printed"
    assert any("M\\xfcller.dcm" in text for text in told)
    assert any("M\\xfcller/note.txt" in text for text in told)


def test_linked_folders_are_followed_once_and_loops_end(tmp_path):
    save(tmp_path / "elsewhere/one.dcm")
    save(tmp_path / "root/z/two.dcm")
    root = tmp_path / "root"
    (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "again").symlink_to(root / "z", target_is_directory=True)
    (root / "z/loop").symlink_to(root, target_is_directory=True)
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    manifest = DicomFolder.read(root)
    assert list(manifest.images["path"]) == ["linked/one.dcm", "z/two.dcm"]
    assert manifest.problems == ()


def test_a_folder_that_cannot_be_listed_is_a_problem(tmp_path, monkeypatch):
    save(tmp_path / "a.dcm")
    save(tmp_path / "closed/b.dcm")
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    manifest = DicomFolder.read(tmp_path)
    assert list(manifest.images["path"]) == ["a.dcm"]
    assert [str(problem).partition(":")[0] for problem in manifest.problems] == ["closed"]


def test_ages_that_cannot_be_are_unknown_and_counted(tmp_path):
    for number, age in enumerate(("148Y", "51", "045Y", "", "006M")):
        save(tmp_path / f"{number}.dcm", PatientAge=age)
    manifest = DicomFolder.read(tmp_path)
    assert manifest.images["age_years"].tolist() == pytest.approx([np.nan, np.nan, 45, np.nan, 0.5], nan_ok=True)
    assert manifest.problem_counts() == {"age not plausible": 2}
    assert "148" not in " ".join(map(str, manifest.problems))


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        *((part, True) for part in ("", "CHEST", "PORT CHEST", "Chest AP", "CHESTABDOMEN", "THORAX", "TORAX", "LUNG")),
        *((part, True) for part in ("RIB", "RIBS LEFT", "UNILAT_RIBS")),
        *((part, False) for part in ("FOOT LEFT", "LUMBAR SPINE", "L-SPINE", "SPINE", "EXTREMITY", "ABDOMEN", "SKULL")),
        *((part, False) for part in ("THORACIC SPINE", "TSPINE", "HAND", "CRIBRIFORM")),
    ],
)
def test_only_chests_are_kept(tmp_path, part, kept):
    save(tmp_path / "pelvis.dcm", BodyPartExamined="CHEST")
    save(tmp_path / "x.dcm", BodyPartExamined=part)
    manifest = DicomFolder.read(tmp_path)
    assert ("x.dcm" in set(manifest.images["path"])) == kept
    assert manifest.problem_counts() == ({} if kept else {"not a chest": 1})


def test_a_missing_photometric_interpretation_is_not_called_colour(tmp_path):
    save(tmp_path / "good.dcm")
    save(tmp_path / "silent.dcm", PhotometricInterpretation=None)
    manifest = DicomFolder.read(tmp_path)
    assert manifest.problem_counts() == {"no photometric interpretation": 1}
    assert "found none" in str(manifest.problems[0])


def test_an_unmatched_row_is_named_by_its_number_alone(tmp_path):
    save(tmp_path / "a.dcm", SOPInstanceUID="1.2.3.4")
    (tmp_path / "labels.csv").write_text("image,Pneumonia\na.dcm,1\n1.2.77777.5,1\n")
    (problem,) = DicomFolder.read(tmp_path).problems
    assert str(problem).startswith("labels.csv row 3: ")
    assert "77777" not in str(problem)


def test_a_key_file_of_a_study_lies_relative_to_the_study(root, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    (home / "keys").mkdir()
    (home / "keys/site").write_bytes(bytes(KEY_BYTES))
    site = f"{{database: {{name: dicom, key_file: keys/site}}, root: {root}}}"
    (home / "study.yaml").write_text(f"name: s\nfindings: [Pneumonia]\nsites: {{a: {site}}}\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    study = load_study(home / "study.yaml")
    plan = plan_of(study, "a", study.sites["a"])
    assert plan.options == {"key_file": str((home / "keys/site").resolve())}
    assert DicomFolder.read(root, **plan.options).images.equals(
        DicomFolder.read(root, key_file=home / "keys/site").images
    )
    again = parse_study(yaml.safe_load(dump_study(study)), "run")
    assert again.sites["a"].database == study.sites["a"].database


def test_a_key_file_that_is_no_path_is_an_error(root):
    with pytest.raises(DataError, match="'key_file' as a path; found 7"):
        DicomFolder.read(root, key_file=7)


def test_a_manifest_with_names_that_are_not_utf8_is_written_byte_for_byte(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(LATIN + b".dcm")).write_bytes(written(VALUES))
    out = tmp_path / "out.csv"
    result = CliRunner().invoke(app, ["data", "manifest", "dicom", str(tmp_path / "in"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert LATIN + b".dcm" in out.read_bytes()
