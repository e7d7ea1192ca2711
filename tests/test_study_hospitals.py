"""The sites of a study as loaded: closed over the database, read with its options, without each other's patients."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hospitals
from hilum.databases import DATABASES
from hilum.errors import StudyError
from hilum.sites.site import Site
from hilum.study.hospitals import load_sites
from hilum.study.run import _tell_unlabelled
from hilum.study.spec import load_study

REMOVE = "overlap={action: remove, near: null}"


def load(study: Path, *overrides: str) -> dict[str, Site]:
    """Return the sites of a study by their names."""
    sites = load_sites(load_study(study, list(overrides)), study.parent / "cache")
    return {site.name: site for site in sites}


def relabel(root: Path, **columns: list[float]) -> None:
    """Repeat the values down columns of a hospital's labels."""
    table = pd.read_csv(root / "labels.csv")
    for name, values in columns.items():
        table[name.replace("_", " ")] = np.resize(np.array(values), len(table))
    table.to_csv(root / "labels.csv", index=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return hospitals.write_study(tmp_path)


nan = float("nan")


@pytest.mark.parametrize(
    ("closure", "expected"),
    [("none", [nan, nan, 0, 1]), ("upward", [1, -1, 0, 1]), ("downward", [nan, nan, 0, 1])],
)
def test_closure_looks_at_all_labels_of_the_database(closure: str, expected: list[float], study: Path) -> None:
    """Nodule is no finding of the study, and still says that there is an opacity."""
    relabel(study.parent / "north", Nodule=[1, -1, 1, nan], Lung_Opacity=[nan, nan, 0, 1])
    asked = ("findings=[Lung Opacity, Effusion]", f"closure={closure}", "arms=[local]")
    for name in ("south", "east"):
        relabel(study.parent / name, Lung_Opacity=[0, 1])
    north = load(study, *asked)["north"]
    assert north.findings == ("Lung Opacity", "Effusion")
    raw = np.resize(np.array([nan, nan, 0, 1]), len(north.raw))
    np.testing.assert_array_equal(north.raw[:, 0], raw)
    closed = np.resize(np.array(expected), len(raw))
    np.testing.assert_array_equal(north.targets[:, 0], np.where(closed == -1, nan, closed))


def test_closure_goes_down_from_a_finding_that_the_study_does_not_ask_for(study: Path) -> None:
    relabel(study.parent / "north", Nodule=[nan, 1, -1, nan], Lung_Opacity=[0, 1, 0, nan])
    targets = load(study, "closure=downward")["north"].targets
    np.testing.assert_array_equal(targets[:, 0], np.resize([0, 1, 0, nan], len(targets)))


def test_contradictions_are_counted_where_a_finding_of_the_study_takes_part(study: Path) -> None:
    """Pneumonia without consolidation bears on nothing that is asked; 'No Finding' beside a nodule does."""
    relabel(
        study.parent / "north",
        **{"Nodule": [1, 0], "Lung_Opacity": [0, 0], "No_Finding": [1, 1], "Pneumonia": [1, 1], "Consolidation": [0]},
        Effusion=[0],
    )
    relabel(study.parent / "south", Effusion=[0, 1])
    half = len(pd.read_csv(study.parent / "north" / "labels.csv")) // 2
    found = load(study)["north"].contradictions
    assert found == {("Nodule", "Lung Opacity"): half, ("Nodule", "No Finding"): half}


def copy(root: Path, source: tuple[str, int], target: tuple[str, int]) -> None:
    """Put the file of an image of one hospital in the place of another's."""
    (a, i), (b, k) = source, target
    files = [pd.read_csv(root / name / "labels.csv")["image"][row] for name, row in ((a, i), (b, k))]
    shutil.copy(root / a / files[0], root / b / files[1])


def held(sites: dict[str, Site]) -> dict[str, int]:
    return {name: len(site.manifest) for name, site in sites.items()}


def test_an_image_at_three_sites_stays_at_the_first(study: Path) -> None:
    before = held(load(study))
    copy(study.parent, ("north", 0), ("south", 3))
    copy(study.parent, ("north", 0), ("east", 5))
    with pytest.raises(StudyError) as caught:
        load(study)
    for pair in ("'north' and 'south'", "'north' and 'east'", "'south' and 'east'"):
        assert f"{pair} share 0 patients and 1 identical images" in str(caught.value)
    sites = load(study, REMOVE)
    assert held(sites) == {"north": before["north"], "south": before["south"] - 2, "east": before["east"] - 2}
    assert [dict(site.removed) for site in sites.values()] == [
        {},
        {"shared with another site": 2},
        {"shared with another site": 2},
    ]


def test_what_a_site_has_lost_takes_nothing_from_the_next(study: Path) -> None:
    """South's patient is north's, and goes with both images; the second of them is then east's alone."""
    before = held(load(study))
    copy(study.parent, ("north", 0), ("south", 2))
    copy(study.parent, ("south", 3), ("east", 4))
    sites = load(study, REMOVE)
    assert held(sites) == before | {"south": before["south"] - 2}
    assert dict(sites["east"].removed) == {}


def test_the_order_of_the_study_says_who_keeps(study: Path) -> None:
    before = held(load(study))
    copy(study.parent, ("north", 0), ("south", 3))
    text = study.read_text()
    north, south = (next(line for line in text.splitlines(True) if f"  {name}:" in line) for name in ("north", "south"))
    study.write_text(text.replace(north, "").replace(south, south + north))
    assert held(load(study, REMOVE)) == before | {"north": before["north"] - 2}


def test_contradictions_of_removed_images_do_not_count(study: Path) -> None:
    relabel(study.parent / "south", Lung_Opacity=[0], Nodule=[1, 0])
    copy(study.parent, ("north", 0), ("south", 2))
    south = load(study, REMOVE)["south"]
    positive = int((south.raw[:, 0] == 1).sum())
    assert south.contradictions == {("Nodule", "Lung Opacity"): positive}


@pytest.mark.parametrize(
    ("splits", "told"),
    [
        (
            {"train"},
            "Site 'south': expected training images with labels after those that a site before it holds were removed; "
            "found none of 16 images. Remove the site from the study, or give it the role 'outside'.",
        ),
        (
            {"train", "val", "test"},
            "Site 'south': expected images that no site before it holds; found none. Remove it from the study.",
        ),
    ],
)
def test_a_training_site_that_is_left_empty_is_told_once(splits: set[str], told: str, study: Path) -> None:
    table = pd.read_csv(study.parent / "south" / "labels.csv")
    for row in np.flatnonzero(table["split"].isin(splits)):
        copy(study.parent, ("north", int(row)), ("south", int(row)))
    with pytest.raises(StudyError) as caught:
        load(study, REMOVE)
    assert str(caught.value) == told


def rsna(tmp_path: Path, database: str) -> Path:
    DATABASES.load("rsna").write_replica(tmp_path / "rsna")
    study = tmp_path / "study.yaml"
    site = f"{{database: {database}, root: rsna}}"
    study.write_text(
        f"name: x\nfindings: [Pneumonia]\nsites: {{rsna: {site}}}\nimages: {{size: 32, on_error: leave_out}}\n"
    )
    return study


def test_an_option_of_the_database_reaches_its_adapter(tmp_path: Path) -> None:
    study = rsna(tmp_path, "{name: rsna, pneumonia: true}")
    (site,) = load(study).values()
    assert site.plan.options == {"pneumonia": True}
    np.testing.assert_array_equal(site.raw[:, 0], site.manifest.labels["Lung Opacity"])
    with pytest.raises(StudyError, match="found labels of Lung Opacity"):
        load(study, "sites.rsna.database=rsna")


def test_an_option_may_be_set_for_one_run(tmp_path: Path) -> None:
    study = rsna(tmp_path, "rsna")
    (site,) = load(study, "sites.rsna.database.pneumonia=true").values()
    assert "Pneumonia" in site.manifest.labels


def test_a_value_that_the_adapter_cannot_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="expected true or false for the option 'pneumonia'; found 'perhaps'"):
        load(rsna(tmp_path, "{name: rsna, pneumonia: perhaps}"))


def test_an_outside_hospital_that_labels_no_finding_is_told(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = load(study)
    _tell_unlabelled(list(sites.values()))
    assert capsys.readouterr().err == ""
    blank = {name: replace(site, targets=np.full_like(site.targets, np.nan)) for name, site in sites.items()}
    _tell_unlabelled(list(blank.values()))
    assert capsys.readouterr().err == (
        "hilum: east labels none of the findings of the study, so that nothing there is tested.\n"
    )
