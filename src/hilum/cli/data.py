"""hilum data: check a database, or write its manifest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

    from hilum.databases.manifest import Manifest
    from hilum.sites.site import Site

app = typer.Typer(help="Check a database, or write its manifest.", no_args_is_help=True, rich_markup_mode=None)

NAME = typer.Argument(metavar="NAME", help="A database: see 'hilum list databases'.", show_default=False)
ROOT = typer.Argument(metavar="ROOT", help="Where its official download lies.", show_default=False)

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the database, as labeller=negbio. Repeatable."),
]


@app.command(short_help="Count images, patients, boxes, labels, problems.")
def check(
    name: Annotated[str | None, NAME] = None,
    root: Annotated[Path | None, ROOT] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    labels_only: Annotated[
        bool, typer.Option("--labels-only", help="Read the label tables alone: no image need be there.")
    ] = False,
    option: Options = None,
    hospital: Annotated[
        Path | None,
        typer.Option(metavar="HOSPITAL.yaml", help="Check what a hospital's node will read, in place of NAME ROOT."),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(metavar="STUDY.yaml", help="With --hospital: the study. Default: study.yaml beside that file."),
    ] = None,
) -> None:
    """Read a database as it was downloaded, and count: images, patients, views, boxes, labels, problems.

    Every image file is opened: a truncated, empty, wrong or constant image, and one that two patients have, is
    named with its row and the reason. With --labels-only no image is looked for, and all that is listed counts.
    With --json: images, patients, studies, views, boxes, masks, findings ({name: {positive, negative, uncertain,
    unknown}}), prevalence ({name: positives / images}), frontal (images, patients and prevalence of the images that
    are known to be frontal), facts (what images cannot tell, such as reports without one) and problems.

    With --hospital, on the machine of a hospital's node: does what the node does before it trains, and says in full
    what is wrong, of which the server is told the kind alone. Where nothing is, counts images, and known and positive
    labels of those for training. The status is 0 where the node would train.
    """
    if hospital is not None:
        if name is not None or as_json or labels_only or option:
            raise typer.BadParameter(
                "expected --study alone beside --hospital, which names the rest itself. Leave out the rest."
            )
        _check_hospital(hospital, study or hospital.with_name("study.yaml"))
        return
    if name is None or root is None or study is not None:
        raise typer.BadParameter(
            "expected NAME and ROOT of a database, or --hospital, perhaps with --study. Give either."
        )
    from hilum.images.check import unreadable

    manifest = _read(name, root, option, labels_only)
    counts = manifest.counts()
    if not labels_only:
        found = unreadable(manifest.paths(), manifest.places(), list(manifest.images["patientid"]))
        counts["problems"] += [str(problem) for problem in found]
    typer.echo(json.dumps(counts, indent=1, ensure_ascii=False) if as_json else _table(name, counts))


@app.command(short_help="Write its images, labels and boxes as CSV.")
def manifest(
    name: Annotated[str, NAME],
    root: Annotated[Path, ROOT],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="The CSV to write.", show_default=False)],
    option: Options = None,
) -> None:
    """Write one row an image: id, path, patient, view, age, sex, raw labels (1, 0, -1, blank = unknown), and what
    else the database tells of it.

    Boxes, where the database has any, go beside it into FILE.boxes.csv: image_id, finding, corners x0 y0 x1 y1
    in pixels of the image file as it lies on disk, and the file's width and height, blank where it cannot be read.

    The manifest holds patient ids: it stays where the images are.
    """
    import pandas as pd

    from hilum.errors import DataError

    read = _read(name, root, option)
    written = {out: (pd.concat([read.images, read.labels, read.extra], axis=1), "images")}
    if len(read.boxes):
        written[out.with_suffix(".boxes.csv")] = (_boxes_in_pixels(read), "boxes")
    for path, (table, what) in written.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(path, index=False, float_format="%.6g", errors="surrogateescape")
        except OSError as error:
            raise DataError(f"Expected to write {path}; the system says: {error.strerror or error}.") from None
        typer.echo(f"{len(table)} {what}: {path}")


def _check_hospital(hospital: Path, study: Path) -> None:
    """Do what a hospital's node does before it trains; raises ``HilumError`` where it would not train."""
    from hilum.study.approval import approval
    from hilum.study.flower.hospital import own_site, read_hospital, require_approved
    from hilum.study.spec import parse_study, read_mapping

    file, spec = read_hospital(hospital), parse_study(read_mapping(study), str(study))
    found = approval(spec)
    typer.echo(f"code and study: {'approved' if found in file.approved else 'not approved'} ({found})")
    typer.echo(_site_table(own_site(spec, file)))
    require_approved(spec, file)


