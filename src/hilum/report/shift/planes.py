"""Geometry of the shift page: sites and images on a plane, and figures against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

from hilum.report.numbers import MINUS
from hilum.report.shift.read import ShiftFigures

SIDE, MARGIN = 240.0, 30.0
LETTER, LINE, DOT = 6.3, 11.0, 7.0
CORNER = (0.0, 148.0, 60.0, 173.0)  # where the bar of the halves is


@dataclass(frozen=True)
class Point:
    """A point on a plot, in px; ``site`` is the number of its site, for the colour; ``text``: where its name begins."""

    x: float
    y: float
    site: int
    name: str = ""
    text: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Plane:
    """A plot of ``points``, and the length of what two halves of a site differ by, where that is known."""

    kind: str
    points: list[Point]
    noise: float | None = None


@dataclass(frozen=True)
class Scatter:
    """Points against an axis of distances (x) and another (y); ``x_ticks``, ``y_ticks``: position and text."""

    title: str
    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    zero: float | None = None


def sites_plane(shift: ShiftFigures) -> list[Plane]:
    """Return one plane a kind with the sites as points, near in it where their EMD is small."""
    planes = []
    for entry in shift.content["embedding"]:
        if entry["sites"] is None:
            continue
        halves = [shift.of(entry["kind"], "emd", site, site).value for site in shift.sites]
        known = [half for half in halves if half is not None]
        corners, scale = _fit(list(entry["sites"].values()), SIDE, SIDE * 0.72, MARGIN)
        points = _labelled(list(entry["sites"]), corners)
        planes.append(Plane(entry["kind"], points, sum(known) / len(known) * scale if known else None))
    return planes


def images_plane(shift: ShiftFigures) -> list[Plane]:
    """Return one plane a kind with images as points, coloured by site, sites in turn so that none hides another."""
    planes = []
    for entry in shift.content["embedding"]:
        flat = [(k, point) for k, points in enumerate(entry["images"].values()) for point in points]
        corners, _ = _fit([point for _, point in flat], SIDE, SIDE * 0.8, 8.0, trim=True)
        placed = [Point(x, y, k) for (k, _), (x, y) in zip(flat, corners, strict=True)]
        turns = {k: iter([p for p in placed if p.site == k]) for k in range(len(shift.sites))}
        rounds = max((len(points) for points in entry["images"].values()), default=0)
        mixed = [p for _ in range(rounds) for turn in turns.values() if (p := next(turn, None)) is not None]
        planes.append(Plane(entry["kind"], mixed))
    return planes


def scatter(title: str, pairs: Sequence[tuple[float, float, int, str]], symmetric: bool = False) -> Scatter:
    """Return a scatter plot of (x, y, group, name) on scales from 0 (or below, for y) to round numbers."""
    x_top = _round_up(max((x for x, *_ in pairs), default=1.0))
    y_top = x_top if symmetric else _round_up(max((y for _, y, *_ in pairs), default=1.0))
    least = min((y for _, y, *_ in pairs), default=0.0)
    y_low = -_round_up(-least) if least < 0 else 0.0
    if symmetric:
        x_top = y_top = max(x_top, _round_up(max((y for _, y, *_ in pairs), default=1.0)))

    def at_x(value: float) -> float:
        return 34 + max(0.0, value) / x_top * (SIDE - 46)

    def at_y(value: float) -> float:
        return SIDE * 0.8 - 26 - (value - y_low) / (y_top - y_low) * (SIDE * 0.8 - 38)

    x_ticks = [(at_x(t), _tick(t)) for t in (0.0, x_top / 2, x_top)]
    y_ticks = [(at_y(t), _tick(t)) for t in sorted({0.0, y_top / 2, y_top, *([y_low] if y_low < -0.1 * y_top else [])})]
    points = [Point(at_x(x), at_y(y), group, name) for x, y, group, name in pairs]
    return Scatter(title, points, x_ticks, y_ticks, at_y(0.0) if y_low < 0 else None)


def _fit(
    points: Sequence[Sequence[float]], width: float, height: float, margin: float, trim: bool = False
) -> tuple[list[tuple[float, float]], float]:
    """Return points in px, both axes on one scale and centred, and px a unit; ``trim`` moves outliers in."""
    xs, ys = sorted(p[0] for p in points), sorted(p[1] for p in points)
    cut = round(len(points) * 0.005) if trim else 0
    ends = [(side[cut], side[-1 - cut]) for side in (xs, ys)]
    spans = [max(high - low, 1e-9) for low, high in ends]
    scale = min((width - 2 * margin) / spans[0], (height - 2 * margin) / spans[1])
    middle = [(low + high) / 2 for low, high in ends]
    placed = [(width / 2 + (p[0] - middle[0]) * scale, height / 2 - (p[1] - middle[1]) * scale) for p in points]
    inside = [(min(max(x, 2.0), width - 2), min(max(y, 2.0), height - 2)) for x, y in placed]
    return (inside if trim else placed), scale


def _labelled(names: Sequence[str], corners: Sequence[tuple[float, float]]) -> list[Point]:
    """Return the points with their names beside, above or below them: where a name covers least of the others."""
    taken = [CORNER, *((x - DOT, y - DOT, x + DOT, y + DOT) for x, y in corners)]
    points = []
    for k, (name, (x, y)) in enumerate(zip(names, corners, strict=True)):
        width = LETTER * len(name)
        places = ((x + 9, y + 4), (x - 9 - width, y + 4), (x - width / 2, y - 10), (x - width / 2, y + 18))
        boxes = [(left, base - LINE + 2, left + width, base + 2) for left, base in places]
        costs = [sum(_shared(box, other) for other in taken) + 10 * _outside(box) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        points.append(Point(x, y, k, name, places[best]))
    return points


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Sequence[float]) -> float:
    return max(0.0, 2 - box[0]) + max(0.0, box[2] - SIDE + 2) + max(0.0, 2 - box[1]) + max(0.0, box[3] - SIDE * 0.72)


def _round_up(value: float) -> float:
    if value <= 0:
        return 1.0
    unit = 10.0 ** ceil(log10(value) - 1)
    return next(unit * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if unit * step >= value * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{value:.3g}".replace("-", MINUS)
