"""hilum evaluate: figures that agree with the tables of a run, fitted on validation patients alone, told in words."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

import hospitals
from fake_run import write_fake_run
from hilum.evaluation.bootstrap import MACRO
from hilum.evaluation.calibration import expected_calibration_error
from hilum.evaluation.delong import delong
from hilum.evaluation.detection import DETECTION_FIGURES, detection_statistic
from hilum.evaluation.localization import evaluate_findings
from hilum.evaluation.maps import iou, pixel_auprc
from hilum.evaluation.significance import friedman_nemenyi, holm
from hilum.localization.components import detect
from hilum.report import write_report
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.evaluation.comparisons import COMPARED_MAPS, with_families
from hilum.study.evaluation.erasing import with_corrected_lesions
from hilum.study.evaluation.localization import Localization, _records
from hilum.study.evaluation.tuning import Tuned
from hilum.study.outcomes import Outcomes
from hilum.study.spec import load_study

REFERENCE = (Path(__file__).parents[1] / "docs/reference/run-directory.md").read_text(encoding="utf-8")
FINDINGS = list(hospitals.FINDINGS)
SCORES = ("auroc", "average_precision")


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated copy of the tiny run, with a patient a film in the east: enough of each class for intervals."""
    out = copy(tiny_run, tmp_path_factory.mktemp("evaluated") / "run")
    number = {name: k for k, name in enumerate(table(out, "labels", "east")["image_id"])}
    for kind in ("splits", "labels", "predictions", "erased"):
        for path in (out / kind).rglob("east.csv"):
            rows = pd.read_csv(path)
            rows.assign(patient=rows["image_id"].map(number)).to_csv(path, index=False)
    outcome = hospitals.hilum("evaluate", out)
    assert outcome.status == 0, outcome.err
    (out / "printed").write_text(outcome.out)
    return out


@pytest.fixture(scope="module")
def content(run: Path) -> dict[str, Any]:
    return dict(hospitals.json_of(run / "evaluation.json"))