def _read(name: str, root: Path, options: list[str] | None, labels_only: bool = False) -> Manifest:
    from inspect import signature

    import yaml

    from hilum.databases import DATABASES
    from hilum.errors import DataError, UnknownName

    read = DATABASES.load(name).read
    known = [p for p in signature(read).parameters if p not in ("root", "labels_only")]
    given: dict[str, Any] = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not equals:
            raise DataError(f"Expected --option KEY=VALUE; found '{option}'.")
        if key not in known:
            if not known:
                raise DataError(f"Expected no --option: {name} has none; found '{option}'.")
            raise UnknownName(f"option of {name}", key, known)
        given[key] = yaml.safe_load(value)
    manifest: Manifest = read(root, labels_only=labels_only, **given)
    return manifest


def _boxes_in_pixels(manifest: Manifest) -> pd.DataFrame:
    paths = dict(zip(manifest.images["image_id"], manifest.paths(), strict=True))
    sizes = {image_id: _size(paths[image_id]) for image_id in manifest.boxes["image_id"].unique()}
    boxes = manifest.boxes.copy()
    for side, corners in enumerate((("x0", "x1", "width"), ("y0", "y1", "height"))):
        boxes[corners[2]] = [sizes[image_id][side] for image_id in boxes["image_id"]]
        for corner in corners[:2]:
            boxes[corner] *= boxes[corners[2]]
    return boxes


def _size(path: Path) -> tuple[float, float]:
    """Return width and height in px, NaN where the file is no image; pixels are not read."""
    from PIL import Image

    from hilum.databases.dicom_headers import header_of

    if header := header_of(path):
        columns, rows = header.integer("Columns"), header.integer("Rows")
        return (columns or math.nan, rows or math.nan)
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, Image.DecompressionBombError):
        return (math.nan, math.nan)


def _table(name: str, counts: dict[str, Any]) -> str:
    studies = f" in {counts['studies']} studies" if counts["studies"] else ""
    lines = [f"{name}: {counts['images']} images{studies} of {counts['patients']} patients, {counts['boxes']} boxes, "]
    lines[0] += f"{counts['masks']} masks"
    lines += ["views: " + ", ".join(f"{view} {n}" for view, n in counts["views"].items()), ""]
    lines.append(f"{'finding':<28}{'positive':>10}{'negative':>10}{'uncertain':>11}{'unknown':>9}")
    for finding, n in counts["findings"].items():
        lines.append(f"{finding:<28}{n['positive']:>10}{n['negative']:>10}{n['uncertain']:>11}{n['unknown']:>9}")
    return "\n".join([*lines, *_problem_lines(counts["problems"])])


def _site_table(site: Site) -> str:
    """Return the images of a site, and the labels of those for training: what a node tells the server of them."""
    from hilum.sites.examples import Examples

    train = Examples(((site, site.indices("train")),))
    lines = [f"{site.name}: {len(site.manifest)} images, {len(train)} of them for training, which have", ""]
    lines.append(f"{'finding':<28}{'known':>10}{'positive':>10}")
    for finding, known, positive in zip(site.findings, train.known()[0], train.positive()[0], strict=True):
        lines.append(f"{finding:<28}{known:>10}{positive:>10}")
    return "\n".join([*lines, *_problem_lines([*map(str, site.manifest.problems), *map(str, site.left_out)])])


def _problem_lines(problems: list[str]) -> list[str]:
    return ["", f"{len(problems)} problems" + (":" if problems else ""), *(f"  {problem}" for problem in problems)]
