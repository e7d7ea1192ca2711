"""The demonstration: phantom hospitals drawn on this machine, and the study of them."""

from __future__ import annotations

import os
from pathlib import Path

from hilum.databases.phantoms.hospitals import HOSPITALS
from hilum.databases.phantoms.writing import write_hospital
from hilum.errors import RunError
from hilum.study.directory import RunDirectory
from hilum.study.run import check_run, run_study
from hilum.study.spec import load_study
from hilum.training.state import write_atomically

IMAGES = {"harbour": 700, "northgate": 450, "summit": 400, "meadow": 350, "outside": 300}
SIZE, CONTRAST, SEED = 128, 1.0, 0


def run_demo(out: Path, images: float = 1.0, overrides: list[str] | None = None) -> RunDirectory:
    """Draw the phantom hospitals under ``out`` and run the demonstration's study into ``out``/run.

    ``images`` scales the number of images of every hospital. A stopped demonstration goes on where it was.
    A study that cannot be run is refused before anything is written.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"Expected a directory for the demonstration; {out} is a file. Give another --out.")
    template = Path(__file__).with_name("demo.yaml")
    study = load_study(template, overrides, folder=out)
    own = out / "study.yaml"
    if own.exists() and not (own.is_file() and own.read_bytes() == template.read_bytes()):
        raise RunError(
            f"Expected no study.yaml but the demonstration's in {out}; found another, which stays as it is. "
            "Give another --out."
        )
    check_run(study, RunDirectory(out / "run"), resume=True)
    write_atomically(own, template.read_bytes())
    workers = os.cpu_count() or 1
    for name, hospital in HOSPITALS.items():
        count = max(40, round(IMAGES[name] * images))
        write_hospital(hospital, out / "hospitals" / name, count, SIZE, CONTRAST, SEED, workers)
    return run_study(study, out / "run", resume=True)
