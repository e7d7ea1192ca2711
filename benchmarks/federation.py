"""What a federation costs beside its local compute: time, growth with the sites, compression.

Run: python benchmarks/federation.py [overhead] [growth] [compression] [--threads 2]
overhead: wall time over the local compute inside it (aim: at most 1.05), by number of parameters. The local compute is
the time inside ``LocalTrainer.fit`` and ``validate``, measured in the same run; what is left is aggregation, checks,
checkpoints and the logs; freed memory is kept, as in a study. growth: time a site and peak memory with more sites, a
fresh process each. compression: bytes and time of one update.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from training import FINDINGS, examples

from hilum.allocator import keep_freed_memory
from hilum.federation.audit import AuditLog
from hilum.federation.compression import COMPRESSIONS
from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.rounds import Federation, RoundsPlan, size
from hilum.federation.runtimes.base import Runtime
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies.fedavg import FedAvg
from hilum.federation.topology.star import Star
from hilum.federation.worker import Worker
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.training.loop import Fit, LocalTrainer, TrainingPlan
from hilum.training.state import State, copy_state

WIDTHS = {"0.3 M": (32, 64, 128), "7 M": (154, 308, 616), "25 M": (292, 584, 1168)}
SITES = (4, 16, 64, 256)
# Each takes the workers of a federation; another runtime is one more entry.
RUNTIMES: dict[str, Callable[[Sequence[Worker]], Runtime]] = {"in process": InProcess}
SMALL = [("none", {}), ("bf16", {}), ("int8", {}), ("top_k", {}), ("top_k", {"values": "int8"})]


class TimedTrainer(LocalTrainer):
    seconds = 0.0

    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        started = time.perf_counter()
        result = super().fit(*args, **kwargs)
        TimedTrainer.seconds += time.perf_counter() - started
        return result

    def validate(self, state: State) -> dict[str, float]:
        started = time.perf_counter()
        result = super().validate(state)
        TimedTrainer.seconds += time.perf_counter() - started
        return result


def model_of(widths: Sequence[int]) -> LocalizingClassifier:
    model = build_model({"name": "residual", "widths": list(widths)}, {"name": "linear_softmax"}, FINDINGS, 0)
    return model.to(memory_format=torch.channels_last)


def federate(
    model: LocalizingClassifier, sites: int, plan: TrainingPlan, image: int, runtime: str = "in process"
) -> tuple[float, float]:
    """Return wall seconds, and those of the local compute."""
    data, groups = examples(64, image), model.state_groups()
    strategy, compression = FedAvg(groups), Compression(groups)
    trainers = [TimedTrainer(f"site{k:03d}", model, data, data, plan, 0) for k in range(sites)]
    TimedTrainer.seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        run, key = RunDirectory(Path(folder)), ModelKey(0, "federated", "federated")
        workers = [Worker(t, SiteMemory(run.rounds(key) / t.name), strategy, compression) for t in trainers]
        rounds = RoundsPlan(plan.rounds, plan.rounds)
        audit = AuditLog(run.audit_log, {"model": key.path.as_posix()})
        loop = Federation(strategy, Star(), compression, RUNTIMES[runtime](workers), rounds, on_replies=audit.add)
        started = time.perf_counter()
        loop.run(copy_state(model), run.rounds(key), partial(run.log_round, key))
        return time.perf_counter() - started, TimedTrainer.seconds


def overhead(options: argparse.Namespace) -> None:
    print(f"4 sites, {options.rounds} rounds of {options.updates} updates of 16 images of {options.size} px\n")
    for name in options.models:
        model, plan = model_of(WIDTHS[name]), TrainingPlan(options.rounds, options.updates, 16)
        model.train()(torch.rand(16, 1, options.size, options.size)).logits.sum().backward()  # warm
        for runtime in RUNTIMES:
            runs = [federate(model, 4, plan, options.size, runtime) for _ in range(options.repeat)]
            ratios = [wall / local for wall, local in runs]
            wall, local = min(runs)
            print(
                f"{name}, {runtime}: wall {wall:.2f} s, local compute {local:.2f} s; ratio, median (least – most) "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} – {max(ratios):.3f})"
            )


def growth(options: argparse.Namespace) -> None:
    print("0.3 M parameters, 2 rounds of 1 update of 4 images of 32 px\n")
    for sites in SITES:
        arguments = [sys.executable, __file__, "one", "--sites", str(sites), "--threads", str(options.threads)]
        print(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip())


def one(options: argparse.Namespace) -> None:
    model, sites = model_of(WIDTHS["0.3 M"]), options.sites
    plan = TrainingPlan(2, 1, 4, validation_limit=4)
    federate(model, 1, plan, 32)
    wall, local = federate(model, sites, plan, 32)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024
    print(
        f"{sites} sites: {1000 * wall / sites / 2:.1f} ms a site and round, of which compute "
        f"{1000 * local / sites / 2:.1f}; peak {peak:.0f} MB"
    )


def compression(options: argparse.Namespace) -> None:
    for parameters, widths in WIDTHS.items():
        model = model_of(widths)
        start, rng = copy_state(model), torch.Generator().manual_seed(0)
        state = {
            name: tensor + 0.01 * torch.randn(tensor.shape, generator=rng) if tensor.is_floating_point() else tensor
            for name, tensor in start.items()
        }
        for name, settings in SMALL:
            method: Compression = COMPRESSIONS.load(name)(model.state_groups(), **settings)
            encode, decode, sent, residual = [], [], state, State()
            for _ in range(options.repeat):
                began = time.perf_counter()
                sent, residual = method.encode(state, start, residual)
                between = time.perf_counter()
                method.decode(sent, start)
                encode.append(between - began)
                decode.append(time.perf_counter() - between)
            print(
                f"{parameters}, {' '.join([name, *settings.values()])}: {size(sent) / 1e6:.2f} MB, "
                f"{size(state) / size(sent):.1f} × fewer; encode {1000 * min(encode):.0f} ms, "
                f"decode {1000 * min(decode):.0f} ms"
            )


PARTS = {"overhead": overhead, "growth": growth, "compression": compression, "one": one}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=PARTS, default=["overhead", "growth", "compression"])
    parser.add_argument("--models", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for part in options.parts:
        PARTS[part](options)


if __name__ == "__main__":
    main()
