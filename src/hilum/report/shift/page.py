"""The page of ``hilum shift``: one HTML file, styles, script and pictures inside, nothing loaded from outside."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from hilum.errors import RunError
from hilum.report.heatmaps import data_uri
from hilum.report.page import BADGES, template_environment, write_page
from hilum.report.plots import Axis
from hilum.report.shift.planes import Scatter, images_plane, scatter, sites_plane
from hilum.report.shift.plots import flow_plots, histogram_lines, label_matrix, matrices
from hilum.report.shift.read import KIND_NAMES, MEASURE_NAMES, ShiftFigures, read_shift
from hilum.report.shift.words import LINEAR, by_distance, expectations, findings, lede

DISTANCES = ("a_distance_linear", "a_distance_network", "emd", "emd_samples", "emd_partial", "mmd")
AXIS = Axis(0.0, 2.0, (0.0, 1.0, 2.0))
COLOURS = 8


def write_shift_page(out: Path) -> Path:
    """Write ``out/shift.html`` from ``out/shift.json`` and its thumbnails, and return its path.

    It holds thumbnails where those were allowed, but no image id and no patient id. Raises ``RunError``.
    """
    return write_page(out / "shift.html", render_shift(read_shift(out)))


def render_shift(shift: ShiftFigures) -> str:
    """Return the page as HTML."""
    environment = template_environment()
    environment.filters["size"] = _size
    environment.filters["kind"] = lambda name: KIND_NAMES.get(name, "Labels")
    environment.filters["measure"] = lambda name: MEASURE_NAMES.get(name, name)
    return environment.get_template("shift.html.j2").render(_content(shift))


def summary_table(out: Path) -> str:
    """Return the linear A-distance of every pair and kind, and the label distance, as text to print."""
    shift = read_shift(out)
    head = ["", *(KIND_NAMES[kind].lower() for kind in shift.kinds), "labels"]
    rows = [
        [f"{a} – {b}", *(_short(shift, kind, a, b) for kind in shift.kinds), _labels(shift, a, b)]
        for a, b in shift.pairs
    ]
    rows += [
        [f"{site}, halves", *(_short(shift, kind, site, site) for kind in shift.kinds), ""] for site in shift.sites
    ]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return "\n".join(["A-distance (0 alike, 2 never confused), Bernoulli distance of labels:", *lines])


def _size(count: float) -> str:
    return f"{count / 1024:.1f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"


def _short(shift: ShiftFigures, kind: str, a: str, b: str) -> str:
    value = shift.of(kind, LINEAR, a, b).value
    return "–" if value is None else f"{value:.2f}"


def _labels(shift: ShiftFigures, a: str, b: str) -> str:
    value = shift.matrix("bernoulli", a, b)
    return "–" if value is None else f"{value:.2f}"


def _content(shift: ShiftFigures) -> dict[str, Any]:
    known = by_distance(shift, shift.kinds[-1], shift.pairs)
    return {
        "shift": shift,
        "content": shift.content,
        "settings": shift.content["settings"],
        "badge": BADGES.get(shift.content["data"], shift.content["data"]),
        "lede": lede(shift),
        "findings": findings(shift),
        "expectations": expectations(shift),
        "order": [*known, *(pair for pair in shift.pairs if pair not in known)],
        "axis": AXIS,
        "linear": LINEAR,
        "matrices": {measure: matrices(shift, measure) for measure in DISTANCES},
        "label_matrices": {name: label_matrix(shift, name) for name in ("bernoulli", "label_emd")},
        "sites_plane": sites_plane(shift),
        "images_plane": images_plane(shift),
        "lines": histogram_lines(shift),
        "flows": flow_plots(shift),
        "examples": _examples(shift),
        "prevalences": _by_finding(shift),
        "ratios": _ratios(shift),
        "patients": {frozenset((row["a"], row["b"])): row for row in shift.content["demographics"]},
        "pair": lambda a, b: frozenset((a, b)),
        "privacy": shift.content["privacy"],
        "closeness": shift.content["closeness"],
        "exchange": _exchange(shift),
        "damage": shift.content["damage"],
        "damage_plots": _damage_plots(shift),
        "colours": COLOURS,
    }


def _examples(shift: ShiftFigures) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return site → 'typical' and 'foreign' → pictures with the site they look like and how surely."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {site: {"typical": [], "foreign": []} for site in shift.sites}
    for one in shift.content["examples"]:
        if one["file"] is not None:
            found[one["site"]][one["role"]].append({**one, "picture": _picture(shift.path / one["file"])})
    return {site: roles for site, roles in found.items() if any(roles.values())}


def _picture(file: Path) -> str:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
            return data_uri(image.convert("L"))
    except OSError as error:
        raise RunError(
            f"{file}: expected a thumbnail; found {type(error).__name__}. Measure the shift again."
        ) from None


def _by_finding(shift: ShiftFigures) -> dict[str, list[dict[str, Any]]]:
    return {
        finding: [p for p in shift.content["labels"]["prevalence"] if p["finding"] == finding]
        for finding in shift.content["findings"]
    }


def _ratios(shift: ShiftFigures) -> dict[str, list[dict[str, Any]]]:
    ordered = sorted(shift.content["labels"]["ratios"], key=lambda r: shift.content["findings"].index(r["finding"]))
    return {finding: list(rows) for finding, rows in groupby(ordered, lambda r: r["finding"])}


def _exchange(shift: ShiftFigures) -> list[Scatter]:
    """Return, for each measure, the figure without images (y) against the exact one (x), a point a pair and kind."""
    plots = []
    for exact in dict.fromkeys(entry["exact"] for entry in shift.content["closeness"]):
        points = []
        for entry in (e for e in shift.content["closeness"] if e["exact"] == exact):
            for pair in shift.pairs:
                x, y = (shift.of(entry["kind"], entry[which], *pair).value for which in ("exact", "measure"))
                if x is not None and y is not None:
                    noisy = "noise" if entry["epsilon"] is not None else "exact"
                    points.append((x, y, shift.kinds.index(entry["kind"]), noisy))
        plots.append(scatter(MEASURE_NAMES[exact], points, symmetric=True))
    return plots


def _damage_plots(shift: ShiftFigures) -> dict[str, list[Scatter]]:
    """Return measure → a plot a kind of features, the loss against the distance; none without a correlation."""
    damage = shift.content["damage"]
    if not damage or not any(c["value"] is not None for c in damage["correlations"]):
        return {}
    return {m: [_damage_plot(shift, kind, m, damage["losses"]) for kind in shift.kinds] for m in DISTANCES}


def _damage_plot(shift: ShiftFigures, kind: str, measure: str, losses: list[dict[str, Any]]) -> Scatter:
    points = []
    for loss in losses:
        x = shift.of(kind, measure, loss["trained"], loss["tested"]).value
        if x is not None:
            name = f"{loss['trained']} → {loss['tested']}"
            points.append((x, loss["value"], shift.sites.index(loss["trained"]), name))
    return scatter(KIND_NAMES[kind], points)
