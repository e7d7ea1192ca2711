"""The shift page: self-contained, the same figures as shift.json, honest words, no ids."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hilum.errors import RunError
from hilum.report.shift.page import render_shift, summary_table, write_shift_page
from hilum.report.shift.planes import scatter, sites_plane
from hilum.report.shift.plots import flow_plots
from hilum.report.shift.read import ShiftFigures, read_shift
from hilum.report.shift.words import expectations, findings, lede
from test_report import Page

SITES = ("north", "south", "east")
LINEAR = "a_distance_linear"
PAIRS = (("north", "south"), ("east", "north"), ("east", "south"))


@pytest.fixture(scope="module")
def out(tiny_shift: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a directory of ``hilum shift``."""
    return shutil.copytree(tiny_shift, tmp_path_factory.mktemp("page") / "out")


@pytest.fixture(scope="module")
def source(out: Path) -> str:
    return (out / "shift.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def changed(out: Path, **parts: Any) -> ShiftFigures:
    """Return the figures with other values of some of their parts."""
    return ShiftFigures(out, {**copy.deepcopy(dict(read_shift(out).content)), **parts})


def with_distances(out: Path, table: dict[tuple[str, str, str], tuple[float, float, float]]) -> ShiftFigures:
    """Return the figures with linear A-distances (value, low, high) of (kind, a, b); the halves' are 0.1 [0, 0.2]."""
    records = copy.deepcopy(read_shift(out).content["pairs"])
    for r in (r for r in records if r["measure"] == LINEAR):
        key = (r["kind"], *sorted((r["a"], r["b"])))
        value, low, high = table.get(key, (0.1, 0.0, 0.2))  # type: ignore[arg-type]
        r |= {"value": value, "low": low, "high": high, "note": ""}
    return changed(out, pairs=records)


def test_loads_nothing_from_outside(source: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in ("link", "base", "iframe", "object", "embed"), tag
        for name in ("src", "href", "srcset", "data", "poster", "xlink:href"):
            if attributes.get(name) is not None:
                assert str(attributes[name]).startswith({"a": "#", "img": "data:image/jpeg;base64,"}[tag])
    assert "url(" not in source
    assert "@import" not in source
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert str(policy[0]).startswith("default-src 'none'; img-src data:")


def test_is_well_formed(page: Page) -> None:
    assert page.crossed == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for t, a in page.tags if t == "a" and str(a.get("href")).startswith("#")}
    assert len(targets) == 11
    assert targets <= set(ids)
    assert all(a.get("alt") for t, a in page.tags if t == "img")
    assert all(a.get("aria-label") for t, a in page.tags if t == "svg" and a.get("role") == "img")
    assert re.search(r"\b(None|nan|NaN|Undefined)\b", page.text) is None


def test_names_no_patient_and_no_image(source: str) -> None:
    assert "secret" not in source
    assert not any(f"{site}0" in source or f"{site}1" in source for site in SITES)


def test_shows_every_distance_of_the_figures(out: Path, page: Page) -> None:
    shift = read_shift(out)
    for kind in shift.kinds:
        for pair in shift.pairs:
            figure = shift.of(kind, LINEAR, *pair)
            assert f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]" in page.text
    for name in ("Intensity histogram", "Down-sampled pixels", "Untrained trunk", "Trained trunk"):
        assert name in page.text
    for loss in shift.content["damage"]["losses"]:
        assert f"{loss['value']:+.3f}".replace("-", "−") in page.text


def test_pictures_are_of_every_site_and_small(out: Path, page: Page) -> None:
    shown = [str(a["alt"]) for t, a in page.tags if t == "img"]
    held = [one for one in read_shift(out).content["examples"] if one["file"]]
    assert len(shown) == len(held) > 0
    assert all(len(str(a["src"])) < 20_000 for t, a in page.tags if t == "img")


def test_the_order_of_a_pair_does_not_matter(out: Path) -> None:
    shift = read_shift(out)
    assert shift.of("pixels", "emd", "north", "east") == shift.of("pixels", "emd", "east", "north")
    assert shift.matrix("bernoulli", "north", "south") == shift.matrix("bernoulli", "south", "north")


def test_summary_table_holds_every_pair_and_half(out: Path) -> None:
    lines = summary_table(out).splitlines()
    assert len(lines) == 2 + 3 + 3
    assert lines[2].startswith("north – south  ")
    value = read_shift(out).of("histogram", LINEAR, "north", "south").value
    assert f"{value:.2f}" in lines[2]