def copy(run: Path, target: Path, *arms: str) -> Path:
    """Copy a run, or what it holds of some of its arms."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("rounds", "models"))
    if arms:
        text = (target / "study.yaml").read_text()
        (target / "study.yaml").write_text(re.sub(r"arms:\n(- \w+\n)+", f"arms: {json.dumps(arms)}\n", text))
    return target


def of(records: list[dict[str, Any]], **chosen: Any) -> dict[str, Any]:
    (found,) = [r for r in records if all(r.get(k) == v for k, v in chosen.items())]
    return found


def table(run: Path, kind: str, site: str, seed: int | None = None, model: str = "federated/federated") -> pd.DataFrame:
    return pd.read_csv(run / kind / (f"{site}.csv" if seed is None else f"seed_{seed}/{model}/{site}.csv"))


def scores(run: Path, site: str, model: str = "federated/federated") -> np.ndarray:
    return np.stack([table(run, "predictions", site, s, model)[FINDINGS].to_numpy(float) for s in (0, 1)])


def test_figures_agree_with_the_tables(run: Path, content: dict[str, Any]) -> None:
    labels, said = table(run, "labels", "north")[FINDINGS].to_numpy(float), scores(run, "north")
    every = [[average_precision_score(labels[:, c], one[:, c]) for c in (0, 1)] for one in said]
    head = {"arm": "federated", "site": "north"}
    macro = of(content["classification"], **head, finding="macro", metric="average_precision")
    assert macro["value"] == pytest.approx(np.mean(every))
    assert (macro["findings"], macro["seeds"]) == (2, 2)
    raw = of(content["calibration"], **head, finding="Nodule", correction="raw")
    expected = np.mean([expected_calibration_error(one, labels)[0] for one in said])
    assert raw["value"] == pytest.approx(expected)
    points = raw["reliability"]
    assert sum(points["images"]) == 2 * len(labels)
    assert np.average(points["observed"], weights=points["images"]) == pytest.approx(labels[:, 0].mean())


def test_maps_are_measured_on_images_with_boxes(run: Path, content: dict[str, Any]) -> None:
    boxes = table(run, "boxes", "east").groupby("image_id")[["x0", "y0", "x1", "y1"]]
    values: dict[str, list[float]] = {"pixel_auprc": [], "iou": []}
    threshold = of(content["thresholds"], arm="federated", finding="Nodule")["threshold"]
    for seed in (0, 1):
        with np.load(run / f"maps/seed_{seed}/federated/federated/east.npz") as stored:
            for name, found in zip(stored["image_id"], stored["maps"][:, 0].astype(float), strict=True):
                if name in boxes.groups:
                    box = [boxes.get_group(name).to_numpy()]
                    values["pixel_auprc"].append(pixel_auprc(found[None], box)[0])
                    values["iou"].append(iou(found[None], box, threshold)[0])
    for metric, expected in values.items():
        record = of(content["localization"], arm="federated", site="east", finding="Nodule", metric=metric)
        assert record["value"] == pytest.approx(np.mean(expected))
        assert record["n"] == len(expected) / 2
        assert all(0 <= record[name] <= 1 for name in ("random_map", "centre_prior", "gaussian_prior", "shuffled"))
    same = ("pointing_game", "box_energy")
    before = [r for r in hospitals.json_of(run / "metrics.json")["localization"] if r["seed"] == "all"]
    for record in (r for r in before if r["metric"] in same):
        key = {k: record[k] for k in ("arm", "model", "site", "finding", "metric")}
        assert of(content["localization"], **key)["value"] == pytest.approx(record["value"])


def test_detections_count_negative_images(content: dict[str, Any]) -> None:
    names = {r["metric"] for r in content["localization"]}
    assert {
        "ap@0.3",
        "ap@0.5",
        "rodeo",
        "rodeo_shape",
        "froc",
        "froc@0.125",
        "froc@8",
        "iobb>0.7",
        "false_boxes_iobb@0.1",
        "false_boxes_iou@0.1",
    } <= names
    for site in ("north", "south", "east"):
        rates = [
            of(content["localization"], arm="pooled", site=site, finding="Nodule", metric=f"froc@{r}")["value"]
            for r in ("0.125", "0.25", "0.5", "1", "2", "4", "8")
        ]
        assert rates == sorted(rates)
        mean = of(content["localization"], arm="pooled", site=site, finding="Nodule", metric="froc")["value"]
        assert mean == pytest.approx(np.mean(rates))


def test_checks_of_maps(content: dict[str, Any]) -> None:
    assert {r["check"] for r in content["checks"]} == {"shuffled", "other_findings", "same_peak"}
    assert {r["finding"] for r in content["checks"]} == {"Nodule"}
    assert all(-1 <= r["value"] <= 1 for r in content["checks"] if r["value"] is not None)


def test_disease_or_site_is_told_for_what_a_site_would_use(run: Path, content: dict[str, Any]) -> None:
    erased = pd.read_csv(run / "erased/seed_0/pooled/pooled/east.csv", keep_default_na=False)
    other = pd.read_csv(run / "erased/seed_1/pooled/pooled/east.csv", keep_default_na=False)
    asked = set(erased.loc[erased["boxes"] == "Nodule", "image_id"])
    parts = [
        np.mean(
            [t.loc[(t["erased"] == p) & t["image_id"].isin(asked), "Nodule"].astype(float) for t in (erased, other)]
        )
        for p in ("nothing", "lesions", "control")
    ]
    record = of(content["lesions"], arm="pooled", site="east", finding="Nodule")
    assert record["lesions"] == pytest.approx(parts[0] - parts[1], rel=1e-3, abs=1e-4)
    assert record["value"] == pytest.approx(parts[2] - parts[1], rel=1e-3, abs=1e-4)
    assert {(r["site"], r["model"]) for r in content["borders"] if r["arm"] == "local"} == {
        ("north", "north"), ("south", "south")
    }  # fmt: skip
    assert content["erased"]
    assert "Disease or site?:" in (run / "printed").read_text()
    assert 'id="erased"' in (run / "report.html").read_text()
    assert 'id="answer"' in (run / "report.html").read_text()


def test_an_older_run_is_evaluated_without_erased_films(run: Path, tmp_path: Path) -> None:
    other = copy(run, tmp_path / "run", "federated")
    shutil.rmtree(other / "erased")
    outcome = hospitals.hilum("evaluate", other)
    assert outcome.status == 0, outcome.err
    assert "keeps no films with erased parts" in outcome.err
    found = hospitals.json_of(other / "evaluation.json")
    assert (found["erased"], found["lesions"], found["borders"]) == (False, [], [])
    assert "keeps no films with erased parts" in (other / "report.html").read_text()


def test_differences_between_arms_are_corrected_as_a_family(run: Path, content: dict[str, Any]) -> None:
    labels = table(run, "labels", "east")
    t, a, b = labels[FINDINGS].to_numpy(float), scores(run, "east"), scores(run, "east", "pooled/pooled")
    exact = delong(a, t, labels["patient"], FINDINGS, b)
    record = of(content["comparisons"], site="east", finding="Nodule", metric="auroc", against="pooled")
    assert record["p_delong"] == pytest.approx(exact["Nodule"].p)
    assert record["value"] == pytest.approx(exact["Nodule"].value)
    for metric, p in (("auroc", "p_delong"), ("average_precision", "p"), ("pointing_game", "p"), ("iou", "p")):
        for chosen in (lambda r: r["finding"] == "macro", lambda r: r["finding"] != "macro"):
            family = [r for r in content["comparisons"] if r["metric"] == metric and chosen(r)]
            family = [r for r in family if r["site"] != "macro" and (r["finding"] != "macro" or r["findings"] > 1)]
            values = [np.nan if r[p] is None else r[p] for r in family]
            expected = [None if np.isnan(v) else pytest.approx(v) for v in holm(values)]
            assert [r["p_holm"] for r in family] == expected
    assert {(r["site"], r["against"], r.get("against_model")) for r in content["comparisons"]} == COMPARED


COMPARED = {
    *((site, arm, None) for site in ("north", "south", "macro") for arm in ("local", "pooled")),
    ("east", "pooled", None),
    *(("east", "local", model) for model in ("north", "south")),
}


def test_a_macro_of_one_finding_has_the_p_of_that_finding(content: dict[str, Any]) -> None:
    records = [r for r in content["comparisons"] if r["site"] != "macro" and r["against"] == "pooled"]
    once = [r for r in records if r["finding"] == "macro" and r["findings"] == 1 and r["metric"] in SCORES]
    assert once
    for macro in once:
        head = {k: macro[k] for k in ("site", "metric", "value", "n")}
        (single,) = [r for r in records if r["finding"] != "macro" and r.items() >= head.items()]
        assert [macro[k] for k in ("p", "p_holm", "tests")] == [single[k] for k in ("p", "p_holm", "tests")]


def test_a_macro_is_that_of_the_finding_it_takes_whatever_their_values() -> None:
    head = {"site": "north", "metric": "iou", "value": 0.0, "n": 12}
    records = [
        head | {"finding": "Mass", "findings": 1, "low": -0.2, "p": np.nan},  # an interval, but too few images for a p
        head | {"finding": "Edema", "findings": 1, "low": -0.1, "p": 0.5},
        head | {"finding": "macro", "findings": 1, "low": -0.1, "p": 0.5},
    ]
    assert [r["p_holm"] for r in with_families(records)][1:] == [0.5, 0.5]


def test_means_over_sites_are_one_family() -> None:
    head = {"site": "macro", "metric": "auroc", "value": 0.1, "low": 0.05, "high": 0.15, "n": 12, "findings": 2}
    records = [head | {"finding": name, "p": 0.03} for name in ("macro", "head", "tail")]
    assert [(r["p_holm"], r["tests"]) for r in with_families(records)] == [(pytest.approx(0.09), 3)] * 3


def test_a_mean_over_sites_is_of_several_pairs(content: dict[str, Any]) -> None:
    means = [r for r in content["comparisons"] if r["site"] == "macro"]
    assert means
    assert all(r["findings"] > 1 for r in means)


def test_what_is_told_is_tested_against_chance(run: Path, content: dict[str, Any]) -> None:
    found = [r for r in content["classification"] if r["arm"] == "federated" and "p" in r]
    assert {(r["metric"], r["site"]) for r in found} == {("auroc", s) for s in ("north", "south", "east")}
    labels = table(run, "labels", "east")
    exact = delong(scores(run, "east"), labels[FINDINGS].to_numpy(float), labels["patient"], FINDINGS)
    assert of(found, site="east", finding="Nodule")["p"] == pytest.approx(exact["Nodule"].p)
    p = [np.nan if r["p"] is None else r["p"] for r in found]
    assert [r["p_holm"] for r in found] == [None if np.isnan(v) else pytest.approx(v) for v in holm(p)]


def test_tests_of_lesions_are_corrected_for_their_number() -> None:
    records = with_corrected_lesions([{"p": 0.01, "site": "north"}, {"p": 0.04}, {"p": float("nan")}])
    assert records[0] == {"p": 0.01, "site": "north", "p_holm": pytest.approx(0.02)}
    assert [r["p_holm"] for r in records[1:]] == [pytest.approx(0.04), pytest.approx(np.nan, nan_ok=True)]


@pytest.mark.parametrize("kind", ["labels", "boxes"])
def test_runs_of_another_truth_are_not_compared(kind: str, run: Path, tmp_path: Path) -> None:
    other = copy(run, tmp_path / "other")
    path = other / kind / "north.csv"
    found = pd.read_csv(path)
    if kind == "labels":
        found["Nodule"] = 1 - found["Nodule"]
    else:
        found["x0"] = found["x0"] / 2
    found.to_csv(path, index=False)
    outcome = hospitals.hilum("evaluate", run, "--against", other, "--out", tmp_path)
    assert outcome.status == 1
    assert f"Expected the same {kind} of the test images in both runs; found others of Nodule in other at north" in (
        outcome.err
    )


def reseeded(run: Path, target: Path, *seeds: int) -> Path:
    """Copy the federated arm of a run with its models, of seeds 0 and 1, under other numbers and in their order."""
    copy(run, target, "federated")
    for folder in sorted(target.rglob("seed_*"), reverse=True):
        folder.rename(folder.with_name(f"seed_{seeds[int(folder.name[-1])]}"))
    text = (target / "study.yaml").read_text()
    (target / "study.yaml").write_text(re.sub(r"seeds:\n(- \d\n)+", f"seeds: {[*seeds][::-1]}\n", text))
    return target


@pytest.mark.parametrize(("seeds", "spread"), [((0, 1), {0.0}), ((5, 6), {None})])
def test_seeds_of_two_runs_are_paired_by_their_number(
    run: Path, tmp_path: Path, seeds: tuple[int, int], spread: set[float | None]
) -> None:
    other = reseeded(run, tmp_path / "other", *seeds)
    outcome = hospitals.hilum("evaluate", run, "--against", other, "--out", tmp_path)
    assert outcome.status == 0, outcome.err
    found = [r for r in hospitals.json_of(tmp_path / "evaluation.json")["differences"] if r["metric"] == "auroc"]
    assert {r["value"] for r in found} == {0.0}
    assert {r["sd"] for r in found} == spread


def test_maps_of_the_arms_are_compared_on_the_same_images(content: dict[str, Any]) -> None:
    found = [r for r in content["comparisons"] if r["metric"] in COMPARED_MAPS and r["finding"] == "Nodule"]
    assert {r["metric"] for r in found} == set(COMPARED_MAPS)
    for record in found:
        key = {k: record[k] for k in ("site", "finding", "metric")}
        ours, theirs = (
            of(content["localization"], arm=arm, model=model, **key)
            for arm, model in (
                ("federated", "federated"),
                (
                    record["against"],
                    record.get("against_model", record["site"] if record["against"] == "local" else "pooled"),
                ),
            )
        )
        assert record["value"] == pytest.approx(ours["value"] - theirs["value"])
        assert record["n"] == ours["n"]
    compared = {(r["site"], r["against"], r.get("against_model")) for r in found}
    assert compared == {key for key in COMPARED if key[0] != "macro"}


def test_detections_of_shuffled_maps_stand_beside_those_of_the_model(run: Path, content: dict[str, Any]) -> None:
    names = {"ap@0.3", "froc@2", "froc", "rodeo"}
    beside = {r["metric"]: r["shuffled"] for r in content["localization"] if r["metric"] in names}
    assert beside.keys() == names
    assert all(0 <= value <= 1 for value in beside.values())
    head = {"arm": "federated", "site": "east", "finding": "Nodule"}
    threshold = of(content["thresholds"], arm="federated", finding="Nodule")["threshold"]
    boxes = table(run, "boxes", "east").groupby("image_id")[["x0", "y0", "x1", "y1"]]
    labels = table(run, "labels", "east").set_index("image_id")["Nodule"]
    values = []
    for seed in (0, 1):
        said = table(run, "predictions", "east", seed).set_index("image_id")["Nodule"]
        with np.load(run / f"shuffled/seed_{seed}/federated/federated/east.npz") as stored:
            ids, maps = stored["image_id"].tolist(), stored["maps"][:, 0].astype(np.float32)
        true = [boxes.get_group(i).to_numpy() if i in boxes.groups else np.empty((0, 4)) for i in ids]
        counts = np.array([len(b) > 0 or labels[i] == 0 for i, b in zip(ids, true, strict=True)])
        assert 0 < sum(len(b) > 0 for b in true) < counts.sum()
        found = detect(maps, said[ids].to_numpy(), threshold)
        values.append(detection_statistic(found, true)(counts[None].astype(float))[0])
    for name, expected in zip(DETECTION_FIGURES, np.mean(values, axis=0), strict=True):
        assert of(content["localization"], **head, metric=name)["shuffled"] == pytest.approx(expected)


def of_boxes_alone(path: Path, boxed: set[str]) -> None:
    """Keep the shuffled maps of images with boxes, as an older hilum did."""
    with np.load(path) as stored:
        parts = dict(stored)
    rows = np.isin(parts["image_id"], list(boxed))
    np.savez(path, **parts | {"image_id": parts["image_id"][rows], "maps": parts["maps"][rows]})


def test_shuffled_maps_of_images_with_boxes_alone_are_no_control_of_detections(run: Path, tmp_path: Path) -> None:
    other = copy(run, tmp_path / "run", "federated")
    for path in (other / "shuffled/seed_0").rglob("*.npz"):
        of_boxes_alone(path, set(table(other, "boxes", path.stem)["image_id"]))
    outcome = hospitals.hilum("evaluate", other)
    assert outcome.status == 0, outcome.err
    found = hospitals.json_of(other / "evaluation.json")["localization"]
    assert {r["shuffled"] for r in found if r["metric"] in ("ap@0.3", "froc", "rodeo")} == {None}
    assert None not in {r["shuffled"] for r in found if r["metric"] in ("pointing_game", "iou")}


def test_arms_are_ranked_over_the_seeds(run: Path, content: dict[str, Any]) -> None:
    ranks = of(content["ranks"], metric="average_precision")
    values = np.zeros((2, 3))
    for site in ("north", "south"):
        columns = [0, 1] if site == "north" else [0]
        labels = table(run, "labels", site)[FINDINGS].to_numpy(float)
        for a, model in enumerate((f"local/{site}", "pooled/pooled", "federated/federated")):
            for s, one in enumerate(scores(run, site, model)):
                values[s, a] += np.mean([average_precision_score(labels[:, c], one[:, c]) for c in columns])
    assert ranks["sites"] == ["north", "south"]
    expected = friedman_nemenyi(values, ["local", "pooled", "federated"])
    assert ranks["ranks"] == expected.ranks.tolist()
    assert ranks["p"] == pytest.approx(expected.p)
    assert ranks["seeds"] == 2


def test_nothing_is_fitted_on_test_patients(run: Path, content: dict[str, Any], tmp_path: Path) -> None:
    """Other labels, boxes, scores and maps of test patients leave every fit as it was, to the last digit."""
    other = copy(run, tmp_path / "run", "federated")
    for path in (other / "labels").glob("*.csv"):
        rows = pd.read_csv(path)
        rows[FINDINGS] = 1 - rows[FINDINGS]
        rows.to_csv(path, index=False)
    for path in (other / "boxes").glob("*.csv"):
        pd.read_csv(path).assign(x0=0.0, y0=0.0, x1=0.5, y1=0.5).to_csv(path, index=False)
    for path in (other / "predictions").rglob("*.csv"):
        rows = pd.read_csv(path)
        rows[FINDINGS] = rows[FINDINGS] ** 3
        rows.to_csv(path, index=False)
    outcome = hospitals.hilum("evaluate", other, "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    again = hospitals.json_of(tmp_path / "out/evaluation.json")
    assert again["thresholds"] == [r for r in content["thresholds"] if r["arm"] == "federated"]
    assert of(again["classification"], site="north", finding="macro", metric="auroc")["value"] != pytest.approx(
        of(content["classification"], arm="federated", site="north", finding="macro", metric="auroc")["value"]
    )
    fitted = [r for r in content["calibration"] if r["arm"] == "federated" and "slope" in r]
    assert len(fitted) > 4
    for record in fitted:
        key = {k: record[k] for k in ("arm", "model", "site", "finding", "correction")}
        assert of(again["calibration"], **key)["slope"] == record["slope"]
        assert of(again["calibration"], **key)["intercept"] == record["intercept"]
    assert (other / "evaluation.json").read_bytes() == (run / "evaluation.json").read_bytes()  # --out leaves the run


def test_without_validation_patients_maps_are_cut_by_otsu(run: Path, tmp_path: Path) -> None:
    other = copy(run, tmp_path / "run", "federated")
    shutil.rmtree(other / "validation")
    shutil.rmtree(other / "shuffled")
    outcome = hospitals.hilum("evaluate", other)
    assert outcome.status == 0, outcome.err
    assert "keeps nothing of validation patients" in outcome.err
    assert "--resume" in outcome.err
    found = hospitals.json_of(other / "evaluation.json")
    assert {r["threshold"] for r in found["thresholds"]} == {"otsu"}
    assert {r["correction"] for r in found["calibration"]} == {"raw"}
    assert {r["check"] for r in found["checks"]} == {"other_findings", "same_peak"}
    assert {r["shuffled"] for r in found["localization"]} == {None}
    assert 'id="calibration"' in (other / "report.html").read_text()


def test_prints_and_reports_what_it_found_and_names_nobody(run: Path) -> None:
    printed, page = (run / "printed").read_text(), (run / "report.html").read_text()
    for title in (
        "Average precision",
        "Maps against boxes",
        "Beside maps that cannot know",
        "Expected calibration error",
    ):
        assert f"{title}:" in printed
        assert f"<h3>{title}</h3>" in page
    assert 'class="reliability"' in page
    assert 'href="#tests"' in page
    assert f"figures: {run / 'evaluation.json'}" in printed
    ids = table(run, "splits", "north")["image_id"].tolist()
    for text in (printed, page, (run / "evaluation.json").read_text()):
        assert not [i for i in ids if i in text]
        assert "secret" not in text


@pytest.fixture(scope="module")
def itself(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one arm, evaluated against itself into another directory."""
    out = tmp_path_factory.mktemp("itself")
    one = copy(run, out / "one", "federated")
    outcome = hospitals.hilum("evaluate", one, "--against", one, "--out", out)
    assert outcome.status == 0, outcome.err
    assert "Differences to the run one:" in outcome.out
    return out / "evaluation.json"


