"""hilum data: check a database, or write its manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Check a database, or write its manifest.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A database: see 'hilum list databases'.")]
Root = Annotated[Path, typer.Argument(metavar="ROOT", help="Where its official download lies.")]


@app.command()
def check(
    name: Name, root: Root, as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False
) -> None:
    """Read a database as it was downloaded, and count: images, patients, boxes, labels, problems.

    Every image file is opened: a truncated, empty or wrong file is named with its row and reason.
    """
    from hilum.databases import DATABASES
    from hilum.images.check import unreadable

    manifest = DATABASES.load(name).read(root)
    counts = manifest.counts()
    counts["problems"] += [str(problem) for problem in unreadable(manifest.paths(), list(manifest.images["path"]))]
    typer.echo(json.dumps(counts, indent=1, ensure_ascii=False) if as_json else _table(name, counts))


@app.command()
def manifest(
    name: Name, root: Root, out: Annotated[Path, typer.Option(help="The CSV to write.", show_default=False)]
) -> None:
    """Write one row an image: id, path, patient, view, age, sex, raw labels (1, 0, -1, blank = unknown).

    The file holds patient ids: it stays where the images are.
    """
    import pandas as pd

    from hilum.databases import DATABASES
    from hilum.errors import DataError

    read = DATABASES.load(name).read(root)
    table = pd.concat([read.images, read.labels], axis=1)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)
    except OSError as error:
        raise DataError(f"Expected to write {out}; the system says: {error.strerror}.") from None
    typer.echo(f"{len(table)} images: {out}")


def _table(name: str, counts: dict[str, Any]) -> str:
    lines = [f"{name}: {counts['images']} images of {counts['patients']} patients, {counts['boxes']} boxes", ""]
    lines.append(f"{'finding':<28}{'positive':>10}{'negative':>10}{'uncertain':>11}{'unknown':>9}")
    for finding, n in counts["findings"].items():
        lines.append(f"{finding:<28}{n['positive']:>10}{n['negative']:>10}{n['uncertain']:>11}{n['unknown']:>9}")
    problems = counts["problems"]
    lines += ["", f"{len(problems)} problems" + (":" if problems else "")]
    return "\n".join([*lines, *(f"  {problem}" for problem in problems)])
