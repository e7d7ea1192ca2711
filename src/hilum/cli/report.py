"""hilum report: write the report of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]) -> None:
    """Write RUN/report.html, one self-contained page, from a finished run directory."""
    from hilum.report import write_report

    typer.echo(f"report: {write_report(run)}")
