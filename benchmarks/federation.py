"""Wall time of a federated run over the pure local compute inside it (aim: below 1.05).

Run: python benchmarks/federation.py [--sites 4] [--rounds 5] [--updates 16] [--threads 2]
The pure local compute is the time inside ``LocalTrainer.fit``, measured in the same run; what is left is
aggregation, checks, checkpoints and the log.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from training import FINDINGS, examples

from hilum.federation.rounds import RoundsPlan, run_rounds
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies.fedavg import FedAvg
from hilum.models.classifier import build_model
from hilum.study.directory import ModelKey, RunDirectory
from hilum.training.loop import Fit, LocalTrainer, TrainingPlan
from hilum.training.state import copy_state


class TimedTrainer(LocalTrainer):
    seconds = 0.0

    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        started = time.perf_counter()
        result = super().fit(*args, **kwargs)
        TimedTrainer.seconds += time.perf_counter() - started
        return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="residual")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = build_model({"name": args.backbone}, {"name": "linear_softmax"}, FINDINGS, 0)
    model = model.to(memory_format=torch.channels_last)
    data = examples(256, args.size)
    plan = TrainingPlan(args.rounds, args.updates, args.batch)
    trainers = [TimedTrainer(f"site{k}", model, data, data, plan, 0) for k in range(args.sites)]
    strategy = FedAvg(model.state_groups())
    key = ModelKey(0, "federated", "federated")
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        started = time.perf_counter()
        run_rounds(
            strategy,
            InProcess(strategy, trainers),
            copy_state(model),
            RoundsPlan(args.rounds, args.rounds + 1),
            run.rounds(key),
            partial(run.log_round, key),
        )
        wall = time.perf_counter() - started
    print(f"{args.backbone}, {args.size} px, {args.sites} sites, {args.rounds} rounds of {args.updates} updates\n")
    print(f"wall {wall:.2f} s, local compute {TimedTrainer.seconds:.2f} s, ratio {wall / TimedTrainer.seconds:.3f}")


if __name__ == "__main__":
    main()
