"""Every federated strategy on phantom radiographs whose labels are skewed more and more.

    python benchmarks/label_skew.py --out label_skew

Ten classes, nine findings alone and none, one scanner, one image a patient. One pool of radiographs is cut into ten
sites, each with more of one class, so that the label EMD of Zhao et al. (2018) of every site from all is 0, 0.5, 1 and
1.8; there a site holds one class. A balanced test site of other patients takes no part in training. 'fedavg-shared' is
FedAvg with a balanced set of further patients that every site may see, a twentieth of all training images; in
'fedavg-gossip' no server averages, but neighbours on a ring. One run directory for each seed and EMD; the same command
goes on where it was stopped. Prints Markdown tables after every seed.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from hilum.databases.phantoms.render import render
from hilum.evaluation.bootstrap import MACRO, Estimate, evaluate_classification
from hilum.evaluation.comparison import paired_difference
from hilum.evaluation.significance import holm
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.randomness import derive_seed
from hilum.report.rows import SIGNIFICANT
from hilum.shift.labels import label_emd
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.predictions import read_table
from hilum.study.run import run_study
from hilum.study.spec import Study, parse_study

FINDINGS = (
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Pneumonia",
    "Pneumothorax",
    "Edema",
    "Tuberculosis",
    "Support Devices",
)
CLASSES = len(FINDINGS) + 1
SITES = CLASSES
SIZE = 64
EMDS = (0.0, 0.5, 1.0, 1.8)
TEST, PUBLIC = "test", "public"
SHARE = 0.05  # of the public set, beside all training images
BASE = "federated"  # FedAvg, which the others are compared with
# Here these give the weights of FedAvg: sites are alike in size and steps, and know all labels; Ditto's common model.
SAME_HERE = ("fednova", "surgical", "fedmlp", "fedlsm", "ditto")
Pool = NDArray[np.uint8]


@dataclass(frozen=True)
class Pools:
    """Radiographs (CLASSES, n, SIZE, SIZE) of each class, all of different patients."""

    train: Pool
    val: Pool
    test: Pool
    public: Pool


def draw_pools(images: int, val: int, test: int, contrast: float) -> Pools:
    """Draw radiographs of each class; ``images``, ``val``: of a site, which is as many as of a class."""

    def draw(name: str, count: int) -> Pool:
        return np.stack(
            [
                [
                    render(derive_seed(0, name, k, n), FINDINGS[k : k + 1], "PA", SIZE, contrast).pixels
                    for n in range(count)
                ]
                for k in range(CLASSES)
            ]
        )

    public = math.ceil(SHARE * images * SITES / CLASSES)
    return Pools(draw("train", images), draw("val", val), draw("test", test), draw(PUBLIC, public))


def class_counts(images: int, emd: float) -> NDArray[np.int64]:
    """Return how many of a site's images are of each class, (SITES, CLASSES); all columns add up to ``images``."""
    others = images - round(images * (1 / CLASSES + emd / 2))
    each, left = divmod(others, CLASSES - 1)
    row = np.array([images - others, *(each + (k <= left) for k in range(1, CLASSES))])
    return np.stack([np.roll(row, k) for k in range(SITES)])


def cut(pool: Pool, counts: NDArray[np.int64]) -> list[list[tuple[int, Pool]]]:
    """Return, for each site, the class and pixels of its images; every image goes to one site."""
    ends = counts.cumsum(0)
    return [
        [(k, pool[k, n]) for k in range(CLASSES) for n in range(ends[site, k] - counts[site, k], ends[site, k])]
        for site in range(len(counts))
    ]


