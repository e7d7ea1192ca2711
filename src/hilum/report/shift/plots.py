"""Geometry of the shift page: matrices, histograms and flows; the template draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hilum.report.numbers import MINUS
from hilum.report.shift.read import Measured, ShiftFigures

FLOW_WIDTH, BAR = 620.0, 55.0
THICKEST = 16.0


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix: ``share`` in [0, 1] is how deep its colour is; ``own`` is of one site's two halves."""

    text: str
    detail: str = ""
    share: float = 0.0
    own: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Ribbon:
    """Mass that moves from one grey level (``x0``) to another (``x1``), ``width`` px thick."""

    x0: float
    x1: float
    width: float
    lighter: bool


@dataclass(frozen=True)
class FlowPlot:
    """Two histograms, one upwards and one downwards, with what must move to make one of the other."""

    a: str
    b: str
    value: float
    partial: float
    upper: list[tuple[float, float]]
    lower: list[tuple[float, float]]
    ribbons: list[Ribbon]


def matrices(shift: ShiftFigures, measure: str) -> dict[str, list[list[Cell]]]:
    """Return kind → cells of all sites against all; the diagonal holds the two halves of a site."""
    return {kind: _matrix(shift, kind, measure) for kind in shift.kinds}


def label_matrix(shift: ShiftFigures, name: str) -> list[list[Cell]]:
    """Return the cells of a matrix of label distances, with the number of findings they are over."""
    return [[_label_cell(shift, name, a, b) for b in shift.sites] for a in shift.sites]


def histogram_lines(shift: ShiftFigures) -> list[tuple[int, str, str]]:
    """Return number, name and path of every site's mean intensity histogram, over 620 × 150 px."""
    shares = shift.content["intensities"]
    top = max(max(values) for values in shares.values())
    return [(k, name, _line(values, top)) for k, (name, values) in enumerate(shares.items())]


def flow_plots(shift: ShiftFigures) -> list[FlowPlot]:
    """Return how the grey levels of every pair's first site must move to be those of the second."""
    flows = [flow for flow in shift.content["flows"] if flow["kind"] == "intensity"]
    return [_flow_plot(flow) for flow in flows]


def _matrix(shift: ShiftFigures, kind: str, measure: str) -> list[list[Cell]]:
    pairs = [shift.of(kind, measure, *pair).value for pair in shift.pairs]
    top = 2.0 if measure.startswith("a_distance") else max((v for v in pairs if v is not None), default=1.0) or 1.0
    return [[_cell(shift, kind, measure, a, b, top) for b in shift.sites] for a in shift.sites]


def _cell(shift: ShiftFigures, kind: str, measure: str, a: str, b: str, top: float) -> Cell:
    figure = shift.of(kind, measure, a, b)
    if figure.value is None:
        return Cell("–", own=a == b, reason="too few patients" if figure.note else "not computed")
    share = min(1.0, max(0.0, figure.value / top))
    digits = 3 if measure == "mmd" else 2
    text = f"{figure.value:.{digits}f}".replace("-", MINUS)
    return Cell(text, _detail(shift, kind, measure, a, b, figure), share, a == b)


def _detail(shift: ShiftFigures, kind: str, measure: str, a: str, b: str, figure: Measured) -> str:
    if figure.low is not None and figure.high is not None:
        return f"[{figure.low:.2f}, {figure.high:.2f}]"
    if figure.p_value is not None:
        return f"p {figure.p_value:.3f}"
    noise = shift.noise(kind, measure, a, b)
    return f"{figure.value / noise:.1f} × halves" if noise and a != b and figure.value is not None else ""


def _label_cell(shift: ShiftFigures, name: str, a: str, b: str) -> Cell:
    value, shared = shift.matrix(name, a, b), int(shift.matrix("shared", a, b) or 0)
    if a == b:
        return Cell("", f"{shared} labelled", own=True)
    if value is None:
        few = "no common finding" if not shared else "one common finding"
        return Cell("–", reason=few if shared < 2 else "no positives")
    return Cell(f"{value:.2f}", f"over {shared}", min(1.0, value / 2))


def _line(values: Sequence[float], top: float) -> str:
    step = FLOW_WIDTH / len(values)
    points = [f"{(k + 0.5) * step:.1f},{150 - 140 * value / top:.1f}" for k, value in enumerate(values)]
    return "M" + "L".join(points)


def _flow_plot(flow: Mapping[str, Any]) -> FlowPlot:
    upper, lower = flow["weights_a"], flow["weights_b"]
    step, top = FLOW_WIDTH / len(upper), max(*upper, *lower)
    bars = [[(k * step, BAR * w / top) for k, w in enumerate(side)] for side in (upper, lower)]
    moved = [(i, j, mass) for i, j, mass in flow["flow"] if i != j]
    widest = max((mass for *_, mass in moved), default=1.0)
    ribbons = [
        Ribbon((i + 0.5) * step, (j + 0.5) * step, max(0.4, THICKEST * mass / widest), j > i) for i, j, mass in moved
    ]
    return FlowPlot(flow["a"], flow["b"], flow["value"], flow["partial"], bars[0], bars[1], ribbons)
