"""Open every image of a list and name those that cannot be used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from hilum.errors import ImageError
from hilum.images.cache import LeftOut
from hilum.images.decode import decode, read_bytes
from hilum.images.intensity import normalize
from hilum.progress import progress


def unreadable(paths: Sequence[Path], names: Sequence[str], patients: Sequence[object] | None = None) -> list[LeftOut]:
    """Decode every image once, in parallel; return row, name and reason of those that a study cannot use.

    They cannot be read, or every pixel has the same value, or, where ``patients`` are given, another patient has
    the same file. ``names``: what messages call the images.
    """
    found, content = [], []
    with progress("checking images", len(paths)) as advance, ThreadPoolExecutor() as pool:
        for row, (digest, reason) in enumerate(pool.map(_open, paths)):
            advance()
            content.append(digest)
            if reason:
                found.append(LeftOut(row, str(names[row]), reason))
    for first, *others in [] if patients is None else shared(content, patients):
        reason = f"the same image as {names[first]}, of another patient"
        found += [LeftOut(row, str(names[row]), reason) for row in others]
    return found


def shared(content: Sequence[str], patients: Sequence[object]) -> list[list[int]]:
    """Return the rows of every file that more than one patient has; ``content``: hashes, "" where there is none."""
    table = pd.DataFrame({"content": list(content), "patient": list(patients)})
    table = table[(table["content"] != "") & table["content"].duplicated(keep=False)]
    groups = (group for _, group in table.groupby("content", sort=False))
    return [[int(row) for row in group.index] for group in groups if group["patient"].nunique() > 1]


def _open(path: Path) -> tuple[str, str]:
    """Return the hash of a file and "", or "" and why it cannot be used."""
    try:
        data = read_bytes(path)
        normalize(decode(data))
    except ImageError as error:
        return "", str(error)
    return hashlib.sha256(data).hexdigest(), ""
