"""A database cut into sites by a study file, its views and the options of databases."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import hospitals
from hilum.errors import StudyError
from hilum.study.spec import parse_study

pytestmark = pytest.mark.usefixtures("unmeasured")

ONE_MODEL = ("--set", "seeds=[0]", "--set", "arms=[pooled]")


def parse(**site: object) -> None:
    parse_study(
        {"name": "x", "findings": ["Nodule"], "sites": {"a": {"database": "folder", "root": "a", **site}}}, "study"
    )


@pytest.mark.parametrize(
    ("partition", "told"),
    [
        ("dirichle", "Did you mean 'dirichlet'"),
        ({"name": "iid", "parts": 3}, "'iid' has no option 'parts'"),
        ("iid", "'iid' needs the option 'num_partitions'"),
        ({"name": "iid", "num_partitions": 0}, "num_partitions"),
    ],
)
def test_a_wrong_partition_is_told_before_anything_is_read(partition: object, told: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse(partition=partition)
    assert told in str(caught.value)


def test_an_option_that_the_database_has_not_is_told() -> None:
    parse(database={"name": "mimic_cxr", "labeller": "negbio"})
    with pytest.raises(StudyError, match="'mimic_cxr' has no option 'labeler'"):
        parse(database={"name": "mimic_cxr", "labeler": "negbio"})


def test_a_partition_makes_sites_without_common_patients(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    cut = ("--set", "sites.north.partition={name: iid, num_partitions: 2}")
    outcome = hospitals.hilum("study", study, "--out", tmp_path / "run", *cut, *ONE_MODEL)
    assert outcome.status == 0, outcome.err
    sites = {site["name"]: site for site in hospitals.json_of(tmp_path / "run" / "sites.json")}
    assert list(sites) == ["north-0", "north-1", "south", "east"]
    whole = pd.read_csv(tmp_path / "north" / "labels.csv", dtype=str)
    assert sites["north-0"]["images"] + sites["north-1"]["images"] == len(whole)
    assert sites["north-0"]["patients"] + sites["north-1"]["patients"] == whole["patient"].nunique()
    macro = [r for r in hospitals.json_of(tmp_path / "run" / "metrics.json")["classification"] if r["site"] == "macro"]
    assert macro
    film = next((tmp_path / "north").rglob("*.png"))
    predicted = hospitals.hilum("predict", tmp_path / "run", film, "--arm", "pooled", "--out", tmp_path / "out")
    assert predicted.status == 0, predicted.err


def with_views(root: Path, views: list[str]) -> None:
    table = pd.read_csv(root / "labels.csv", dtype=str)
    table["view"] = [views[k % len(views)] for k in range(len(table))]
    table.to_csv(root / "labels.csv", index=False)


def test_lateral_images_take_no_part_unless_asked_for(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    with_views(tmp_path / "north", ["PA", "LATERAL", "AP"])
    with_views(tmp_path / "south", ["PA", "LATERAL"])
    every = ("--set", "sites.south.views=[PA, LATERAL]")
    assert hospitals.hilum("study", study, "--out", tmp_path / "run", *every, *ONE_MODEL).status == 0
    sites = {site["name"]: site for site in hospitals.json_of(tmp_path / "run" / "sites.json")}
    assert set(sites["north"]["views"]) == {"PA", "AP"}
    (told,) = sites["north"]["removed"]
    assert told == {"reason": "view LATERAL", "count": told["count"]}
    assert told["count"] + sites["north"]["images"] == len(pd.read_csv(tmp_path / "north" / "labels.csv"))
    assert sites["south"]["removed"] == []


def test_a_site_without_an_image_of_its_views_is_refused(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    with_views(tmp_path / "north", ["LATERAL"])
    outcome = hospitals.hilum("study", study, "--out", tmp_path / "run")
    assert outcome.status == 1
    assert "Site 'north': expected images of the views PA, AP, FRONTAL, unknown; found" in outcome.err


def uncertain(root: Path) -> None:
    table = pd.read_csv(root / "labels.csv", dtype=str)
    table.loc[table.index % 3 == 0, "Nodule"] = "-1"
    table.loc[table.index % 3 == 1, "Effusion"] = ""
    table.to_csv(root / "labels.csv", index=False)


def test_the_report_shows_what_a_policy_turned_into_what(tmp_path: Path) -> None:
    study = hospitals.write_study(tmp_path)
    uncertain(tmp_path / "north")
    policy = ("--set", "label_policy={name: soft, blank: negative, findings: {Effusion: ones}}")
    outcome = hospitals.hilum("study", study, "--out", tmp_path / "run", *policy, *ONE_MODEL)
    assert outcome.status == 0, outcome.err
    north = hospitals.json_of(tmp_path / "run" / "sites.json")[0]
    assert north["label_policy"] == "soft [0.55, 0.85], blank is negative; Effusion: ones"
    nodule = north["findings"]["Nodule"]
    assert sum(nodule["turned"]["uncertain"].values()) == nodule["raw"]["uncertain"]
    assert nodule["turned"]["uncertain"]["soft"] == nodule["train"]["soft"] > 0
    assert nodule["test"]["soft"] == 0
    assert north["findings"]["Effusion"]["turned"]["blank"].keys() == {"negative"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "What the label policies did" in page
    assert "soft [0.55, 0.85], blank is negative; Effusion: ones" in page
