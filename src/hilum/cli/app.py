"""All verbs in one application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
import typer.core

import hilum
from hilum.cli import data, demo, evaluate, federation, listing, predict, report, shift, similarity, study


class Interrupted(BaseException):
    """Ctrl-C, past typer, which would drop what it says."""


class _Verbs(typer.core.TyperGroup):
    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _kept_apart():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _kept_apart():
            return super().invoke(ctx)


@contextmanager
def _kept_apart() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(*stop.args) from None


typer.core.HAS_RICH = False  # else typer escapes "[required]" for a markup that rich_markup_mode=None never reads
app = typer.Typer(
    name="hilum",
    cls=_Verbs,
    help=(
        "Train one chest X-ray model across hospitals that may not share images: which findings a radiograph "
        "shows, and where, from image-level labels alone."
    ),
    epilog="Start with: hilum demo. Then a study file of your own: docs/reference/study-file.md, examples in studies/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo", short_help="Compare models of phantom hospitals; no data needed.")(demo.demo)
app.command("study", short_help="Compare models of hospitals, as a study file says.")(study.study)
app.command("shift", short_help="How far apart hospitals are, before training.")(shift.shift)
app.command("evaluate", short_help="Every figure of a run: where, how sure, how different.")(evaluate.evaluate)
app.command("similarity", short_help="How alike two models see the same images.")(similarity.similarity)
app.command("predict", short_help="Findings and maps of new radiographs.")(predict.predict)
app.command("report", short_help="Write the report of a run again.")(report.report)
app.command("list", short_help="Names that a study file may use.")(listing.list_names)
app.add_typer(data.app, name="data", short_help="Check a database, or write its manifest.")
app.add_typer(federation.app, name="federation", short_help="Run a study between hospitals.")


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
