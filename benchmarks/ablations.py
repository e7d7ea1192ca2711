"""Each part of CROW-MIL exchanged or left out, on phantom hospitals of other scanners, labels and priors.

    python benchmarks/ablations.py --out ablations.jsonl
    python benchmarks/ablations.py --out ablations.jsonl --table

Four hospitals train, each labels three to five of nine findings, one of them positives alone; a fifth scanner takes no
part. All test patients have all labels and boxes. Every variant differs from the base in what its line says. One JSON
line for each variant and seed; the same command goes on where it was stopped. ``--table`` prints Markdown tables: mean
over seeds, standard deviation between them, and in brackets the paired difference to the base with a 95 % interval over
test patients. Known: pairs of a hospital and a finding that it labels both ways; unknown: its other findings. Small:
atelectases, masses, nodules. Two rows of every table are maps that see no image.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hilum.allocator import keep_freed_memory
from hilum.databases.phantoms.hospitals import HOSPITALS, Hospital
from hilum.databases.phantoms.patients import Visit, visits
from hilum.databases.phantoms.writing import render_visit
from hilum.evaluation import METRICS
from hilum.evaluation.bootstrap import LEVEL, Figure, Resampled, Statistic, macro, resample
from hilum.evaluation.calibration import expected_calibration_error
from hilum.evaluation.comparison import difference_of
from hilum.evaluation.controls import average_box_prior, random_maps
from hilum.evaluation.long_tail import tail_groups
from hilum.evaluation.maps import iou, pointing_game
from hilum.findings.taxonomy import ancestors
from hilum.localization.maps import maps_on_images
from hilum.models import POOLINGS
from hilum.models.classifier import LocalizingClassifier
from hilum.sites.site import Site
from hilum.study import arms
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.hospitals import cache_of, load_sites, training_sites
from hilum.study.spec import Study, parse_study
from hilum.study.watch import Watch
from hilum.training.inference import infer
from hilum.training.losses import LOSSES

Floats = NDArray[np.float64]
Maps = NDArray[np.float32]

DRAWN = ("Effusion", "Cardiomegaly", "Infiltration", "Mass", "Nodule", "Pneumonia", "Atelectasis", "Pneumothorax")
COARSE = "Lung Opacity"
FINDINGS = (*DRAWN, COARSE)
SMALL = ("Atelectasis", "Mass", "Nodule")
VAL, TEST = 80, 200  # images of a hospital
HEAD, TAIL = 150, 60  # training images with a finding: more is head, fewer is tail
SIZE, CONTRAST = 64, 3.0
WIDTHS, ROUNDS, UPDATES, BATCH, LR = (16, 32, 64), 32, 4, 32, 1e-2
BASE = "CROW-MIL"
STACK = ("scores", "pointing", "iou")  # what is measured of every test image and finding
ARM = "federated"
BOXES, CORNERS = "drawn_boxes.csv", ("x0", "y0", "x1", "y1")
GRID = (32, 32)


@dataclass(frozen=True)
class Plan:
    """A hospital: training images, share of images with each of ``DRAWN``, labels, labels of positives alone."""

    train: int
    prevalence: tuple[float, ...]
    labelled: tuple[str, ...]
    positives_only: tuple[str, ...] = ()


PLANS = {
    "harbour": Plan(
        800,
        (0.25, 0.12, 0.30, 0.12, 0.10, 0.08, 0.08, 0.08),
        ("Effusion", "Cardiomegaly", "Infiltration", "Mass", "Atelectasis"),
    ),
    "northgate": Plan(
        500,
        (0.35, 0.35, 0.15, 0.06, 0.06, 0.20, 0.12, 0.08),
        ("Effusion", "Cardiomegaly", "Pneumonia", "Pneumothorax"),
    ),
    "summit": Plan(
        400,
        (0.12, 0.08, 0.12, 0.25, 0.25, 0.08, 0.08, 0.10),
        ("Infiltration", "Mass", "Nodule", "Pneumonia"),
    ),
    "meadow": Plan(
        300,
        (0.10, 0.08, 0.10, 0.08, 0.10, 0.10, 0.06, 0.15),
        ("Effusion", COARSE),
        ("Pneumothorax",),
    ),
    "outside": Plan(0, (0.20, 0.15, 0.20, 0.12, 0.12, 0.12, 0.12, 0.12), ()),
}
TRAINING = tuple(name for name, plan in PLANS.items() if plan.train)


class CellNorm(nn.Module):
    """Layer normalization over the channels of each cell alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, 3), self.weight.shape, self.weight, self.bias).movedim(3, 1)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group normalization": lambda channels: nn.GroupNorm(8, channels),
    "layer normalization, cell by cell": CellNorm,
}