# Words


def test_words_where_nothing_differs(out: Path) -> None:
    shift = with_distances(out, {})
    assert lede(shift) == "The images of no pair of sites can be told apart beyond what two halves of one site differ."
    told = " ".join(findings(shift))
    assert "Grey levels alone do not tell any pair apart beyond" in told
    assert "16 × 16 cells tells 0 of 3 pairs" in told
    assert not any("lose at another" in sentence for sentence in expectations(shift))


def test_words_name_the_scanner_where_grey_levels_differ(out: Path) -> None:
    far = (1.8, 1.6, 1.9)
    shift = with_distances(out, {(kind, "north", "south"): far for kind in ("histogram", "pixels", "trained")})
    assert lede(shift).startswith("The images of 1 of 3 pairs of sites can be told apart")
    told = " ".join(findings(shift))
    assert "Farthest apart on the trained trunk: north and south, A-distance 1.80 [1.60, 1.90]" in told
    assert "takes 5.0 % of their images" in told
    assert "grey levels alone, without any shape, tell 1 of 3 pairs apart" in told
    assert "tells 0 of 3 pairs apart better than grey levels do" in told
    assert any("lose at another" in sentence for sentence in expectations(shift))


def test_words_name_framing_and_texture_where_they_add(out: Path) -> None:
    table = {("pixels", "east", "south"): (1.5, 1.4, 1.6), ("trained", "east", "south"): (1.9, 1.8, 2.0)}
    told = " ".join(findings(with_distances(out, table)))
    assert "better than grey levels do, most so south and east (0.10 → 1.50)" in told
    assert "better than the cells do, most so south and east (1.50 → 1.90)" in told


def test_a_wide_interval_is_not_clear(out: Path) -> None:
    shift = with_distances(out, {("trained", "north", "south"): (1.0, 0.15, 1.8)})
    assert not shift.clear("trained", "north", "south")
    assert with_distances(out, {("trained", "north", "south"): (1.0, 0.25, 1.8)}).clear("trained", "north", "south")


def test_no_claim_without_a_control(out: Path) -> None:
    far = (1.8, 1.6, 1.9)
    kinds = ("histogram", "pixels", "untrained", "trained")
    records = copy.deepcopy(with_distances(out, {(k, *p): far for k in kinds for p in PAIRS}).content["pairs"])
    for r in records:
        if r["measure"] == LINEAR and r["a"] == r["b"] == "south":
            r |= {"value": None, "low": None, "high": None, "note": "too few"}
    shift = changed(out, pairs=records)
    assert shift.noise("trained", LINEAR, "north", "south") is None
    assert not shift.clear("trained", "north", "south")
    assert shift.clear("trained", "east", "north")
    assert lede(shift).startswith("The images of 1 of 1 pair of sites with a control")
    assert "2 pairs have no control" in lede(shift)
    for r in records:
        if r["measure"] == LINEAR and r["a"] == r["b"]:
            r |= {"value": None, "low": None, "high": None, "note": "too few"}
    bare = changed(out, pairs=records)
    assert lede(bare).startswith("No pair of sites has a control")
    assert "Scanner and processing" not in " ".join(findings(bare))


def test_says_what_protects_and_what_it_costs(out: Path, page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    assert "This page and shift.json protect nobody" in text
    assert "shares shift.private.json alone" in text
    assert "lower bound" not in text
    for one in read_shift(out).content["privacy"]["sites"]:
        assert f"{one['site']} {one['summaries']} {one['a_distances']} {one['epsilon']:.4g} {one['delta']:.2g}" in text
    assert "Before any training, on" not in text, "a run was given"
    for name in ("EMD of single images", "EMD, partial"):
        assert name in text


def test_words_tell_labels_ages_and_what_is_not_recorded(out: Path) -> None:
    told = " ".join(findings(read_shift(out)))
    assert "Bernoulli distance" in told
    assert "Age cannot be compared: no two sites record it." in told
    few = copy.deepcopy(read_shift(out).content["demographics"])
    few[0]["age"] |= {"value": -12.3, "low": None, "high": None, "a": 40.0, "b": 52.3, "n_a": 1, "n_b": 9}
    assert "Age cannot be compared: too few patients" in " ".join(findings(changed(out, demographics=few)))
    rows = copy.deepcopy(read_shift(out).content["demographics"])
    rows[0]["age"] |= {"value": -12.3, "low": -14.0, "high": -10.6, "a": 40.0, "b": 52.3, "n_a": 9, "n_b": 9}
    aged = " ".join(findings(changed(out, demographics=rows)))
    assert "Age: patients of south are 12 years older than those of north [11, 14]." in aged


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "in this study it does"), (0.3, "does not show that it does")])
def test_words_on_damage(out: Path, p: float, verdict: str) -> None:
    damage = copy.deepcopy(read_shift(out).content["damage"])
    for one in damage["correlations"]:
        one |= {"value": 0.7, "low": 0.2, "high": 0.9, "p": p, "permutations": 6}
    told = " ".join(expectations(changed(out, damage=damage)))
    assert verdict in told
    assert "over 4 directions of 3 pairs of sites" in told


