"""hilum demo: phantom hospitals, a study of them, a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Directory for hospitals, run and report.")] = Path("hilum-demo"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, such as --set training.rounds=4. Repeatable."),
    ] = None,
) -> None:
    """Draw five phantom hospitals, compare local, pooled and federated models of them, write OUT/report.html.

    Needs no data and no network; six to twenty minutes on two cores. The radiographs are synthetic: the report
    shows what hilum does, and says nothing about patients. A stopped demo goes on when it is repeated.
    """
    from hilum.report import write_report
    from hilum.study.demo import run_demo
    from hilum.study.evaluation.evaluate import evaluate_run

    run = run_demo(out, overrides=set_)
    evaluate_run(run.root)
    report = out / "report.html"
    report.write_bytes(write_report(run.root).read_bytes())
    typer.echo(f"report: {report}")
