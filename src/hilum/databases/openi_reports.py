"""The reports of the Indiana University collection: one XML file each, in a folder or in the archive as it comes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from hilum.databases import layout
from hilum.databases.manifest import Problem
from hilum.errors import DataError

NAME = "openi"
URL = "https://openi.nlm.nih.gov/faq"
FOLDER, ARCHIVE = "ecgen-radiology", "NLMCXR_reports.tgz"
COLUMNS = ("file", "report", "terms", "automatic", "images")


class _Report(NamedTuple):
    file: str
    report: str
    terms: tuple[str, ...]
    automatic: tuple[str, ...]
    images: tuple[str, ...]


class _Forbidden(ValueError):
    """The file declares a document type, by which XML may name other files."""


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _Forbidden(name)


def read_reports(root: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """Return one row a report, those without an image too, in the order of their numbers.

    ``COLUMNS``: its file, its name ('CXR1'), its MeSH terms, its automatic terms and its images; no text of the
    report. A damaged file is left out with a problem. Raises ``DataError`` where there is no report.
    """
    reports, problems = [], []
    for file, content in _contents(root):
        try:
            reports.append(_report(file, content))
        except (ElementTree.ParseError, ValueError) as error:
            reason = f"expected a report in XML; found a file that is not ({error}). It is left out"
            problems.append(Problem(f"{FOLDER}/{file}", reason, "report that is not readable"))
    if not reports:
        raise DataError(
            f"{NAME}: expected reports as '{FOLDER}/1.xml' in '{root}'; found none that can be read. "
            f"Download '{ARCHIVE}' again; it is given at {URL}."
        )
    table = pd.DataFrame(reports, columns=list(COLUMNS))
    repeated = table["report"].duplicated()
    if repeated.any():
        raise DataError(
            f"{NAME}: expected every report once; found '{table['report'][repeated].iloc[0]}' again in "
            f"'{table['file'][repeated].iloc[0]}'. Unpack '{ARCHIVE}' into an empty folder."
        )
    number = pd.to_numeric(table["report"].str.removeprefix("CXR"), errors="coerce")
    return table.iloc[np.argsort(number.to_numpy(), kind="stable")].reset_index(drop=True), problems


def _contents(root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every report."""
    folder = next((f for f in (root / FOLDER, root / "NLMCXR_reports" / FOLDER) if f.is_dir()), None)
    if folder is None:
        yield from _archived(root)
        return
    for name in layout.list_names(folder):
        if name.endswith(".xml"):
            yield name, (folder / name).read_bytes()


def _archived(root: Path) -> Iterator[tuple[str, bytes]]:
    archive = layout.require_file(NAME, root, ARCHIVE, source=f"{URL}, and may be unpacked to '{FOLDER}/'")
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".xml") and (file := tar.extractfile(member)):
                    yield Path(member.name).name, file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{NAME}: expected to read '{ARCHIVE}'; found that it is damaged or not readable ({error}). "
            "Download it again."
        ) from None


def _report(file: str, content: bytes) -> _Report:
    """Return what a report tells; raises ``ParseError`` or ``ValueError`` for a file that is no report."""
    try:
        tree = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
    except _Forbidden:
        raise ValueError("it declares a document type, which no report does") from None
    name = tree.find("uId")
    mesh = tree.find("MeSH")
    if name is None or mesh is None or not name.get("id"):
        raise ValueError("it has no 'uId' or no 'MeSH'")
    terms, automatic = (_texts(mesh, kind) for kind in ("major", "automatic"))
    images = tuple(image.get("id", "") for image in tree.findall("parentImage"))
    if "" in images or any("/" in image or "\\" in image for image in images):
        raise ValueError("a 'parentImage' has no name of a file as its id")
    return _Report(file, str(name.get("id")), terms, automatic, images)


def _texts(mesh: ElementTree.Element, kind: str) -> tuple[str, ...]:
    return tuple(text for element in mesh.findall(kind) if (text := (element.text or "").strip()))