def test_says_where_damage_cannot_be_told(out: Path) -> None:
    damage = copy.deepcopy(read_shift(out).content["damage"])
    for one in damage["correlations"]:
        one |= {"value": None, "low": None, "high": None, "p": None}
    shift = changed(out, damage=damage)
    assert "cannot be told of this study: only 4 directions of 3 pairs" in " ".join(expectations(shift))
    assert "no rank correlation: it needs three pairs" in Page(render_shift(shift)).text


def test_few_patients_and_missing_kinds_are_told(out: Path) -> None:
    assert any(s.startswith("Fewer than 50 patients at north, south and east") for s in expectations(read_shift(out)))
    shift = changed(out, absent={"pretrained": "It is not installed."})
    assert "No pretrained trunk: It is not installed." in Page(render_shift(shift)).text


# Plots


def test_flows_keep_the_mass(out: Path) -> None:
    for plot, flow in zip(flow_plots(read_shift(out)), read_shift(out).content["flows"], strict=False):
        assert (plot.a, plot.b, plot.value) == (flow["a"], flow["b"], flow["value"])
        assert all(ribbon.lighter == (ribbon.x1 > ribbon.x0) for ribbon in plot.ribbons)
        paths = sorted((ribbon.x0, ribbon.x1) for ribbon in plot.ribbons)
        assert all(a[1] <= b[1] for a, b in itertools.pairwise(paths)), "paths do not cross"


def test_names_of_sites_lie_inside_and_apart(out: Path) -> None:
    for plane in sites_plane(read_shift(out)):
        boxes = [(p.text[0], p.text[1] - 9, p.text[0] + 5.6 * len(p.name), p.text[1]) for p in plane.points]
        assert all(box[0] >= 0 and box[2] <= 240 for box in boxes)
        for k, a in enumerate(boxes):
            for b in boxes[k + 1 :]:
                assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_scatter_keeps_order_and_a_zero_line() -> None:
    plot = scatter("x", [(0.5, -0.1, 0, "a"), (1.9, 0.3, 1, "b")])
    (a, b) = plot.points
    assert a.x < b.x <= 240
    assert a.y > b.y >= 0
    assert plot.zero is not None
    assert b.y < plot.zero < a.y
    assert [text for _, text in plot.x_ticks] == ["0", "1", "2"]


# Errors


def test_refuses_what_is_no_shift(tmp_path: Path, out: Path) -> None:
    with pytest.raises(RunError, match=r"shift\.json; there is none.*hilum shift"):
        write_shift_page(tmp_path)
    (tmp_path / "shift.json").write_text("[{")
    with pytest.raises(RunError, match="Expected JSON"):
        write_shift_page(tmp_path)
    (tmp_path / "shift.json").write_text(json.dumps({"schema": 9}))
    with pytest.raises(RunError, match="Expected schema 1"):
        write_shift_page(tmp_path)
    (tmp_path / "shift.json").write_bytes((out / "shift.json").read_bytes())
    with pytest.raises(RunError, match="expected a thumbnail"):
        write_shift_page(tmp_path)
    assert not (tmp_path / "shift.html").exists()


def test_hostile_names_stay_text(out: Path) -> None:
    name = '<script>alert("x")<b>'
    page = Page(render_shift(changed(out, study=name)))
    assert name in page.text
    assert [t for t, _ in page.tags].count("script") == 1
    assert page.crossed == []
