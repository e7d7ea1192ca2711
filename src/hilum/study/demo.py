"""The demonstration: phantom hospitals drawn on this machine, and the study of them."""

from __future__ import annotations

import os
from pathlib import Path

from hilum.databases.phantoms.hospitals import HOSPITALS
from hilum.databases.phantoms.writing import write_hospital
from hilum.errors import RunError
from hilum.study.directory import RunDirectory
from hilum.study.run import run_study
from hilum.study.spec import load_study
from hilum.training.state import write_atomically

IMAGES = {"harbour": 700, "northgate": 450, "summit": 400, "meadow": 350, "outside": 300}
SIZE, CONTRAST, SEED = 128, 1.0, 0


def run_demo(out: Path, images: float = 1.0, overrides: list[str] | None = None) -> RunDirectory:
    """Draw the phantom hospitals under ``out`` and run the demonstration's study into ``out``/run.

    ``images`` scales the number of images of every hospital. A stopped demonstration goes on where it was.
    """
    if out.is_file():
        raise RunError(f"Expected a directory for the demonstration; {out} is a file. Give another --out.")
    workers = os.cpu_count() or 1
    for name, hospital in HOSPITALS.items():
        count = max(40, round(IMAGES[name] * images))
        write_hospital(hospital, out / "hospitals" / name, count, SIZE, CONTRAST, SEED, workers)
    template = Path(__file__).with_name("demo.yaml").read_bytes()
    write_atomically(out / "study.yaml", template)
    return run_study(load_study(out / "study.yaml", overrides), out / "run", resume=True)
