"""The official label tables that torchxrayvision ships, where it is installed: hilum itself never imports it."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = "HILUM_TORCHXRAYVISION"


def tables() -> Path:
    """Return torchxrayvision's folder of label tables; skips the test where there is none."""
    spec = find_spec("torchxrayvision")
    inside = Path(spec.origin).parent / "data" if spec and spec.origin else None
    folder = inside or Path(os.environ.get(FOLDER, "absent"))
    if not folder.is_dir():
        pytest.skip(f"needs torchxrayvision, or its folder of label tables in {FOLDER}")
    return folder


def official(root: Path, files: dict[str, str]) -> Path:
    """Link every file of the wheel under its official name, with its ending .gz or .zip, and return ``root``."""
    for name, file in files.items():
        end = Path(file).suffix
        link = root / (name + (end if end in (".gz", ".zip") else ""))
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tables() / file)
    return root