def test_a_run_against_itself_differs_in_nothing(itself: Path) -> None:
    found = hospitals.json_of(itself)["differences"]
    assert {r["metric"] for r in found} >= {"auroc", "average_precision", "pointing_game", "iou", "pixel_auprc"}
    assert {(r["value"], r["low"], r["high"]) for r in found if r["value"] is not None} == {(0, 0, 0), (0, None, None)}
    assert {r["p"] for r in found if r["metric"] in ("auroc", "average_precision")} <= {1, None}


def better(run: Path) -> Path:
    """Make the federated models of a copy know the answer, and point their maps at every box."""
    for path in (run / "predictions").glob("*/federated/federated/*.csv"):
        labels, rows = table(run, "labels", path.stem), pd.read_csv(path)
        for finding in FINDINGS:
            rows[finding] = np.where(labels[finding] == 1, 0.9, 0.1)
        rows.to_csv(path, index=False)
    for path in (run / "maps").glob("*/federated/federated/*.npz"):
        boxes = table(run, "boxes", path.stem).set_index("image_id")
        with np.load(path) as stored:
            parts = dict(stored)
        for row, name in enumerate(parts["image_id"]):
            if name in boxes.index:
                x0, y0, x1, y1 = (boxes.loc[name, ["x0", "y0", "x1", "y1"]].to_numpy(float) * 56).round().astype(int)
                parts["maps"][row] = 0
                parts["maps"][row, :, y0:y1, x0:x1] = 1
        np.savez(path, **parts)
    return run


