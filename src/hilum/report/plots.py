"""Geometry of the report's plots: positions in percent and paths; the template draws them as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor

from hilum.report.read import Round, RunDirectory
from hilum.report.results import Figure

WIDTH, HEIGHT = 240.0, 132.0
LEFT, TOP, BOTTOM = 30.0, 6.0, 20.0


@dataclass(frozen=True)
class Axis:
    """A horizontal scale from ``low`` to ``high``; ``reference`` is drawn as a line (chance, no difference)."""

    low: float
    high: float
    ticks: tuple[float, ...]
    reference: float | None = None

    def at(self, value: float) -> str:
        """Return where a value lies, in percent of the width, clipped to the scale."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"


UNIT = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def score_axis(figures: Iterable[Figure], reference: float = 0.5) -> Axis:
    """Return a scale that ends at 1 and starts at the tenth below every interval and the reference."""
    lowest = min((f.low if f.low is not None else f.value for f in figures if f.value is not None), default=1)
    low = max(0.0, floor(min(lowest, reference) * 10 - 1e-9) / 10)
    return Axis(low, 1.0, _ticks(low, 1.0), reference)


def difference_axis(figures: Iterable[Figure]) -> Axis:
    """Return a scale symmetric about zero that holds every interval."""
    known = [f for f in figures if f.value is not None]
    ends = [abs(e) for f in known for e in (f.value, f.low, f.high) if e is not None]
    reach = max(0.05, ceil(max(ends, default=0.0) * 20) / 20)
    return Axis(-reach, reach, (-reach, 0.0, reach), 0.0)


def _ticks(low: float, high: float) -> tuple[float, ...]:
    step = 0.1 if high - low < 0.65 else 0.25 if (low * 4) % 1 == 0 else 0.2
    count = floor((high - low) / step + 1e-9)
    return tuple(round(high - step * i, 2) for i in range(count, -1, -1))


@dataclass(frozen=True)
class Line:
    """One curve: ``kind`` is 'train' or 'validation', ``mean`` whether it averages the seeds."""

    kind: str
    mean: bool
    path: str


@dataclass(frozen=True)
class Curves:
    """One small multiple: a model's loss at one site against the number of updates."""

    arm: str
    model: str
    site: str
    lines: list[Line]
    last: dict[str, float]
    y_ticks: list[tuple[str, str]]
    x_last: int


def learning_curves(run: RunDirectory) -> dict[str, list[Curves]]:
    """Return arm → one panel per model and site, all panels on one scale."""
    losses = [v for r in run.rounds for part in _parts(r) for v in part[1].values() if v is not None]
    top = max(losses, default=1.0) * 1.04
    updates = max((r.updates for r in run.rounds), default=1)
    panels: dict[str, list[Curves]] = {}
    for arm in run.run.arms:
        rounds = [r for r in run.rounds if r.arm == arm]
        for model in dict.fromkeys(r.model for r in rounds):
            own = [r for r in rounds if r.model == model]
            for site in dict.fromkeys(name for r in own for _, part in _parts(r) for name in part):
                panels.setdefault(arm, []).append(_panel(arm, model, site, own, top, updates))
    return panels


def _panel(arm: str, model: str, site: str, rounds: list[Round], top: float, updates: int) -> Curves:
    lines: list[Line] = []
    last: dict[str, float] = {}
    for kind in ("train", "validation"):
        seeds: dict[int, dict[int, float]] = {}
        for r in rounds:
            value = dict(_parts(r)).get(kind, {}).get(site)
            if value is not None:
                seeds.setdefault(r.seed, {})[r.updates] = value
        if not seeds:
            continue
        shared = sorted(set.intersection(*(set(points) for points in seeds.values())))
        mean = {x: sum(points[x] for points in seeds.values()) / len(seeds) for x in shared}
        if len(seeds) > 1:
            lines += [Line(kind, False, _path(points, top, updates)) for points in seeds.values()]
        lines.append(Line(kind, True, _path(mean, top, updates)))
        if shared:
            last[kind] = mean[shared[-1]]
    step = next((s for s in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0) if top / s < 4), top / 2)
    ticks = [(f"{_y(i * step, top):.1f}", f"{i * step:.4g}") for i in range(floor(top / step) + 1)]
    return Curves(arm, model, site, lines, last, ticks, updates)


def _parts(one: Round) -> list[tuple[str, dict[str, float | None]]]:
    return [("train", dict(one.train_loss)), ("validation", dict(one.validation_loss or {}))]


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)


def _path(points: dict[int, float], top: float, updates: int) -> str:
    steps = [f"{LEFT + x / updates * (WIDTH - LEFT - 4):.1f},{_y(y, top):.1f}" for x, y in sorted(points.items())]
    return "M" + "L".join(steps) if steps else ""
