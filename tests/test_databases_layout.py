"""Files as they lie on disk: tables, paths, ages, boxes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.databases import layout
from hilum.databases.manifest import Problem
from hilum.errors import DataError

corner = st.integers(-20_000, 40_000).map(lambda tenths: tenths / 10)
pixels = st.lists(st.tuples(corner, corner, corner, corner), max_size=12)


def frame_of(boxes, width=1024.0, height=512.0):
    table = pd.DataFrame(boxes, columns=["x0", "y0", "x1", "y1"], dtype=float)
    table.insert(0, "image_id", [f"{n}.png" for n in range(len(table))])
    return table.assign(finding="Mass", width=width, height=height)


@given(pixels)
def test_boxes_are_the_intersection_with_the_frame(boxes):
    table, problems = layout.relative_boxes("b.csv", frame_of(boxes))
    expected = {}
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        inside = max(x0, 0), max(y0, 0), min(x1, 1024), min(y1, 512)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            expected[f"{n}.png"] = np.array(inside) / (1024, 512, 1024, 512)
    assert list(table["image_id"]) == list(expected)
    found = table[["x0", "y0", "x1", "y1"]].to_numpy(float)
    np.testing.assert_allclose(found, np.array(list(expected.values())).reshape(-1, 4), atol=1e-12)
    untouched = sum(0 <= x0 < x1 <= 1024 and 0 <= y0 < y1 <= 512 for x0, y0, x1, y1 in boxes)
    assert bool(problems) == (untouched < len(boxes))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((900, 10, 1100, 50), "leaves the image"),
        ((1030, 10, 1100, 50), "no area"),
        ((10, 10, 10, 50), "no area"),
        ((50, 10, 10, 50), "no area"),
        ((np.nan, 10, 20, 50), "no area"),
        ((np.inf, 10, np.inf, 50), "no area"),
    ],
)
def test_a_faulty_box_is_one_problem(box, reason):
    table, problems = layout.relative_boxes("b.csv", frame_of([(0, 0, 512, 256), box]))
    assert len(problems) == 1
    assert reason in str(problems[0])
    assert len(table) == (2 if "leaves" in reason else 1)
    assert table.iloc[0][["x0", "y0", "x1", "y1"]].tolist() == [0, 0, 0.5, 0.5]


def test_a_frame_without_size_drops_the_box():
    table, problems = layout.relative_boxes("b.csv", frame_of([(0, 0, 5, 5)], width=0.0))
    assert (len(table), len(problems)) == (0, 1)


@given(st.integers(0, 120), st.sampled_from(["{}", "{:03d}Y", " {}y "]))
def test_ages_in_years(years, form):
    ages, problems = layout.ages_in_years("t.csv", pd.Series([form.format(years)]))
    assert (ages.tolist(), problems) == ([years], [])


def test_ages_in_other_units_and_impossible_ages():
    raw = pd.Series(["006M", "010D", "414", "148Y", "old", "-3", np.nan, ""], index=range(2, 10))
    ages, problems = layout.ages_in_years("t.csv", raw)
    np.testing.assert_allclose(ages, [0.5, 10 / 365.25, *[np.nan] * 6])
    assert str(problems[0]).startswith("t.csv: 4 ages")
    assert [p.where for p in problems[1:]] == [f"t.csv row {row}" for row in (4, 5, 6, 7)]


def test_many_problems_are_one_count_and_twenty_rows():
    problems = layout.listed("t.csv", range(2, 102), (f"r{n}" for n in range(100)), "are odd", "odd row")
    assert [str(p) for p in (*problems[:2], problems[-1])] == [
        "t.csv: 100 are odd",
        "t.csv row 2: r0",
        "t.csv row 21: r19",
    ]
    assert len(problems) == 21
    assert sum(p.count for p in problems) == 100
    assert {p.kind for p in problems} == {"odd row"}


def table_error(tmp_path, content, match):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match):
        layout.read_table("d", path, ("image", "patient"))


def test_tables_that_cannot_be_read(tmp_path):
    table_error(tmp_path, b"", "empty file")
    table_error(tmp_path, b"image;patient\na;b\n", "separated by commas")
    table_error(tmp_path, "image,patient\nä,b\n".encode("latin-1"), "UTF-8")
    table_error(tmp_path, b"image,patient\na,b,c\n", "as many cells")
    table_error(tmp_path, b"image,patient\na,b\na,b,c\n", "as many cells")
    table_error(tmp_path, b"image,patient_id\na,b\n", 'column "patient" in .*; found "patient_id"; rename it')
    table_error(tmp_path, b"image,Patient\na,b\n", 'found "Patient"; rename it')
    table_error(tmp_path, b"image,zzz\na,b\n", "found image, zzz")


def test_rows_are_those_of_the_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffimage, patient \r\na, 1\r\n\r\n,\r\nb,2\r\n".encode())
    table = layout.read_table("d", path, ("image", "patient"))
    assert table.to_dict("index") == {2: {"image": "a", "patient": "1"}, 5: {"image": "b", "patient": "2"}}


@pytest.mark.parametrize("bad", ["/etc/x.png", "../x.png", "a/../../x.png", "C:\\x.png", "..\\x.png"])
def test_a_path_out_of_the_root_is_an_error(bad):
    with pytest.raises(DataError, match="lead out of it in the rows 3"):
        layout.relative_paths("d", "t.csv", pd.Series(["a.png", bad], index=[2, 3]))


def test_a_file_out_of_the_root_is_not_on_disk(tmp_path):
    for folder in ("root", "root/images"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").touch()
    (tmp_path / "x.png").touch()
    paths = ["x.png", "images/x.png", "a..b/x.png", "../x.png", "images/../../x.png", f"{tmp_path}/x.png", "/x.png"]
    assert layout.on_disk(tmp_path / "root", paths).tolist() == [True, True, *[False] * 5]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Müller.png", "Müller.png"), ("M\udcfcller.png", r"M\xfcller.png"), ("\ud800.png", r"\ud800.png")],
)
def test_names_are_printed_whatever_their_bytes(name, shown):
    assert str(Problem(name, "odd", "odd")) == f"{shown}: odd"


def test_a_missing_file_names_what_is_there_whatever_its_bytes(tmp_path):
    (tmp_path / "M\udcfcller").touch()
    with pytest.raises(DataError, match=r"found M\\xfcller\."):
        layout.require_file("d", tmp_path, "a.csv")


def test_paths_are_written_with_slashes():
    names = pd.Series([" ./a/b.png", "a\\b.png", "a..b/c.png"])
    assert layout.relative_paths("d", "t.csv", names).tolist() == ["a/b.png", "a/b.png", "a..b/c.png"]


def test_a_missing_file_names_what_is_there(tmp_path):
    (tmp_path / "Labels.txt").touch()
    with pytest.raises(DataError, match=r"expected the file 'a.csv' or 'b.csv' in .* found Labels.txt"):
        layout.require_file("d", tmp_path, "a.csv", "b.csv")
