"""AIforCOVID: releases and challenge, hospitals, prognosis, clinical values, codes of sex and spreadsheets."""

import re
import sys
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest

from hilum.databases.aiforcovid import CLINICAL, AIforCOVID
from hilum.databases.replica import save_radiograph
from hilum.errors import DataError


@pytest.fixture
def root(tmp_path):
    AIforCOVID.write_replica(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def write_challenge(root, beside=False, **columns):
    """The challenge: names with a suffix, images as PNG, the test table with and without prognoses."""
    for part, table, prognoses in (
        ("TrainSet", "trainClinData", ["MILD", "SEVERE"]),
        ("TestSet", "testClinData", [""] * 2),
    ):
        names = [f"P_{part[:2]}{k}.png" for k in range(2)]
        for name in names:
            save_radiograph((root / part if beside else root / part / part) / name)
        rows = {"ImageFile": names, "Hospital": ["A", "f"], "Prognosis": prognoses, "Age": [70, 71], **columns}
        pd.DataFrame(rows).to_csv(root / part / f"{table}.csv", index=False)


def test_three_releases_with_their_hospitals_and_prognoses(root):
    manifest = AIforCOVID.read(root)
    images = manifest.images
    assert list(images["image_id"][:2]) == ["P_1_1", "P_1_2"]
    assert images["path"][6] == "imgs_r2/P_2_1.dcm"
    assert images["hospital"].value_counts().to_dict() == dict.fromkeys("ABCDEF", 3)
    assert images["official_split"].isna().all()
    assert (manifest.labels["COVID-19"] == 1).all()
    assert list(manifest.labels["Severe COVID-19"][:3]) == [1, 0, 1]
    assert images["age_years"][7] == 47
    assert manifest.places()[6] == "AIforCOVID_r2.csv row 2 (imgs_r2/P_2_1.dcm)"


def test_one_release_alone_is_read(root):
    for name in ("AIforCOVID.csv", "AIforCOVID_r3.csv"):
        (root / name).unlink()
    assert set(AIforCOVID.read(root).extra["table"]) == {"AIforCOVID_r2"}


def test_clinical_values_are_numbers_with_nan_where_blank(root):
    extra = AIforCOVID.read(root).extra
    assert [name for name in extra if name != "table"] == [*CLINICAL, "Position", "Death"]
    assert len(CLINICAL) == 34
    assert all(extra[name].dtype == np.float64 for name in (*CLINICAL, "Position", "Death"))
    assert extra["Temp_C"].isna().sum() == 3
    assert set(extra["Temp_C"].dropna()) == {37.5}
    assert extra["Death"].isna().all()


def test_a_value_that_is_no_number_is_unknown_with_a_problem(root):
    edit(root / "AIforCOVID.csv", "37.5", "> 38")
    manifest = AIforCOVID.read(root)
    assert manifest.extra["Temp_C"].isna().sum() == 4
    assert manifest.problem_counts() == {"clinical value not a number": 1}


def test_another_spelling_of_the_columns(root):
    expected = AIforCOVID.read(root)
    edit(root / "AIforCOVID_r2.csv", "PositivityAtAdmission", "Positivity at admission")
    edit(root / "AIforCOVID_r2.csv", "D_dimer", "D-dimer")
    edit(root / "AIforCOVID_r2.csv", "ChronicKidneyDisease", "Chronic Kidney disease")
    assert AIforCOVID.read(root).extra.equals(expected.extra)


def test_a_column_that_is_absent_is_unknown(root):
    for name in ("AIforCOVID.csv", "AIforCOVID_r2.csv", "AIforCOVID_r3.csv"):
        pd.read_csv(root / name).drop(columns=["Obesity", "Sex"]).to_csv(root / name, index=False)
    manifest = AIforCOVID.read(root, male=1)
    assert manifest.extra[["Obesity", "Sex"]].isna().all(axis=None)
    assert manifest.images["sex_male"].isna().all()


def test_sex_is_known_only_where_the_code_is(root):
    assert AIforCOVID.read(root).images["sex_male"].isna().all()
    males = {male: AIforCOVID.read(root, male=male).images["sex_male"] for male in (0, 1)}
    assert list(males[1][:6]) == [0, 0, 1, 1, 0, 0]
    assert (males[0] == 1 - males[1]).all()
    for male in (2, "M", True):
        with pytest.raises(DataError, match=f"'male' as 0 or 1; found {male!r}"):
            AIforCOVID.read(root, male=male)


def test_sex_may_be_written_as_a_letter(root):
    table = pd.read_csv(root / "AIforCOVID.csv")
    table.assign(Sex=["M", "F", "m", "", "Male", "x"]).to_csv(root / "AIforCOVID.csv", index=False)
    manifest = AIforCOVID.read(root)
    assert manifest.images["sex_male"][:6].tolist() == pytest.approx([1, 0, 1, np.nan, 1, np.nan], nan_ok=True)
    assert manifest.problems == ()


def test_the_view_is_that_of_the_header(root):
    assert AIforCOVID.read(root).images["view"].value_counts().to_dict() == {"PA": 9, "AP": 9}
    assert AIforCOVID.read(root, labels_only=True).images["view"].isna().all()


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("folder", [".", "TrainSet"])
def test_the_challenge_is_read_from_both_its_folders(tmp_path, beside, folder):
    write_challenge(tmp_path, beside)
    manifest = AIforCOVID.read(tmp_path / folder)
    known = {"P_Tr0": 0.0, "P_Tr1": 1.0}
    tests = ["P_Te0", "P_Te1"] if folder == "." else []
    assert list(manifest.images["image_id"]) == [*known, *tests]
    assert list(manifest.labels["Severe COVID-19"].dropna()) == list(known.values())
    assert list(manifest.images["hospital"][:2]) == ["A", "F"]
    assert manifest.images["view"].isna().all()
    assert all(path.is_file() for path in manifest.paths())


def test_the_complete_test_table_goes_before_the_one_without_prognoses(tmp_path):
    write_challenge(tmp_path)
    text = (tmp_path / "TestSet" / "testClinData.csv").read_text().replace("A,", "A,MILD").replace("f,", "f,SEVERE")
    (tmp_path / "TestSet" / "completeTestClinData.csv").write_text(text)
    (tmp_path / "TestSet" / "testClinData.csv").rename(tmp_path / "TestSet" / "testClinData.xls")
    manifest = AIforCOVID.read(tmp_path)
    assert list(manifest.labels["Severe COVID-19"]) == [0, 1, 0, 1]


def to_sheet(table, end):
    """Save a CSV of the replica as a spreadsheet, numbers as numbers, as the archive gives it."""
    head, *rows = [line.split(",") for line in table.read_text().splitlines()]
    cells = [
        head,
        *([float(cell) if cell.replace(".", "").isdigit() else cell or None for cell in row] for row in rows),
    ]
    if end == ".xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for row in cells:
            book.active.append(row)
    else:
        book = pytest.importorskip("xlwt").Workbook()
        sheet = book.add_sheet("data")
        for place, row in enumerate(cells):
            for column, cell in enumerate(row):
                sheet.write(place, column, cell)
    book.save(str(table.with_suffix(end)))
    table.unlink()


@pytest.mark.parametrize("end", [".xls", ".xlsx"])
def test_a_spreadsheet_reads_as_its_csv(root, end):
    pytest.importorskip({".xls": "xlrd", ".xlsx": "openpyxl"}[end])
    expected = AIforCOVID.read(root, male=1)
    for name in ("AIforCOVID", "AIforCOVID_r2", "AIforCOVID_r3"):
        to_sheet(root / f"{name}.csv", end)
    manifest = AIforCOVID.read(root, male=1)
    assert manifest.images.equals(expected.images)
    assert manifest.labels.equals(expected.labels)
    assert manifest.extra.equals(expected.extra)
    assert manifest.problems == ()
    assert manifest.rows[0] == f"AIforCOVID{end} row 2"


def test_a_spreadsheet_that_states_too_small_a_size_is_read_whole(root):
    pytest.importorskip("openpyxl")
    expected = AIforCOVID.read(root)
    to_sheet(root / "AIforCOVID.csv", ".xlsx")
    with ZipFile(root / "AIforCOVID.xlsx") as book:
        parts = {name: book.read(name) for name in book.namelist()}
    with ZipFile(root / "AIforCOVID.xlsx", "w") as book:
        for name, part in parts.items():
            book.writestr(name, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:E2"', part))
    assert AIforCOVID.read(root).labels.equals(expected.labels)


def test_a_csv_goes_before_its_spreadsheet(root):
    (root / "AIforCOVID.xlsx").write_bytes(b"not read")
    assert AIforCOVID.read(root).problems == ()


def test_a_column_that_the_spreadsheet_lacks_is_an_error(root):
    pytest.importorskip("openpyxl")
    edit(root / "AIforCOVID.csv", "Prognosis", "Outcome")
    to_sheet(root / "AIforCOVID.csv", ".xlsx")
    with pytest.raises(DataError, match=r"column \"Prognosis\" in 'AIforCOVID\.xlsx'"):
        AIforCOVID.read(root)


@pytest.mark.parametrize(("end", "package"), [(".xls", "xlrd"), (".xlsx", "openpyxl")])
def test_without_its_package_a_spreadsheet_is_to_be_saved_as_csv(root, monkeypatch, end, package):
    (root / "AIforCOVID_r2.csv").rename(root / f"AIforCOVID_r2{end}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"'{package}' to read the spreadsheet 'AIforCOVID_r2{end}'.*save the sheet"):
        AIforCOVID.read(root)


@pytest.mark.parametrize(("end", "package"), [(".xls", "xlrd"), (".xlsx", "openpyxl")])
@pytest.mark.parametrize("content", [b"", b"ImageFile,Hospital", b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"])
def test_a_damaged_spreadsheet_is_an_error(root, end, package, content):
    pytest.importorskip(package)
    (root / "AIforCOVID_r2.csv").unlink()
    (root / f"AIforCOVID_r2{end}").write_bytes(content)
    with pytest.raises(DataError, match=rf"expected a spreadsheet in 'AIforCOVID_r2{end}'; found one that cannot"):
        AIforCOVID.read(root)


def test_absent_tables_are_problems_with_their_source(root, tmp_path_factory):
    (root / "AIforCOVID_r3.csv").unlink()
    (problem,) = AIforCOVID.read(root).problems
    assert problem.where == "AIforCOVID_r3.csv"
    assert "aiforcovid.radiomica.it" in problem.reason
    challenge = tmp_path_factory.mktemp("challenge")
    write_challenge(challenge)
    assert AIforCOVID.read(challenge).problems == ()
    (challenge / "TestSet" / "testClinData.csv").unlink()
    assert [problem.where for problem in AIforCOVID.read(challenge).problems] == ["completeTestClinData.csv"]


def test_no_table_says_where_the_archive_is(tmp_path):
    with pytest.raises(DataError, match=r"^aiforcovid: expected the file 'AIforCOVID.csv'.*aiforcovid\.radiomica\.it"):
        AIforCOVID.read(tmp_path)


def test_images_that_are_not_on_disk_are_told_by_their_table(root):
    (root / "imgs" / "P_1_2.dcm").unlink()
    (root / "imgs_r3" / "P_3_1.dcm").unlink()
    manifest = AIforCOVID.read(root)
    assert len(manifest) == len(manifest.extra) == len(manifest.labels) == 16
    assert [problem.where for problem in manifest.problems] == ["AIforCOVID.csv row 3", "AIforCOVID_r3.csv row 2"]


def test_a_prognosis_of_another_word_and_a_blank_one(root):
    edit(root / "AIforCOVID.csv", "SEVERE", "dead")
    edit(root / "AIforCOVID.csv", "MILD", "")
    manifest = AIforCOVID.read(root)
    assert manifest.labels["Severe COVID-19"].isna().sum() == 2
    assert manifest.problem_counts() == {"prognosis neither MILD nor SEVERE": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Prognosis", "Outcome", "column \"Prognosis\" in 'AIforCOVID.csv'"),
        ("P_1_1", "", '"ImageFile" in every row .* rows 2'),
        ("P_1_1", "P_1_2", "unique image ids"),
        ("P_1_1", "../P_1_1", "paths that lead out of it in the rows 2"),
        ("ImageFile,Hospital", "ImageFile;Hospital", "as many cells|column"),
    ],
)
def test_a_faulty_table_is_an_error(root, old, new, message):
    edit(root / "AIforCOVID.csv", old, new)
    with pytest.raises(DataError, match=message):
        AIforCOVID.read(root)