def write_site(root: Path, splits: Mapping[str, Sequence[tuple[int, Pool]]]) -> None:
    """Write a hospital's own folder."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for split, images in splits.items():
        for n, (k, pixels) in enumerate(images):
            name = f"images/{split}_{n:04d}.png"
            Image.fromarray(pixels).save(root / name)
            rows.append((name, f"{root.name}-{split}-{n}", split, *(int(k == c) for c in range(len(FINDINGS)))))
    pd.DataFrame(rows, columns=["image", "patient", "split", *FINDINGS]).to_csv(root / "labels.csv", index=False)


def write_sites(pools: Pools, emd: float, root: Path) -> float:
    """Write the sites of one EMD and the test site; return the label EMD of the training images."""
    counts = class_counts(pools.train.shape[1], emd)
    train, val = cut(pools.train, counts), cut(pools.val, class_counts(pools.val.shape[1], emd))
    for k in range(SITES):
        write_site(root / f"site{k}", {"train": train[k], "val": val[k]})
    write_site(root / TEST, {"test": [(k, pixels) for k in range(CLASSES) for pixels in pools.test[k]]})
    write_site(root / PUBLIC, {"train": [(k, pixels) for k in range(CLASSES) for pixels in pools.public[k]]})
    return float(label_emd(counts).mean())


def study_of(root: Path, seed: int, options: argparse.Namespace) -> Study:
    """Return the study of one seed: FedAvg is the arm 'federated', every other strategy an arm of its own name.

    So few updates leave running statistics behind the weights: where the strategy does not say otherwise, they are
    estimated anew at the end; 'fedavg-averaged' shows FedAvg without that.
    """
    further: dict[str, Any] = {
        name: {"strategy": name} | IMPLIED.get(name, {}) for name in options.strategies if name != "fedavg"
    }
    further["fedavg-averaged"] = {"normalization": "averaged"}
    further["fedavg-shared"] = {"shared": {"database": "folder", "root": root / PUBLIC, "share": SHARE}}
    further["fedavg-gossip"] = {"topology": "gossip"}
    sites: dict[str, Any] = {f"site{k}": {"database": "folder", "root": root / f"site{k}"} for k in range(SITES)}
    common = {"tau": 1.0, "weighting": "known", "head": "shared", "normalization": "recalibrated"}
    training = {
        "rounds": options.rounds,
        "updates": options.updates,
        "batch": options.batch,
        "optimizer": {"lr": options.lr, "head_lr": options.head_lr, "weight_decay": 1e-4},
        "augmentation": {"strength": 0, "flip": False},
        "precision": "float32",
        "device": "cpu",
        "validate_every": options.rounds,
        "threads": 1,
    }
    content = {
        "name": "label skew",
        "findings": list(FINDINGS),
        "sites": sites | {TEST: {"database": "folder", "root": root / TEST, "role": "outside"}},
        "arms": ["pooled", BASE, *further],
        "seeds": [seed],
        "overlap": {"near": None},
        "images": {"size": SIZE, "cache": root / "cache", "workers": 1},
        "model": {"backbone": {"name": "residual", "widths": options.widths}, "pooling": options.pooling},
        "training": training,
        "federation": common,
        "federations": {name: common | own for name, own in further.items()},
        "evaluation": {"flip": False, "gallery": 0, "resamples": 100},
    }
    return parse_study(content, "the study of label skew")


def figures_of(runs: Mapping[int, RunDirectory], arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the cells of every arm from the runs of one EMD, by seed; bold: below 0.05 after Holm over the arms."""
    labels = read_table(next(iter(runs.values())).table("labels", TEST))
    targets, patients = labels[list(FINDINGS)].to_numpy(np.float64), labels["patient"].to_numpy()
    scores = {arm: np.stack([_scores(run, seed, arm) for seed, run in runs.items()]) for arm in arms}
    divergence, crossed = _divergence(runs.values()), _bytes(runs.values())
    cells = {}
    against = {
        arm: paired_difference(scores[arm], scores[BASE], targets, patients, FINDINGS, metrics=("auroc",))
        for arm in arms
        if arm != BASE
    }
    apart = {arm: found[MACRO]["auroc"] for arm, found in against.items()}
    corrected = dict(zip(apart, holm([difference.p for difference in apart.values()]), strict=True))
    for arm in arms:
        whole = evaluate_classification(scores[arm], targets, patients, FINDINGS, metrics=("auroc",))[MACRO]["auroc"]
        sd = f" sd {whole.sd:.3f}" if len(runs) > 1 else ""
        cells[arm] = {
            "auroc": _with_interval(whole, ".3f") + sd,
            "divergence": f"{np.mean(divergence[arm]):.2f}" if arm in divergence else "–",
            "bytes": f"{np.mean(crossed[arm]) / 1e6:.2f}" if arm != "pooled" else "–",
            "difference": "–",
        }
        if arm != BASE:
            mark = "**" if corrected[arm] < SIGNIFICANT else ""
            cells[arm]["difference"] = f"{mark}{_with_interval(apart[arm], '+.3f')}{mark}"
    return cells