GRAPH = {"name": "cross_scale_graph"}
POOLED = {"top_k": {"name": "top_k", "fraction": 0.1}}  # the options of a pooling, where not its own

# Row of the table → what is exchanged → how the study differs from the base.
VARIANTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {
        "statistics averaged": {"federation": {"normalization": "averaged"}},
        "statistics recalibrated": {"federation": {"normalization": "recalibrated"}},
        "statistics, scale and shift local (FedBN)": {"federation": {"strategy": "fedbn", "normalization": "local"}},
        "statistics frozen at the start": {"federation": {"normalization": "frozen"}},
        **{name: {} for name in NORMS},
    },
    2: {name: {"model": {"pooling": POOLED.get(name, name)}} for name in POOLINGS if name != "gated_attention"},
    3: {
        "graph, two scales": {"model": {"neck": GRAPH}},
        "graph, one scale": {"model": {"neck": GRAPH | {"scales": "one"}}},
        "graph, uniform edges": {"model": {"neck": GRAPH | {"edges": "uniform"}}},
        "graph, random edges": {"model": {"neck": GRAPH | {"edges": "random"}}},
        "graph, mirrored lung": {"model": {"neck": GRAPH | {"mirror": True}}},
        "triple attention": {"model": {"neck": "triple_attention"}},
    },
    4: {
        "no prior correction": {"training": {"prior_correction": "none"}},
        "absolute prior correction": {"training": {"prior_correction": "absolute"}},
        **{name: {"training": {"loss": name}} for name in LOSSES if name != "masked_bce"},
    },
    5: {
        "unknown is negative": {"training": {"unknown": "negative"}},
        "distilled (FedMLP)": {"federation": {"strategy": "fedmlp"}},
        "pseudo-labels (FedLSM)": {"federation": {"strategy": "fedlsm"}},
        "taxonomy": {"model": {"taxonomy": True}, "closure": "both"},
        "closed labels, no taxonomy": {"closure": "both"},
    },
    6: {
        "shared rows": {"federation": {"head": "shared"}},
        "shared rows, weighed by known labels": {"federation": {"head": "shared", "weighting": "known"}},
        "shared rows, plain mean (surgical)": {"federation": {"head": "shared", "strategy": "surgical"}},
        "own rows, weighed by known labels": {"federation": {"weighting": "known"}},
    },
    9: {
        "self-guided cells": {"training": {"cell_loss": "self_guided"}},
        "context adjustment (CONTA)": {"model": {"neck": "conta"}},
    },
}


def hospital_of(name: str) -> Hospital:
    """Return the phantom hospital with the scanner of that name and the patients of its plan."""
    return replace(HOSPITALS[name], prevalence=dict(zip(DRAWN, PLANS[name].prevalence, strict=True)))


def patients_of(name: str) -> Iterator[tuple[Visit, str]]:
    """Yield every radiograph of a hospital and its split; all of a patient are in one."""
    train = PLANS[name].train
    held = VAL if train else 0
    split, patient = "train", -1
    for visit in visits(hospital_of(name), train + held + TEST, seed=0):
        if visit.patient != patient:
            split = "train" if visit.image < train else "val" if visit.image < train + held else "test"
        patient = visit.patient
        yield visit, split


def image_of(visit: Visit) -> str:
    """Return the file of a radiograph."""
    return f"images/{visit.image:05d}.png"


def truth_of(visit: Visit) -> dict[str, int]:
    """Return all labels of a radiograph."""
    drawn = {finding: int(finding in visit.findings) for finding in DRAWN}
    return drawn | {COARSE: max(label for finding, label in drawn.items() if COARSE in ancestors(finding))}


def labels_of(name: str, visit: Visit, split: str) -> list[int | None]:
    """Return the labels that a hospital wrote; test patients have all of them."""
    plan, truth = PLANS[name], truth_of(visit)
    known = [f for f in FINDINGS if split == "test" or f in plan.labelled or (f in plan.positives_only and truth[f])]
    return [truth[f] if f in known else None for f in FINDINGS]


