"""Open every image of a list and name those that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hilum.errors import ImageError
from hilum.images.cache import LeftOut
from hilum.images.decode import decode, read_bytes
from hilum.images.intensity import normalize
from hilum.progress import progress


def unreadable(paths: Sequence[Path], names: Sequence[str]) -> list[LeftOut]:
    """Decode every image once, in parallel; return row, name and reason of those that a study cannot use.

    They cannot be read, or every pixel has the same value.
    """

    def reason(path: Path) -> str | None:
        try:
            normalize(decode(read_bytes(path)))
        except ImageError as error:
            return str(error)
        return None

    found = []
    with progress("checking images", len(paths)) as advance, ThreadPoolExecutor() as pool:
        for row, text in enumerate(pool.map(reason, paths)):
            advance()
            if text is not None:
                found.append(LeftOut(row, str(names[row]), text))
    return found
