"""What makes the maps: every localizer on the trained models of a run, on a site's test images with boxes.

    python benchmarks/localizers.py RUN --site SITE [--arm federated] [--localizers map grad_cam …]

Nothing is trained and the run is left as it is. Prints Markdown: figures over all findings with boxes (mean over
findings and seeds), maps cut by Otsu's method, with 95 % intervals over patients; and time an image, probabilities
included, as a ratio to ``map``, median over seeds and least – most. The last rows are maps that see no image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hilum.allocator import keep_freed_memory
from hilum.errors import MissingExtra, RunError
from hilum.evaluation.bootstrap import MACRO
from hilum.evaluation.localization import LocalizationEstimate, evaluate_findings, measure_controls
from hilum.localization.localizers import LOCALIZERS
from hilum.localization.localizers.base import Localizer
from hilum.localization.maps import maps_on_images
from hilum.models import NECKS
from hilum.study.arms import load_model, run_device
from hilum.study.directory import RunDirectory
from hilum.study.hospitals import cache_of, load_sites
from hilum.study.localizer import build_localizer
from hilum.study.outcomes import Outcomes
from hilum.study.predictions import GRID
from hilum.study.run import load_run_study
from hilum.study.sections import NamedOptions
from hilum.study.spec import Study
from hilum.study.voices import chosen_models
from hilum.training.inference import infer

FIGURES = {"pointing_game": "pointing game", "iou": "IoU", "pixel_auprc": "pixel AUPRC", "box_energy": "energy"}
BLIND = {
    "random_map": "random maps",
    "centre_prior": "average box of other patients",
    "gaussian_prior": "a Gaussian in the middle",
}
BATCH = 64


def localizers_of(study: Study, names: list[str]) -> dict[str, Localizer | None]:
    """Return the localizers that can be made here, as a study would make them; say which cannot."""
    found = {}
    for name in names:
        spec = study.evaluation.model_copy(update={"localizer": NamedOptions(name=name)})
        try:
            if name == "masks" and not NECKS.load(study.model.neck.name).segments:
                print(f"masks: left out, '{study.model.neck.name}' is no neck that segments", file=sys.stderr)
            else:
                found[name] = build_localizer(study.model_copy(update={"evaluation": spec}))
        except MissingExtra as error:
            print(f"{name}: left out. {error}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, help="a finished run directory, whose study's images are in place")
    parser.add_argument("--site", required=True)
    parser.add_argument("--arm", default="federated")
    parser.add_argument("--localizers", nargs="+", choices=list(LOCALIZERS), default=list(LOCALIZERS))
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    run = RunDirectory(options.run)
    study, precision, device = load_run_study(run), str(run.fact("precision")), run_device(run)
    torch.set_num_threads(int(run.fact("machine", "threads")))
    keep_freed_memory()
    keys = chosen_models(study, run, options.arm, options.site, None)
    found = Outcomes(study, run).localized(keys, options.site)
    if found is None:
        raise RunError(f"Expected test images with boxes and maps at '{options.site}' in {run.root}; found none.")
    boxed = found.with_boxes()
    site = next(site for site in load_sites(study, cache_of(study)) if site.name == options.site)
    row = {str(image): k for k, image in enumerate(site.manifest.images["image_id"])}
    rows = np.array([row[str(image)] for image in boxed.ids])
    columns = [study.findings.index(finding) for finding in boxed.boxes]
    batches = [
        torch.from_numpy(site.images(rows[start : start + BATCH])).unsqueeze(1).float().div_(255)
        for start in range(0, len(rows), BATCH)
    ]
    made = localizers_of(study, ["map", *(name for name in options.localizers if name != "map")])
    maps: dict[str, list[NDArray[np.float16]]] = {name: [] for name in made}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for key in keys:
        model = load_model(study, run, key, site.name).to(device)
        for name, localizer in made.items():
            infer(model, [batches[0][:1]], precision, study.evaluation.flip, localizer)
            began = time.perf_counter()
            heat = infer(model, batches, precision, study.evaluation.flip, localizer).maps
            seconds[name].append((time.perf_counter() - began) / len(rows))
            placed = maps_on_images(heat[:, columns], site.frames[rows], GRID, study.evaluation.smoothing)
            maps[name].append(placed)
    seed = study.split.seed
    controls = {f: measure_controls(b, boxed.patients, GRID, "otsu", seed=seed) for f, b in boxed.boxes.items()}
    print(f"{len(rows)} images of {options.site}, {', '.join(boxed.boxes)}; '{options.arm}', {len(keys)} seeds\n")
    print("| localizer | " + " | ".join(FIGURES.values()) + " | time, ratio to `map` |")
    print("|---" * (len(FIGURES) + 2) + "|")
    table: dict[str, LocalizationEstimate] = {}
    for name, several in maps.items():
        table = evaluate_findings(
            np.stack(several),
            boxed.boxes,
            boxed.patients,
            resamples=options.resamples,
            seed=seed,
            threshold="otsu",
            controls=controls,
        )[MACRO]
        figures = [f"{(e := table[f]).value:.3f} [{e.low:.3f}, {e.high:.3f}]" for f in FIGURES]
        ratios = [own / base for own, base in zip(seconds[name], seconds["map"], strict=True)]
        took = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} – {max(ratios):.1f})"
        print(f"| `{name}` | " + " | ".join([*figures, took]) + " |", flush=True)
    for name, title in BLIND.items():
        print(f"| {title} | " + " | ".join(f"{getattr(table[f], name):.3f}" for f in FIGURES) + " | |")


if __name__ == "__main__":
    main()