def write_hospitals(root: Path) -> None:
    """Draw every hospital as a folder of its own; its boxes lie where no study looks for them."""
    for name in PLANS:
        folder = root / name
        (folder / "images").mkdir(parents=True)
        rows, boxes = [], []
        for visit, split in patients_of(name):
            image = image_of(visit)
            drawn = render_visit(hospital_of(name), visit, SIZE, CONTRAST, seed=0)
            Image.fromarray(drawn.pixels).save(folder / image)
            rows.append((image, f"{name}-{visit.patient}", split, *labels_of(name, visit, split)))
            boxes += [(image, *box) for box in drawn.boxes]
        table = pd.DataFrame(rows, columns=["image", "patient", "split", *FINDINGS])
        table.astype(dict.fromkeys(FINDINGS, "Int64")).to_csv(folder / "labels.csv", index=False)
        pd.DataFrame(boxes, columns=["image", "finding", *CORNERS]).to_csv(folder / BOXES, index=False)


def exchange_norms(module: nn.Module, norm: Callable[[int], nn.Module]) -> None:
    """Put another normalization in place of every batch normalization."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm(child.num_features))
        else:
            exchange_norms(child, norm)


def exchanged(norm: Callable[[int], nn.Module]) -> Callable[[Study, int], LocalizingClassifier]:
    """Return ``arms.new_model`` with another normalization in the trunk."""
    new_model = arms.new_model

    def build(study: Study, seed: int) -> LocalizingClassifier:
        model = new_model(study, seed)
        exchange_norms(model.backbone, norm)
        return model

    return build


def merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``other`` in their places."""
    both = {
        k: merged(base[k], v) for k, v in other.items() if isinstance(v, Mapping) and isinstance(base.get(k), Mapping)
    }
    return {**base, **other, **both}


def study_of(change: Mapping[str, Any], seed: int, root: Path) -> Study:
    """Return the study of one variant and seed."""
    sites = {
        name: {"database": "folder", "root": root / name, "role": "training" if plan.train else "outside"}
        for name, plan in PLANS.items()
    }
    base = {
        "name": "ablations",
        "findings": list(FINDINGS),
        "sites": sites,
        "arms": [ARM],
        "seeds": [seed],
        "overlap": {"near": None},
        "images": {"size": SIZE, "cache": root / "cache", "workers": 1},
        "model": {
            "backbone": {"name": "residual", "widths": list(WIDTHS)},
            "pooling": "gated_attention",
        },
        "training": {
            "rounds": ROUNDS,
            "updates": UPDATES,
            "batch": BATCH,
            "prior_correction": "relative",
            "optimizer": {"lr": LR, "head_lr": 3.0, "weight_decay": 1e-2},
            "augmentation": {"strength": 0},
            "precision": "float32",
            "device": "cpu",
            "validate_every": ROUNDS,
        },
        "federation": {"weighting": "contrast", "normalization": "site", "head": "site"},
        "evaluation": {"flip": False, "gallery": 0, "resamples": 100},
    }
    return parse_study(merged(base, change), "the study of ablations")


@dataclass(frozen=True)
class TestPatients:
    """Site, patient, file and all labels (N, C) of every test image, in the order of the measurements."""

    sites: NDArray[np.str_]
    images: NDArray[np.str_]
    patients: NDArray[np.str_]
    targets: Floats


@cache
def test_patients() -> TestPatients:
    """Return the test patients of all hospitals."""
    rows = [
        (name, image_of(visit), f"{name}-{visit.patient}", labels_of(name, visit, split))
        for name in PLANS
        for visit, split in patients_of(name)
        if split == "test"
    ]
    sites, images, patients, labels = zip(*rows, strict=True)
    return TestPatients(np.array(sites), np.array(images), np.array(patients), np.array(labels, np.float64))


def training_positives() -> dict[str, int]:
    """Return how many training images show a finding, where that is labelled."""
    labels = [labels_of(name, v, split) for name in TRAINING for v, split in patients_of(name) if split == "train"]
    return dict(zip(FINDINGS, (np.array(labels, np.float64) == 1).sum(0).tolist(), strict=True))


def boxes_of(root: Path, name: str) -> dict[tuple[str, str], list[list[float]]]:
    """Return (image, finding) → boxes of a hospital; those of the coarse finding are those of its kinds."""
    boxes: dict[tuple[str, str], list[list[float]]] = {}
    for image, finding, *corners in pd.read_csv(root / name / BOXES).itertuples(index=False):
        for one in (finding, COARSE) if COARSE in ancestors(finding) else (finding,):
            boxes.setdefault((image, one), []).append(corners)
    return boxes


@cache
def sites_of(root: Path, closure: str) -> list[Site]:
    """Return the hospitals, once for all variants that read labels alike."""
    study = study_of({"closure": closure}, 0, root)
    return load_sites(study, cache_of(study))


