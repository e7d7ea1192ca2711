"""What the report computes by itself: means over sites, scales, curves, overlays, sentences."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from math import isclose, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fake_run import FINDINGS, OUTSIDE, write_fake_run
from hilum.evaluation.maps import hottest_points, pointing_game
from hilum.report import cohorts, heatmaps, numbers, plots
from hilum.report.read import MACRO, RunDirectory, read_run
from hilum.report.results import Figure, Results, mean_over
from hilum.report.summary import summarise

unit = st.floats(0, 1, allow_nan=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return read_run(write_fake_run(tmp_path_factory.mktemp("figures")))


@pytest.mark.parametrize("module", [numbers])
def test_examples_in_docstrings(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert (failed, tried > 0) == (0, True)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.score(0.9884, 0.982, 0.995), "0.988 [0.982, 0.995]"),
        (numbers.score(1.0, None, None), "1.000"),
        (numbers.difference(-0.0001, -0.1, 0.1), "0.000 [−0.100, +0.100]"),
        (numbers.percent(1, 0), "–"),
        (numbers.count(None), "–"),
        (numbers.duration(30), f"30{numbers.THIN}s"),
        (numbers.listing([]), "none"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_mean_over_sites_is_the_standard_error_of_independent_means() -> None:
    half = (0.03, 0.04, 0.12)
    mean = mean_over([Figure(v, v - h, v + h, 10) for v, h in zip((0.7, 0.8, 0.9), half, strict=True)])
    expected = sqrt(sum(h * h for h in half)) / 3
    assert mean.n == 30
    assert mean.value == pytest.approx(0.8)
    assert mean.low == pytest.approx(0.8 - expected)
    assert mean.high == pytest.approx(0.8 + expected)


@given(st.lists(st.tuples(unit, unit, unit).map(sorted), min_size=1, max_size=6))
def test_mean_over_sites_is_never_wider_than_the_mean_of_intervals(parts: list[list[float]]) -> None:
    mean = mean_over([Figure(v, low, high, 1) for low, v, high in parts])
    size = len(parts)
    value, low, high = (float(x) for x in (mean.value, mean.low, mean.high) if x is not None)
    assert sum(p[0] for p in parts) / size - 1e-9 <= low <= value + 1e-9
    assert value - 1e-9 <= high <= sum(p[2] for p in parts) / size + 1e-9


def test_mean_without_an_interval_or_a_figure() -> None:
    assert mean_over([Figure(0.5, 0.4, 0.6, 1), Figure(0.7, n=1)]).low is None
    assert mean_over([Figure(reason="positives only")]).value is None


def test_the_interval_of_a_mean_is_that_of_the_evaluation_where_it_has_the_same_mean(run: RunDirectory) -> None:
    own = Results(run).mean("federated", "auroc")
    head = {"arm": "federated", "model": "federated", "site": MACRO, "finding": MACRO, "metric": "auroc"}
    for off, low in ((0.0, 0.1), (0.01, own.low)):
        record = head | {"value": (own.value or 0) + off, "low": 0.1, "high": 0.9}
        evaluated = replace(run, evaluation={"classification": [record], "comparisons": []})
        assert Results(evaluated).mean("federated", "auroc").low == low
        assert Results(evaluated).mean("pooled", "auroc") == Results(run).mean("pooled", "auroc")


def test_an_outside_site_without_a_label_is_not_said_to_be_tested(run: RunDirectory) -> None:
    blank = [replace(s, findings={}) if s.name == OUTSIDE else s for s in run.sites]
    scores = [replace(s, n=0, positives=0, value=None) if s.site == OUTSIDE else s for s in run.scores]
    changed = replace(run, sites=blank, scores=scores)
    results = Results(changed)
    assert results.of_arm("local", results.run.sites[-1], MACRO).reason == "no label"
    summary = summarise(changed, results)
    assert f"; {OUTSIDE} labels none of the findings, so that nothing there is tested." in summary.compared[1]
    assert f"At the outside site {OUTSIDE}: no macro figure (no label)." in summary.results
    alone = replace(changed, sites=blank[-1:])
    assert Results(alone).of_arm("local", blank[-1], MACRO).reason == "no local model"


def test_first_screen_repeats_metrics(run: RunDirectory) -> None:
    summary = summarise(run, Results(run))
    records = {(s.arm, s.model, s.site, s.metric): s for s in run.scores if s.seed == "all" and s.finding == MACRO}
    sites = ["north", "south", "children"]  # harbour holds positives only: no figure under any arm
    assert summary.sites == sites
    for row in summary.rows:
        assert list(row.means) == ["average_precision", "auroc"]
        for metric, mean in row.means.items():
            values = [records[row.arm, s if row.arm == "local" else row.arm, s, metric].value for s in sites]
            assert isclose(mean.value or 0, float(np.mean([v for v in values if v is not None])))
    assert [s.split(",")[0] for s in summary.results[:2]] == ["Macro average precision", "Macro AUROC"]
    (pooled,) = [s for s in summary.results if s.startswith("Federated minus pooled")]
    assert pooled.partition("patients: ")[2].startswith("average precision worse (−0.032 [")
    assert "; AUROC worse (−0.016 [" in pooled
    assert pooled.count("not corrected") == 2
    assert any("above every control" in s for s in summary.results)
    assert any("harbour holds positives only" in s for s in summary.cautions)
    assert any("7 of 15 pairs" in s for s in summary.cautions)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.05, " better ("), (-0.05, -0.01, " worse ("), (-0.01, 0.02, " equal within ±0.0")],
)
def test_verdict_follows_the_interval(run: RunDirectory, low: float, high: float, words: str) -> None:
    made = [replace(c, value=(low + high) / 2, low=low, high=high) for c in run.comparisons]
    changed = replace(run, comparisons=made)
    assert sum(s.count(words) for s in summarise(changed, Results(changed)).results) == 4  # two arms, two metrics


def test_an_older_run_without_differences_of_average_precision_is_summarised(run: RunDirectory) -> None:
    changed = replace(run, comparisons=[c for c in run.comparisons if c.metric == "auroc"])
    summary = summarise(changed, Results(changed))
    assert any("patients: AUROC worse (−0.016" in s for s in summary.results)
    assert summary.rows[0].against["average_precision"].reason == "not computed at every site"


def test_local_differences_are_against_the_own_model(run: RunDirectory) -> None:
    results = Results(run)
    assert results.difference("local", "south", MACRO).value == 0.02
    assert results.difference("local", OUTSIDE, MACRO).reason == "no local model of its own"
    assert results.difference("pooled", OUTSIDE, MACRO).value == -0.016


def test_a_finding_that_a_model_was_never_taught_is_not_called_unlabelled(run: RunDirectory) -> None:
    at_south = [r for r in run.scores if r.site == "south" and r.finding == "Tuberculosis"]
    untaught = [replace(r, value=None, low=None, high=None, n=0, positives=0) for r in at_south]
    results = Results(replace(run, scores=untaught))
    assert results.score("local", "children", "south", "Tuberculosis").reason == "never taught it"
    assert Results(run).score("local", "children", "south", "Pneumonia").reason == "no label"


def test_weak_maps_are_not_called_above_chance(run: RunDirectory) -> None:
    changed = replace(run, localization=[replace(r, centre_prior=r.value) for r in run.localization])
    text = " ".join(summarise(changed, Results(changed)).results)
    assert "not shown to be above every control" in text
    assert ", above every control" not in text


def test_a_study_without_outside_site_or_federation(run: RunDirectory) -> None:
    facts = replace(run.run, arms=["pooled"])
    changed = replace(run, run=facts, sites=[s for s in run.sites if not s.outside])
    summary = summarise(changed, Results(changed))
    assert "no site was kept outside" in summary.compared[1]
    assert [r.arm for r in summary.rows] == ["pooled"]


def test_one_seed_stands_for_all(run: RunDirectory) -> None:
    only = replace(run, run=replace(run.run, seeds=[2]), scores=[s for s in run.scores if s.seed == 2])
    figure = Results(only).score("pooled", "pooled", "north", "Pneumonia")
    assert figure.value == next(
        s.value
        for s in only.scores
        if (s.arm, s.site, s.finding, s.metric) == ("pooled", "north", "Pneumonia", "auroc")
    )


@given(st.lists(st.tuples(unit, unit, unit).map(sorted), max_size=5), unit)
def test_scales_hold_every_interval(parts: list[list[float]], reference: float) -> None:
    figures = [Figure(v, low, high, 1) for low, v, high in parts]
    axis = plots.score_axis(figures, reference)
    assert axis.low <= min([reference, *(p[0] for p in parts)]) + 1e-6
    assert all(axis.low - 1e-9 <= t <= axis.high for t in axis.ticks)
    assert axis.ticks[-1] == 1
    gaps = plots.difference_axis([Figure(v - 0.5, low - 0.5, high - 0.5) for low, v, high in parts])
    assert gaps.low == -gaps.high
    assert all(0 <= float(gaps.at(p - 0.5)[:-1]) <= 100 for part in parts for p in part)
    assert all(abs(p - 0.5) <= gaps.high + 1e-9 for part in parts for p in part)
    assert gaps.at(0) == "50.00%"


def test_curves_are_means_over_seeds(run: RunDirectory) -> None:
    panels = plots.learning_curves(run)
    assert [len(panels[arm]) for arm in ("local", "pooled", "federated")] == [4, 4, 4]
    south = next(p for p in panels["local"] if p.site == "south")
    ends = [r.train_loss["south"] for r in run.rounds if r.model == "south" and r.round == 20]
    assert south.last["train"] == pytest.approx(np.mean([e for e in ends if e is not None]))
    assert sum(not line.mean for line in south.lines if line.kind == "train") == 3
    harbour = next(p for p in panels["local"] if p.site == "harbour")
    assert {line.kind for line in harbour.lines} == {"train"}


def test_a_round_written_twice_counts_once(tmp_path: Path) -> None:
    path = write_fake_run(tmp_path, seeds=1)
    before = len(read_run(path).rounds)
    file = path / "metrics.jsonl"
    lines = file.read_text("utf-8").splitlines()
    again = json.loads(lines[-1]) | {"seconds": 99.0}
    file.write_text("\n".join([*lines, json.dumps(again), lines[0][:40]]), "utf-8")
    rounds = read_run(path).rounds
    assert len(rounds) == before
    assert rounds[-1].seconds == 99.0


def test_label_spaces_tell_unknown_from_negative(run: RunDirectory) -> None:
    spaces = {
        (f, s.name): c for f, row in cohorts.label_spaces(run).items() for s, c in zip(run.sites, row, strict=True)
    }
    assert list(cohorts.label_spaces(run)) == FINDINGS
    assert spaces["Pneumonia", "south"].known == 0
    assert spaces["Pneumonia", "south"].unknown == 500
    assert spaces["Tuberculosis", "harbour"].one_class == "positives only"
    assert spaces["Effusion", OUTSIDE].one_class == "negatives only"
    assert spaces["Effusion", "south"].one_class == ""
    assert [s.name for s in cohorts.one_class_sites(run)] == ["harbour"]


def test_left_out_is_counted(run: RunDirectory) -> None:
    notes = [{"reason": "empty file", "count": 2}, {"reason": "wrong format", "count": 5}]
    (site,) = cohorts.left_out(replace(run, sites=[replace(run.sites[0], left_out=notes)]))
    assert site.reasons == [("wrong format", 5), ("empty file", 2)]
    assert site.total == 7
    many = replace(run.sites[0], left_out=[{"reason": f"kind {i}", "count": 2} for i in range(20)])
    (site,) = cohorts.left_out(replace(run, sites=[many]))
    assert (len(site.reasons), site.more) == (cohorts.KINDS, 2 * (20 - cohorts.KINDS))


def test_gallery_points_and_hits_as_the_evaluation_does(run: RunDirectory) -> None:
    for one, row in zip(
        heatmaps.Gallery(run).chosen, heatmaps.Gallery(run).rows(heatmaps.Gallery(run).chosen), strict=True
    ):
        for tile in row.tiles:
            heat = run.maps(tile.arm, tile.model, one.site)[one.image_id, str(one.finding)]
            assert tile.point == tuple(hottest_points(heat[None])[0])
            assert tile.hit == pointing_game(heat[None], [one.boxes])[0]


@pytest.mark.parametrize(("field", "told"), [(203, False), (224, True), (1311, True), (None, False)])
def test_cells_that_see_the_whole_input_are_told(run: RunDirectory, field: int | None, told: bool) -> None:
    facts = replace(run.run, model={**run.run.model, "receptive_field": field})
    changed = replace(run, run=facts)
    assert any("may draw on the whole image" in s for s in summarise(changed, Results(changed)).cautions) == told


@pytest.mark.parametrize(("head", "told"), [("site", True), ("shared", False), (None, False)])
def test_heads_of_the_hospitals_are_told(run: RunDirectory, head: str | None, told: bool) -> None:
    changed = replace(run, study=f"federation: {{head: {head}}}" if head else "name: x")
    assert any("head rows of its own" in s for s in summarise(changed, Results(changed)).cautions) == told


def test_overlay_colours_only_where_the_map_is_warm() -> None:
    grey = Image.new("L", (80, 60), 128)
    cold = np.asarray(heatmaps.overlay(grey, np.zeros((4, 4), np.float32)))
    assert cold.shape == (60, 80, 3)
    assert (cold == 128).all()
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 0.02  # a weak map is stretched to its own peak
    warm = np.asarray(heatmaps.overlay(grey, heat)).astype(int)
    assert np.ptp(warm[7, 70]) > 60
    assert (warm[40:, :30] == 128).all()


def test_gallery_is_capped_by_site_and_finding(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heatmaps, "MOST_ROWS", 2)
    gallery = heatmaps.Gallery(run)
    assert gallery.held == 6
    assert [(one.site, one.finding) for one in gallery.chosen] == [
        ("north", "Pneumonia"),
        ("harbour", "Tuberculosis"),
    ]


def test_gallery_says_why_a_map_is_missing(run: RunDirectory) -> None:
    one = next(g for g in run.gallery if g.finding)
    shown = replace(run, gallery=[replace(one, image_id="other"), replace(one, site=OUTSIDE)])
    gallery = heatmaps.Gallery(shown)
    rows = list(gallery.rows(gallery.chosen))
    assert {t.reason for t in rows[0].tiles} == {"no map in this run"}
    assert rows[1].tiles[0].reason == "no local model: outside site"
