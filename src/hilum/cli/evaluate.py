"""hilum evaluate: every figure of a run again, with thresholds, calibration and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory.", show_default=False)],
    against: Annotated[
        Path | None, typer.Option(help="Another run of the same test patients to compare with.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for evaluation.json. [default: RUN]", show_default=False)
    ] = None,
) -> None:
    """Measure what the models of a run say of test patients: which findings, where, and how sure.

    Computes from the tables and maps in RUN, without images: average precision and AUROC, also of head, medium and
    tail findings; pointing game, boxes and masks of the maps, average precision, FROC and RoDeO of detections, each
    beside maps that never saw the image and maps of shuffled weights; disease or site, from films with erased parts;
    calibration; differences between arms with corrected p values. Thresholds and corrections are fitted on validation
    patients. Writes evaluation.json and, where that is in RUN, the report again. With --against, differences to
    another run, patient by patient. What every figure means: docs/reference/metrics.md.
    """
    from hilum.report import write_report
    from hilum.report.evaluation import evaluation_table
    from hilum.study.evaluation.evaluate import evaluate_run

    written = evaluate_run(run, against, out)
    typer.echo(evaluation_table(written))
    typer.echo(f"figures: {written}")
    if out is None or out.resolve() == run.resolve():
        typer.echo(f"report: {write_report(run)}")
