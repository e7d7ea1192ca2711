"""One HTML file from a run directory: styles, script and pictures inside, nothing loaded from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from hilum.report import numbers
from hilum.report.answer import answer
from hilum.report.cohorts import label_spaces, left_out, problems, turned
from hilum.report.evaluation import evaluation_tables, reliability_plots
from hilum.report.heatmaps import Gallery, colour_bar, examples
from hilum.report.plots import UNIT, difference_axis, learning_curves, score_axis
from hilum.report.read import MACRO, RunDirectory, read_run
from hilum.report.results import METRICS, Figure, Results
from hilum.report.summary import summarise

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
LOCALIZATION_METRICS = {
    "pointing_game": "Pointing game",
    "iou": "IoU",
    "iobb": "IoBB",
    "box_energy": "Energy in box",
}
BADGES = {
    "phantom": "Phantom (synthetic) data",
    "real": "Real radiographs",
    "mixed": "Mixed: real radiographs and phantom (synthetic) data",
}


def write_report(run: Path) -> Path:
    """Write ``run/report.html`` from a finished run and return its path.

    The file is self-contained, and replaced in one step. It holds pictures of the gallery, but no image id
    and no patient id. Raises ``RunError`` where the run is absent or not finished.
    """
    return write_page(Path(run) / "report.html", render(read_run(Path(run))))


def write_page(target: Path, text: str) -> Path:
    """Write a page in one step: a reader sees the old one or the new one, and a failure leaves the old."""
    with ExitStack() as stack:
        part = stack.enter_context(
            NamedTemporaryFile(
                "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", suffix=".tmp", delete=False
            )
        )
        stack.callback(Path(part.name).unlink, missing_ok=True)
        part.write(text)
        part.close()
        Path(part.name).chmod(0o644)
        return Path(part.name).replace(target)


def render(run: RunDirectory) -> str:
    """Return the report of a run as one HTML page."""
    environment = template_environment()
    environment.globals.update(score_text=numbers.score, difference_text=numbers.difference)
    return environment.get_template("report.html.j2").render(_content(run))


def template_environment() -> Environment:
    """Return what every page is rendered with: the templates, and filters for numbers in words."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "percent", "duration", "plural", "listing"):
        environment.filters[name] = getattr(numbers, name)
    return environment


def _content(run: RunDirectory) -> dict[str, Any]:
    results = Results(run)
    measured = {r.metric for r in run.localization}
    seconds = {arm: sum(r.seconds for r in run.rounds if r.arm == arm) for arm in run.run.arms}
    return {
        "run": run,
        "facts": run.run,
        "badge": BADGES.get(run.run.data, run.run.data),
        "results": results,
        "summary": summarise(run, results),
        "answer": answer(run, results),
        "macro": MACRO,
        "metrics": METRICS,
        "training": results.training,
        "outside": [s for s in run.sites if s.outside],
        "spaces": label_spaces(run),
        "turned": turned(run),
        "examples": examples(run),
        "curves": learning_curves(run),
        "axis": score_axis(_every_score(results)),
        "gap_axis": difference_axis(_every_difference(results)),
        "unit_axis": UNIT,
        "opponents": [a for a in run.run.arms if a != "federated"],
        "localization_metrics": {k: v for k, v in LOCALIZATION_METRICS.items() if k in measured},
        "localized": _localized(results),
        "gallery": Gallery(run),
        "colour_bar": colour_bar(),
        "left_out": left_out(run),
        "problems": problems(run),
        "seconds": seconds,
        "evaluation": _evaluation(run),
    }


def _evaluation(run: RunDirectory) -> dict[str, Any] | None:
    if run.evaluation is None:
        return None
    return {
        "tables": evaluation_tables(run.evaluation),
        "plots": reliability_plots(run.evaluation),
        "erased": bool(run.evaluation.get("erased")),
    }


def _every_score(results: Results) -> Iterator[Figure]:
    for site in results.run.sites:
        for arm in results.run.run.arms:
            yield from (results.of_arm(arm, site, finding) for finding in results.findings)


def _every_difference(results: Results) -> Iterator[Figure]:
    for site in results.run.sites:
        for arm in results.run.run.arms:
            yield from (results.difference(arm, site.name, finding) for finding in results.findings)


def _localized(results: Results) -> list[tuple[str, str]]:
    """Pairs (finding, site) with a localization record, macro first."""
    held = {(r.finding, r.site) for r in results.run.localization}
    return [(f, s.name) for f in results.findings for s in results.run.sites if (f, s.name) in held]