@cache
def test_boxes(root: Path) -> list[tuple[list[int], list[list[list[float]]]]]:
    """Return, for each finding, which test images show it, and their boxes."""
    patients, boxes = test_patients(), {name: boxes_of(root, name) for name in PLANS}
    found = []
    for c, finding in enumerate(FINDINGS):
        shown = {int(n): (patients.images[n], finding) for n in np.flatnonzero(patients.targets[:, c])}
        here = {n: boxes[patients.sites[n]][which] for n, which in shown.items() if which in boxes[patients.sites[n]]}
        found.append(([*here], [*here.values()]))
    return found


def measured(scores: Floats, maps: Maps, root: Path) -> dict[str, Any]:
    """Return scores, pointing game and IoU of every test image and finding; NaN becomes null."""
    localized = np.full((2, *scores.shape), np.nan)
    for c, (rows, boxes) in enumerate(test_boxes(root)):
        localized[:, rows, c] = pointing_game(maps[rows, c], boxes), iou(maps[rows, c], boxes, "otsu")
    figures = zip(STACK, (scores, *localized), strict=True)
    return {k: [[None if np.isnan(v) else float(f"{v:.5g}") for v in row] for row in values] for k, values in figures}


def predict(study: Study, run: RunDirectory, key: ModelKey, sites: Sequence[Site]) -> tuple[Floats, Maps]:
    """Return probabilities (N, C) and maps (N, C, h, w) of all test images."""
    scores, maps = [], []
    for site in sites:
        rows = site.indices("test")
        pixels = torch.from_numpy(site.images(rows)).unsqueeze(1).float().div_(255)
        said = infer(arms.load_model(study, run, key, site.name), pixels.split(64), flip=False)
        scores.append(said.probabilities.astype(np.float64))
        maps.append(maps_on_images(said.maps, site.frames[rows], GRID, study.evaluation.smoothing))
    return np.concatenate(scores), np.concatenate(maps)


def noise(seed: int, root: Path) -> Maps:
    """Return smooth random maps."""
    count = len(test_patients().targets)
    maps = random_maps(count * len(FINDINGS), GRID, np.random.default_rng(seed))
    return maps.reshape(count, len(FINDINGS), *GRID).astype(np.float32)


def average_boxes(seed: int, root: Path) -> Maps:
    """Return for each image the average box map of other patients."""
    patients = test_patients()
    maps = np.zeros((*patients.targets.shape, *GRID), np.float32)
    for c, (rows, boxes) in enumerate(test_boxes(root)):
        maps[rows, c] = average_box_prior(boxes, patients.patients[rows], GRID)
    return maps


# Maps that see no image, beside scores that say nothing.
BLIND: dict[str, Callable[[int, Path], Maps]] = {
    "random maps": noise,
    "average box of other patients": average_boxes,
}


def train(name: str, change: Mapping[str, Any], seed: int, root: Path) -> dict[str, Any]:
    """Train and measure one variant with one seed."""
    began, study, key = time.process_time(), study_of(change, seed, root), ModelKey(seed, ARM, ARM)
    sites = sites_of(root, study.closure)
    swap = patch.object(arms, "new_model", exchanged(NORMS[name])) if name in NORMS else nullcontext()
    with tempfile.TemporaryDirectory() as folder, swap:
        run = RunDirectory(Path(folder))
        run.write_json("run.json", {"machine": {"device": "cpu"}})
        arms.train_model(study, key, training_sites(sites), run, "float32", Watch(run.root, 1, ROUNDS))
        found = measured(*predict(study, run, key, sites), root)
    return {"variant": name, "seed": seed, "cpu_seconds": round(time.process_time() - began, 1), **found}


def blind(name: str, seed: int, root: Path) -> dict[str, Any]:
    """Measure maps that see no image."""
    scores = np.full(test_patients().targets.shape, 0.5)
    return {"variant": name, "seed": seed, "cpu_seconds": 0.0, **measured(scores, BLIND[name](seed, root), root)}


