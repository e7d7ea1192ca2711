"""Images per second of the local loop, as a ratio to the same network in a plain float32 NCHW loop.

Run: python benchmarks/training.py [--backbone residual|efficientnet_lite0] [--size 128] [--threads 2]
Both loops see the same batches; rounds are interleaved; the plain loop has no augmentation, so the ratio
with augmentation is what a user gets and the one without is what layout and precision give.
"""

from __future__ import annotations

import argparse
import statistics
import time
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.sites.examples import Examples
from hilum.training.loop import LocalTrainer, TrainingPlan
from hilum.training.state import copy_state

FINDINGS = 8


def examples(count: int, size: int) -> Examples:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    site = SimpleNamespace(
        name="bench",
        findings=tuple("abcdefgh"),
        targets=rng.integers(0, 2, (count, FINDINGS)).astype(np.float32),
        images=lambda rows: pixels[rows],
        pixels=SimpleNamespace(pixels=pixels),
    )
    return Examples(((site, np.arange(count)),))  # type: ignore[arg-type]


def plain_loop(model: LocalizingClassifier, data: Examples, updates: int, batch: int) -> None:
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for drawn in data.draw(updates * batch, batch, 1.0, np.random.default_rng(0)):
        loss = F.binary_cross_entropy_with_logits(model(drawn.images).logits, drawn.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="residual")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--updates", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = examples(256, args.size)

    def build() -> LocalizingClassifier:
        return build_model({"name": args.backbone}, {"name": "linear_softmax"}, FINDINGS, 0)

    def hilum_loop(precision: str, strength: float) -> float:
        model = build().to(memory_format=torch.channels_last)
        plan = TrainingPlan(
            1, args.updates, args.batch, augmentation=Augmentation(strength, strength > 0), precision=precision
        )
        trainer = LocalTrainer("bench", model, data, data, plan, 0)
        started = time.perf_counter()
        trainer.fit(copy_state(model), 1, np.full(FINDINGS, 0.5))
        return time.perf_counter() - started

    def plain() -> float:
        model = build()
        started = time.perf_counter()
        plain_loop(model, data, args.updates, args.batch)
        return time.perf_counter() - started

    ways = {
        "plain float32 NCHW": plain,
        "channels-last float32": lambda: hilum_loop("float32", 0.0),
        "channels-last bfloat16": lambda: hilum_loop("bfloat16", 0.0),
        "channels-last float32 + augmentation": lambda: hilum_loop("float32", 1.0),
        "channels-last bfloat16 + augmentation": lambda: hilum_loop("bfloat16", 1.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):
        for name, way in ways.items():
            taken = way()
            if repeat:
                seconds[name].append(taken)
    images = args.updates * args.batch
    print(f"{args.backbone}, {args.size} px, batch {args.batch}, {args.threads} threads, {args.repeats} repeats\n")
    print("| loop | images/s, median | ratio to plain, median (least – most) |")
    print("|---|---:|---:|")
    for name, values in seconds.items():
        ratios = [p / v for p, v in zip(seconds["plain float32 NCHW"], values, strict=True)]
        print(
            f"| {name} | {images / statistics.median(values):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