def test_a_better_run_is_better(run: Path, tmp_path: Path) -> None:
    outcome = hospitals.hilum("evaluate", better(copy(run, tmp_path / "best", "federated")), "--against", run)
    assert outcome.status == 0, outcome.err
    found = hospitals.json_of(tmp_path / "best/evaluation.json")["differences"]
    for metric in ("auroc", "pointing_game", "iou", "pixel_auprc"):
        finding = "macro" if metric == "auroc" else "Nodule"
        assert of(found, arm="federated", site="north", finding=finding, metric=metric)["value"] > 0, metric
    assert of(found, arm="federated", site="east", finding="Nodule", metric="iou")["low"] > 0
    assert {r["arm"] for r in found} == {"federated"}


def rename_images(run: Path) -> None:
    for path in [*(run / "labels").glob("*.csv"), *(run / "predictions").rglob("*.csv")]:
        rows = pd.read_csv(path)
        rows.assign(image_id="other" + rows["image_id"]).to_csv(path, index=False)
    for path in (run / "splits").glob("*.csv"):
        rows = pd.read_csv(path)
        other = rows["image_id"].where(rows["split"] != "test", "other" + rows["image_id"])
        rows.assign(image_id=other).to_csv(path, index=False)
    shutil.rmtree(run / "maps")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename_images, "Expected the same test patients in both runs"),
        (lambda run: (run / "study.yaml").unlink(), "Expected study.yaml"),
        (
            lambda run: (run / "run.json").write_text(
                (run / "run.json").read_text().replace('"finished": "', '"was": "')
            ),
            "Expected a finished run",
        ),
        (lambda run: shutil.rmtree(run / "predictions"), "--resume': it writes what is missing"),
    ],
)
def test_says_what_is_wrong_with_the_other_run(
    spoil: Callable[[Path], Any], message: str, run: Path, tmp_path: Path
) -> None:
    other = copy(run, tmp_path / "other")
    spoil(other)
    outcome = hospitals.hilum("evaluate", run, "--against", other, "--out", tmp_path / "out")
    assert outcome.status == 1
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert "north00" not in outcome.err
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_a_row(path: Path) -> None:
    pd.read_csv(path).iloc[:-1].to_csv(path, index=False)


