"""Maps as a run keeps them, read without torch."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum.errors import RunError

WRITES_IT = "Remove it and run 'hilum study … --resume': it writes it anew."


def writes_both(predictions: Path) -> str:
    """Return what to do about a file that is written together with a table of predictions."""
    return f"Remove {predictions} and run 'hilum study … --resume': it writes both."


def read_maps(path: Path, advice: str) -> dict[str, NDArray[Any]]:
    """Return ``image_id`` (n,), ``findings`` (C,) and ``maps`` (n, C, H, W) of a file; raises ``RunError``."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in ("image_id", "findings", "maps")}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError):
        raise RunError(f"Expected maps in {path}; the file is absent or damaged. {advice}") from None
