"""hilum predict: what a trained run says of new radiographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="PNG, JPEG or DICOM images, or folders of them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Directory for the predictions.", show_default=False)],
    arm: Annotated[
        str, typer.Option(help="Which models: federated, pooled, local, or a name in the study's federations.")
    ] = "federated",
    site: Annotated[
        str | None,
        typer.Option(
            help="The hospital the images come from, or whose model to use with --arm local.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="One seed's model instead of the mean over all seeds.", show_default=False)
    ] = None,
    on_error: Annotated[
        Literal["refuse", "leave_out"], typer.Option(help="What to do with an unreadable image.")
    ] = "refuse",
    adjust: Annotated[
        Literal["none", "sites", "images"],
        typer.Option(help="For images of another hospital: what the models adjust to."),
    ] = "none",
) -> None:
    """Predict which findings new radiographs show, and where.

    Writes OUT/predictions.csv: the column 'image', the path as given, and one column a finding with its
    probability. Writes OUT/maps/<image stem>.npz: one [h, w] array a finding, in [0, 1], that covers the whole
    image with its longest side at most 256. It lies on the image as the file stores it, also where the orientation
    in a DICOM header had it turned for the models. Where several images have one stem, the first keeps it and the
    others get <stem>-2, <stem>-3, and so on; OUT/maps/index.csv says which map is whose, in the columns 'image'
    and 'map'. DICOM that is a lateral view is left out with a message. A finding that the models were never taught
    has a blank column, no map and no box. OUT/masks holds the masks of models that segment (model.neck: conta).

    Writes OUT/boxes.csv: the columns image, finding, score, x0, y0, x1, y1, a row for each connected part of a map,
    in px of the image as the file stores it. Maps are cut where 'hilum evaluate RUN' found it best on validation
    patients with boxes, else each by itself (Otsu's method). 'score' is then the chance that the box overlaps a true
    one (IoU of 0.3), else the uncalibrated product of probability and hottest cell. Every box is kept: filter by
    score. RUN/evaluation.json says under 'thresholds' what was tuned, on how many images.

    With several seeds, probabilities and maps are the mean of their models. Images of hospitals that took no
    part in training need no --site: they meet the head rows of the hospitals that they look like. With --adjust sites
    they meet, instead, each model as it stands at every training hospital, with the statistics and head rows kept
    there; probabilities and maps are averaged, weighted by how many training images each hospital labelled with the
    finding. That takes a pass for each hospital, and is refused where the run does not hold what hospitals keep.
    With --adjust images the statistics of the models become those of the images given, without labels: 50 or more
    of one hospital, as they come.
    """
    from hilum.study.inference import predict_paths

    try:
        done = predict_paths(run, paths, out, arm, site, seed, on_error, adjust)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Stopped before predictions.csv was written. Repeat the command: it starts anew."
        ) from None
    for one in done.left_out:
        typer.echo(f"left out: {one.name}: {one.reason}", err=True)
    typer.echo(f"{done.images} images: {out / 'predictions.csv'}")
    typer.echo(f"{done.boxes} boxes: {out / 'boxes.csv'}")
