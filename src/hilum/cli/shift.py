"""hilum shift: how far apart the hospitals of a study are, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def shift(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Directory for figures and page.", show_default=False)],
    run: Annotated[
        Path | None,
        typer.Option(help="A finished run of the study: its trunk, and its losses.", show_default=False),
    ] = None,
    images: Annotated[int, typer.Option(help="Images of a site at most, of as many patients.", min=1)] = 1000,
    epsilon: Annotated[
        float | None,
        typer.Option(help="Privacy of each noisy release; without it there are none.", min=0.01, show_default=False),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Leave example images out of the page.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study. Repeatable."),
    ] = None,
) -> None:
    """Measure how far apart the hospitals of a study are: images, labels, patients.

    Compares the training patients of every hospital that trains and all images of an outside hospital; test patients
    of the former are not looked at, and labels enter the label distances only. For every pair, on four kinds of
    features: A-distance, Earth Mover's Distance and MMD, with two halves of each hospital as a control, and the same
    without moving images. Writes DIR/shift.json and DIR/shift.html, and with --epsilon the noisy figures alone to
    DIR/shift.private.json: the others protect nobody. Repeat the command after it was stopped: it
    goes on to the same result. How to read the page: docs/how-to/measure-shift.md.
    """
    from hilum.report.shift.page import summary_table, write_shift_page
    from hilum.study.shift.measure import ShiftPlan, measure_shift
    from hilum.study.spec import load_study

    study = load_study(file, set_)
    measure_shift(study, out, ShiftPlan(images, run, not no_images, epsilon), source=file)
    page = write_shift_page(out)
    typer.echo(summary_table(out))
    typer.echo(f"page: {page}")
