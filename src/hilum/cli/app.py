"""All verbs in one application."""

from __future__ import annotations

from typing import Annotated

import typer

import hilum
from hilum.cli import data, demo, listing, predict, report, study

app = typer.Typer(
    name="hilum",
    help=(
        "Train one chest X-ray model across hospitals that may not share images: which findings a radiograph "
        "shows, and where, from image-level labels alone."
    ),
    epilog="Start with: hilum demo    Then: hilum study studies/hospitals.yaml --out runs/hospitals",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("study")(study.study)
app.command("predict")(predict.predict)
app.command("report")(report.report)
app.command("list")(listing.list_names)
app.add_typer(data.app, name="data")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"hilum {hilum.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass
