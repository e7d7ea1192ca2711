"""What a federation over Flower costs beside its local compute: a link and nodes on loopback, and Flower's simulation.

Run: python benchmarks/flower.py [--sites 3 5] [--models "0.3 M" "7 M" "25 M"] [--ways nodes simulation]
Local compute is the time inside ``LocalTrainer.fit`` and ``validate`` of the same study in this process, sites one
after the other on one thread. A way's time is that of its rounds; what passes before the first round is told beside.
Nodes and simulated nodes compute at the same time, so that on two cores a ratio may be as low as 0.5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from federation import WIDTHS
from PIL import Image

from hilum.findings.vocabulary import FINDINGS
from hilum.study.arms import model_keys
from hilum.study.directory import RunDirectory
from hilum.study.flower.app import app_study
from hilum.study.flower.commands import LINK_NAME, LOOPBACK
from hilum.study.flower.local import LocalFederation, follow
from hilum.study.flower.processes import call, environment, free_port, start, wait_for_port
from hilum.study.hospitals import cache_of, load_sites
from hilum.study.run import train_here
from hilum.study.spec import Study, load_study
from hilum.training.loop import LocalTrainer

IMAGES = 64  # of a site, in training and in validation each
NAMES = FINDINGS[:8]


def write_site(root: Path, size: int, rng: np.random.Generator) -> None:
    (root / "images").mkdir(parents=True)
    rows = []
    for k in range(2 * IMAGES):
        Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(root / "images" / f"{k:03d}.png")
        rows.append(
            (f"images/{k:03d}.png", f"{root.name} {k}", "train" if k < IMAGES else "val", *rng.integers(0, 2, 8))
        )
    pd.DataFrame(rows, columns=["image", "patient", "split", *NAMES]).to_csv(root / "labels.csv", index=False)


def write_study(folder: Path, sites: int, model: str, options: argparse.Namespace) -> Study:
    rng = np.random.default_rng(0)
    for k in range(sites):
        write_site(folder / f"site{k}", options.size, rng)
    rounds, updates = (1, 5) if model == "25 M" else (options.rounds, options.updates)
    content: dict[str, Any] = {
        "name": "bench",
        "findings": list(NAMES),
        "sites": {f"site{k}": {"database": "folder", "root": f"site{k}"} for k in range(sites)},
        "seeds": [0],
        "images": {"size": options.size, "cache": "cache", "workers": 1},
        "model": {"backbone": {"name": "residual", "widths": list(WIDTHS[model])}},
        "training": {"rounds": rounds, "updates": updates, "batch": 16, "threads": 1, "precision": "float32"},
        "federation": {"normalization": "averaged", "head": "shared"},
        "arms": ["federated"],
    }
    (folder / "study.yaml").write_text(json.dumps(content))
    return load_study(folder / "study.yaml")


def seconds_of(run: Path) -> float:
    return sum(json.loads(line)["seconds"] for line in (run / "metrics.jsonl").read_text().splitlines())


def in_process(study: Study, folder: Path) -> tuple[float, float]:
    """Return seconds of the rounds, and of the local compute in them."""
    compute = [0.0]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = method(*args, **kwargs)
            compute[0] += time.perf_counter() - began
            return result

        return call

    run = RunDirectory(folder / "process")
    run.write_json("run.json", {"machine": {"device": "cpu"}})
    sites = load_sites(study, cache_of(study))
    with (
        patch.object(LocalTrainer, "fit", timed(LocalTrainer.fit)),
        patch.object(LocalTrainer, "validate", timed(LocalTrainer.validate)),
    ):
        train_here(study, list(model_keys(study, sites)), sites, run, "float32", {})
    return seconds_of(run.root), compute[0]


def over_flower(study: Study, folder: Path, way: str) -> tuple[float, float]:
    """Return seconds of the rounds, and from the first process to the last weights."""
    names, run = list(study.sites), RunDirectory(folder / way)
    began = time.perf_counter()
    with LocalFederation.open(study, app_study(study, names, "float32", 1), names, run, {}) as federation:
        if way == "nodes":
            federation.start()
            follow(federation, federation.submit(), lambda line: None)
        else:
            simulate(federation, len(names))
    return seconds_of(run.root), time.perf_counter() - began


def simulate(federation: LocalFederation, nodes: int) -> None:
    """Run the app in Flower's simulation, two nodes at a time."""
    folder, port = federation.layout.server, free_port()
    (folder / "flower").mkdir(exist_ok=True)
    connection = f'[superlink]\ndefault = "{LINK_NAME}"\n[superlink.{LINK_NAME}]\n'
    (folder / "flower" / "config.toml").write_text(f'{connection}address = "{LOOPBACK}:{port}"\ninsecure = true\n')
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess"]
    federation.link = start(
        "simulator", [*command, "--host", LOOPBACK, "--port", str(port)], folder, environment(folder)
    )
    wait_for_port(federation.link, port)
    options = f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus=2"
    command = ["flwr", "run", "app", LINK_NAME, "--federation-config", options, "--format", "json"]
    said = call(command, folder, environment(folder))
    follow(federation, json.loads(said[said.index("{") :])["run-id"], lambda line: None)


def case(sites: int, model: str, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = write_study(folder, sites, model, options)
        wall, compute = in_process(study, folder)
        head = f"{model}, {sites} sites, {study.training.rounds} rounds of {study.training.updates}"
        print(f"{head}: local compute {compute:.1f} s; in process {wall:.1f} s, ratio {wall / compute:.2f}", flush=True)
        for way in options.ways:
            seconds, whole = over_flower(study, folder, way)
            a_round = (seconds - compute) / study.training.rounds
            print(
                f"  {way}: rounds {seconds:.1f} s, ratio {seconds / compute:.2f}, {a_round:.1f} s a round more than "
                f"local compute; {whole:.0f} s from start to end",
                flush=True,
            )


def main() -> None:
    ways = ["nodes", "simulation"] if find_spec("ray") else ["nodes"]
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", nargs="+", type=int, default=[3, 5])
    parser.add_argument("--models", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--ways", nargs="+", choices=["nodes", "simulation"], default=ways)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model in options.models:
        for sites in options.sites:
            case(sites, model, options)


if __name__ == "__main__":
    main()