def backwards(path: Path) -> None:
    pd.read_csv(path).iloc[::-1].to_csv(path, index=False)


FEDERATED = "seed_1/federated/federated/north"
ANEW = "Remove it and run 'hilum study … --resume': it writes it anew"


@pytest.mark.parametrize(
    ("spoil", "file", "found", "advice"),
    [
        (without_a_row, f"predictions/{FEDERATED}.csv", "found 7 rows", ANEW),
        (backwards, f"predictions/{FEDERATED}.csv", "found rows of others, or in another order", ANEW),
        (lambda path: path.write_text(""), f"predictions/{FEDERATED}.csv", "the file is damaged", ANEW),
        (without_a_row, f"validation/predictions/{FEDERATED}.csv", "found 7 rows", ANEW),
        (without_a_row, "labels/north.csv", "found 7 rows", "--resume': it writes it anew"),
        (cut, f"erased/{FEDERATED}.csv", "the file is damaged", ANEW),
        (cut, f"shuffled/{FEDERATED}.npz", "the file is absent or damaged", ANEW),
        (cut, f"maps/{FEDERATED}.npz", "the file is absent or damaged", "it writes both"),
        (cut, f"validation/maps/{FEDERATED}.npz", "the file is absent or damaged", "it writes both"),
    ],
)
def test_a_damaged_file_is_named(
    spoil: Callable[[Path], Any], file: str, found: str, advice: str, run: Path, tmp_path: Path
) -> None:
    other = copy(run, tmp_path / "other", "federated")
    spoil(other / file)
    outcome = hospitals.hilum("evaluate", other)
    assert outcome.status == 1
    told = outcome.err.splitlines()[-1]
    for part in (str(other / file), found, advice):
        assert part in told
    assert "Traceback" not in outcome.err
    assert "north00" not in outcome.err


