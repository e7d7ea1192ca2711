"""hilum similarity: how alike two models see the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def similarity(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder below RUN/models, seed_0/initial, or a .safetensors file.",
            show_default=False,
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="Another one.", show_default=False)],
    other_run: Annotated[Path | None, typer.Option(help="The run of OTHER, if not RUN.", show_default=False)] = None,
    images: Annotated[int, typer.Option(min=1, help="Test images of each training site.")] = 32,
) -> None:
    """Print linear CKA and SVCCA between two models, stage by stage of their trunks.

    Models are named by seed, arm and name, such as seed_0/federated/federated or seed_0/local/north; seed_0/initial
    is what training began with. A .safetensors file, such as a round's checkpoint or a donor, must hold the same trunk
    as the study. 1 is the same representation up to rotation and scale (CKA), or up to any linear map
    of its leading directions (SVCCA); 0 has nothing in common. The images are test images of the sites of RUN.
    """
    from hilum.study.similarity import compare_models

    table = compare_models(run, model, other, other_run or run, images)
    typer.echo(f"{'stage':<8}{'linear CKA':>12}{'SVCCA':>9}")
    for row in table.itertuples():
        typer.echo(f"{row.layer:<8}{row.linear_cka:>12.3f}{row.svcca:>9.3f}")
