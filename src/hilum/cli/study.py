"""hilum study: a study file becomes a run directory with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Run directory. [default: runs/<name of the study>]", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, such as --set training.rounds=10. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")] = False,
) -> None:
    """Compare local, pooled and federated models of several hospitals, and write a report.

    Reads the databases that the study names, caches their pixels, trains every arm at the same update budget,
    predicts on test patients of every hospital, measures what the models say as 'hilum evaluate' does and writes
    RUN/report.html. A stopped run goes on with --resume to the same result. Paths in the study file, and in --set,
    are relative to it. Keys of the study file: docs/reference/study-file.md. Layout of RUN:
    docs/reference/run-directory.md.
    """
    from hilum.report import write_report
    from hilum.study.evaluation.evaluate import evaluate_run
    from hilum.study.run import run_study
    from hilum.study.spec import load_study

    spec = load_study(file, set_)
    run = run_study(spec, out or Path("runs") / spec.name, resume, source=file)
    evaluate_run(run.root)
    typer.echo(f"report: {write_report(run.root)}")