def variants(rows: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the base, what sees no image, and the variants of the rows."""
    return {BASE: {}, **{name: {} for name in BLIND}} | {
        name: change for row in rows for name, change in VARIANTS[row].items()
    }


def read_results(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (variant, seed) → its line."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(line["variant"], line["seed"]): line for line in map(json.loads, lines)}


def measure_all(options: argparse.Namespace) -> None:
    """Train what is not in the file yet, all variants of a seed before the next seed."""
    done = read_results(options.out)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_hospitals(root)
        for seed in options.seeds:
            for name, change in variants(options.rows).items():
                asked = options.only is None or name in (BASE, *options.only)
                if asked and (name, seed) not in done:
                    result = blind(name, seed, root) if name in BLIND else train(name, change, seed, root)
                    with options.out.open("a") as file:
                        file.write(json.dumps(result) + "\n")
                    print(f"seed {seed}, {name}: {result['cpu_seconds']} s", flush=True)


# What is resampled is a value for each column, a finding or a finding at a hospital; a figure is their mean.

Pair = tuple[str, str]
Stack = dict[str, Floats]  # scores, pointing, iou: (S, N, C)


def pairs(known: bool) -> list[Pair]:
    """Return (hospital, finding) pairs: those that the hospital labels both ways, or all others."""
    return [(site, f) for site in TRAINING for f in FINDINGS if (f in PLANS[site].labelled) == known]


def of_pairs(chosen: Sequence[Pair], stack: Stack) -> tuple[Floats, Floats]:
    """Return scores (S, N, P) and targets (N, P) with a column for each pair, unknown at other hospitals."""
    patients, columns = test_patients(), [FINDINGS.index(finding) for _, finding in chosen]
    there = np.stack([patients.sites == site for site, _ in chosen], 1)
    return stack["scores"][:, :, columns], np.where(there, patients.targets[:, columns], np.nan)


def ranked(metric: str, chosen: Sequence[Pair]) -> Callable[[Stack], Statistic]:
    """Return the figure that is the mean of a metric over pairs."""
    function = METRICS.load(metric)

    def statistic(stack: Stack) -> Statistic:
        scores, targets = of_pairs(chosen, stack)
        return lambda weights: np.stack([function(s, targets, weights) for s in scores], axis=1)

    return statistic


def calibrated(stack: Stack) -> Statistic:
    """Return the expected calibration error of the known pairs."""
    scores, targets = of_pairs(pairs(known=True), stack)
    return lambda weights: np.stack([expected_calibration_error(s, targets, weights) for s in scores], 1)


def averaged(name: str, findings: Sequence[str]) -> Callable[[Stack], Statistic]:
    """Return the figure that is the mean over images, then over findings."""
    columns = [FINDINGS.index(f) for f in findings]

    def statistic(stack: Stack) -> Statistic:
        values = stack[name][:, :, columns]
        known = ~np.isnan(values)

        def means(weights: NDArray[Any]) -> Floats:
            w = weights.astype(np.float64)
            total = np.stack([w @ v for v in np.where(known, values, 0)], 1)
            count = np.stack([w @ k for k in known.astype(np.float64)], 1)
            return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

        return means

    return statistic


def figures() -> dict[str, Callable[[Stack], Statistic]]:
    """Return all figures by their titles."""
    known, outside = pairs(known=True), [("outside", f) for f in FINDINGS]
    tails = tail_groups(training_positives(), HEAD, TAIL)
    return {
        "AUROC, known": ranked("auroc", known),
        "AUROC, unknown": ranked("auroc", pairs(known=False)),
        "AUROC, outside": ranked("auroc", outside),
        **{f"AP, {g}": ranked("average_precision", [p for p in known if p[1] in m]) for g, m in tails.items()},
        "ECE": calibrated,
        "pointing": averaged("pointing", FINDINGS),
        "pointing, small": averaged("pointing", SMALL),
        "IoU": averaged("iou", FINDINGS),
    }


def print_tables(options: argparse.Namespace) -> None:
    """Print a table for each row."""
    results = read_results(options.out)
    patients, all_figures = test_patients().patients, figures()

    @cache
    def sample(name: str, title: str) -> Resampled:
        lines = [results[name, seed] for seed in options.seeds]
        stack = {k: np.array([line[k] for line in lines], np.float64) for k in STACK}
        return macro(resample(all_figures[title](stack), patients, options.resamples, seed=0))

    def cell(name: str, title: str) -> str:
        own, base = sample(name, title), sample(BASE, title)
        text = f"{own.values[0]:.3f} sd {own.spread:.3f}"
        if name == BASE:
            return text
        apart = difference_of(Figure(Resampled(own.seeds - base.seeds, own.resamples - base.resamples), 0, 0), LEVEL)
        return f"{text} ({apart.value:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}])"

    for row in options.rows:
        titles = [t for t in all_figures if row == 4 or not t.startswith(("AP", "ECE"))]
        print(f"\n| {row} | " + " | ".join(titles) + " |")
        print("|---" * (len(titles) + 1) + "|")
        for name in variants([row]):
            if all((name, seed) in results for seed in options.seeds):
                print(f"| {name} | " + " | ".join(cell(name, t) for t in titles) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one for each variant and seed")
    parser.add_argument("--rows", type=int, nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="train these and the base alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what is in --out instead of training")
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    if options.table:
        print_tables(options)
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
