"""hilum predict: what a trained run says of new radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Directory for the predictions.", show_default=False)],
    arm: Annotated[str, typer.Option(help="Which models: federated, pooled or local.")] = "federated",
    site: Annotated[
        str | None,
        typer.Option(
            help="The hospital the images come from, or whose model to use with --arm local.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="One seed's model instead of the mean over all seeds.", show_default=False)
    ] = None,
    on_error: Annotated[str, typer.Option(help="An unreadable image: refuse or leave_out.")] = "refuse",
) -> None:
    """Predict findings and where they are.

    Writes OUT/predictions.csv (column 'image' as given, one column a finding with a probability) and
    OUT/maps/<image stem>.npz (one [h, w] array a finding in [0, 1] that covers the whole image). With several
    seeds, probabilities and maps are the mean of their models. Images of hospitals that took no part in
    training need no --site.
    """
    from hilum.study.inference import predict_paths

    count = predict_paths(run, paths, out, arm, site, seed, on_error)
    typer.echo(f"{count} images: {out / 'predictions.csv'}")