def test_runs_without_a_common_arm_are_refused(run: Path, tmp_path: Path) -> None:
    one, two = copy(run, tmp_path / "one", "federated", "pooled"), copy(run, tmp_path / "two", "local")
    outcome = hospitals.hilum("evaluate", one, "--against", two)
    assert outcome.status == 1
    assert "Expected an arm that both runs have" in outcome.err
    assert "found federated, pooled in one and local in two" in outcome.err


def test_the_only_arms_of_two_runs_are_compared(run: Path, tmp_path: Path) -> None:
    one, two = copy(run, tmp_path / "one", "federated"), copy(run, tmp_path / "two", "pooled")
    assert hospitals.hilum("evaluate", one, "--against", two).status == 0
    found, within = (hospitals.json_of(r / "evaluation.json") for r in (one, run))
    assert (found["comparisons"], found["ranks"]) == ([], [])
    record = of(found["differences"], site="east", finding="Nodule", metric="auroc")
    assert (record["arm"], record["against"]) == ("federated", "pooled")
    expected = of(within["comparisons"], site="east", finding="Nodule", metric="auroc", against="pooled")
    assert {k: record[k] for k in ("value", "low", "high", "p")} == {
        k: expected[k] for k in ("value", "low", "high", "p")
    }


def keys_of(heading: str) -> list[str]:
    section = re.split(r"\n#{2,3} ", REFERENCE.split(f"# `{heading}`\n")[1])[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def test_keys_are_those_of_the_reference(content: dict[str, Any], itself: Path) -> None:
    found = content | {k: hospitals.json_of(itself)[k] for k in ("against", "differences")}
    assert set(found) == set(keys_of("evaluation.json"))
    optional = {"reliability", "slope", "intercept", "p_delong", "positives", "against_model"}
    optional_of = {"classification": {"p", "p_holm"}}
    names = ("thresholds", "classification", "localization", "checks", "lesions", "borders", "calibration")
    for name in (*names, "comparisons", "ranks"):
        for record in found[name]:
            assert (
                set(keys_of(f"evaluation.json: {name}")) - optional - optional_of.get(name, set())
                <= set(record)
                <= set(keys_of(f"evaluation.json: {name}"))
            )
    assert {k for r in found["differences"] for k in r} - {"model", "against_model"} <= {
        k for k in keys_of("evaluation.json: comparisons")
    }


def test_a_report_without_an_evaluation_has_no_such_section(tmp_path: Path) -> None:
    page = write_report(write_fake_run(tmp_path)).read_text()
    assert 'id="evaluation"' not in page
    assert 'href="#calibration"' not in page


@pytest.mark.parametrize(("few", "expected"), [(3, 0.2), (20, 0.4)])
def test_the_control_of_a_mean_is_of_the_findings_in_it(few: int, expected: float) -> None:
    """Boxes of three patients have no part in the macro, so neither have their maps under shuffled weights."""
    maps = np.random.default_rng(0).random((1, 20, 2, 4, 4))
    boxes = {"Mass": [[[0, 0, 0.5, 0.5]]] * 20, "Edema": [[[0, 0, 0.5, 0.5]]] * few + [[]] * (20 - few)}
    table = evaluate_findings(maps, boxes, np.arange(20), resamples=100)
    shuffled = {"Mass": {"iou": 0.2}, "Edema": {"iou": 0.6}}
    records = {(r["finding"], r["metric"]): r for r in _records(table, shuffled)}
    assert records["Edema", "iou"]["shuffled"] == 0.6
    assert records[MACRO, "iou"]["shuffled"] == pytest.approx(expected)
    assert np.isnan(records[MACRO, "pointing_game"]["shuffled"])


def test_controls_have_a_cut_of_their_own_and_the_seeds_call_together(tiny_run: Path) -> None:
    directory = RunDirectory(tiny_run)
    study = load_study(tiny_run / "study.yaml")
    outcomes = Outcomes(study, directory)
    keys = [ModelKey(seed, "federated", "federated") for seed in study.seeds]
    found = outcomes.localized(keys, "north")
    assert found is not None
    apart = np.stack([np.full(found.scores.shape[1:], p) for p in (0.1, 0.9)])  # one seed is sure, the other is not
    figures = {}
    for cut in (0.2, 0.8):
        tuned = {f: Tuned(threshold=cut, call=0.45) for f in FINDINGS}
        records = list(Localization(outcomes).figures(replace(found, scores=apart), None, "north", tuned))
        figures[cut] = {(r["finding"], r["metric"]): r for r in records}
    low, high = figures[0.2], figures[0.8]
    assert any(low[key]["value"] != high[key]["value"] for key in low if key[1] == "iou")
    for key, record in low.items():
        for control in ("random_map", "centre_prior", "gaussian_prior"):
            np.testing.assert_equal(record[control], high[key][control])
    called = [r for (finding, metric), r in low.items() if metric == "iou_called" and finding != MACRO]
    assert called
    assert all(r["value"] == low[r["finding"], "iou"]["value"] for r in called)  # all images, with both seeds


def test_a_finding_whose_call_was_not_tuned_is_called_from_a_half_in_every_figure(tiny_run: Path) -> None:
    outcomes = Outcomes(load_study(tiny_run / "study.yaml"), RunDirectory(tiny_run))
    found = outcomes.localized([ModelKey(0, "federated", "federated")], "north")
    assert found is not None
    half = replace(found, scores=np.where(np.arange(len(found.ids)) % 2, 0.5, 0.49)[None, :, None] + 0 * found.scores)
    untuned, tuned = (
        list(Localization(outcomes).figures(half, None, "north", {f: Tuned(0.2, call=call) for f in FINDINGS}))
        for call in (float("nan"), 0.5)
    )
    assert {"iou_called", "rodeo"} <= {r["metric"] for r in untuned}
    assert repr(untuned) == repr(tuned)