def _with_interval(estimate: Estimate, shape: str) -> str:
    return f"{estimate.value:{shape}} [{estimate.low:{shape}}, {estimate.high:{shape}}]"


def _scores(run: RunDirectory, seed: int, arm: str) -> NDArray[np.float64]:
    return read_table(run.predictions(ModelKey(seed, arm, arm), TEST))[list(FINDINGS)].to_numpy(np.float64)


def _divergence(runs: Iterable[RunDirectory]) -> dict[str, list[float]]:
    """Return how far the weights of each arm are from the pooled ones, seed by seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for record in run.read_json("divergence.json")["divergence"]:
            found[record["arm"]].append(record["whole"])
    return found


def _bytes(runs: Iterable[RunDirectory]) -> dict[str, list[int]]:
    """Return what crossed in each round of each arm, both ways."""
    found: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        for line in run.metrics_log.read_text().splitlines():
            record = json.loads(line)
            found[record["arm"]].append(record["bytes_down"] + record["bytes_up"])
    return found


def print_tables(results: Mapping[float, dict[str, dict[str, str]]]) -> None:
    """Print one Markdown table a figure: strategies down, label EMD across."""
    titles = {
        "auroc": "macro AUROC, test patients",
        "difference": "minus FedAvg, paired",
        "divergence": "weight divergence from pooled",
        "bytes": "MB a round, all sites, both ways",
    }
    for figure, title in titles.items():
        print(f"\n| {title} | " + " | ".join(f"EMD {emd:.1f}" for emd in results) + " |")
        print("|---" * (len(results) + 1) + "|")
        for arm in next(iter(results.values())):
            name = "fedavg" if arm == BASE else arm
            print(f"| {name} | " + " | ".join(cells[arm][figure] for cells in results.values()) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--emds", type=float, nargs="+", default=list(EMDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    named = [name for name in STRATEGIES if name not in SAME_HERE]
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=named)
    parser.add_argument("--images", type=int, default=100, help="training images of a site")
    parser.add_argument("--val", type=int, default=20, help="validation images of a site")
    parser.add_argument("--test", type=int, default=50, help="test images of a class")
    parser.add_argument("--contrast", type=float, default=2.0, help="of the findings; 1 is plain to see at 128 px")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--head-lr", type=float, default=5.0)
    parser.add_argument("--widths", type=int, nargs=3, default=[8, 16, 32])
    parser.add_argument("--pooling", default="mean")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = (options.out or Path(temporary)).resolve()
        pools = draw_pools(options.images, options.val, options.test, options.contrast)
        measured = {emd: write_sites(pools, emd, out / f"emd_{emd:g}") for emd in options.emds}
        runs: dict[float, dict[int, RunDirectory]] = {emd: {} for emd in options.emds}
        for seed in options.seeds:
            for emd in options.emds:
                root = out / f"emd_{emd:g}"
                study = study_of(root, seed, options)
                runs[emd][seed] = run_study(study, root / f"seed_{seed}", resume=True)
            print_tables({measured[emd]: figures_of(runs[emd], study.arms) for emd in options.emds})


if __name__ == "__main__":
    main()
