"""Images per second with and without ``keep_freed_memory``: the local update and inference, a fresh process each.

Run: python benchmarks/allocator.py [--threads 2] [--repeats 3]
The two ways alternate; each process warms up before it measures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

MEASURE = """
import json, sys, time
import torch
from hilum.allocator import keep_freed_memory
from hilum.models.classifier import build_model
way, threads = sys.argv[1], int(sys.argv[2])
if way == "kept":
    assert keep_freed_memory()
torch.set_num_threads(threads)
model = build_model({"name": "efficientnet_lite0"}, {"name": "top_k"}, 6, 0).to(memory_format=torch.channels_last)

def update(images):
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images).logits
    logits.float().sum().backward()

def infer(images):
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model(images)

found = {}
for name, step, batch, times in (("update, batch 8", update, 8, 30), ("inference, batch 64", infer, 64, 6)):
    images = torch.rand(batch, 1, 224, 224).contiguous(memory_format=torch.channels_last)
    step(images)
    started = time.perf_counter()
    for _ in range(times):
        step(images)
    found[name] = batch * times / (time.perf_counter() - started)
print(json.dumps(found))
"""


def measure(way: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, way, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    pairs = [(measure("default", args.threads), measure("kept", args.threads)) for _ in range(args.repeats)]
    print(f"EfficientNet-Lite0 of nine blocks, 224 px, bfloat16, {args.threads} threads, {args.repeats} repeats\n")
    print("| work | default, images/s | kept, images/s | ratio, median (least – most) |")
    print("|---|---:|---:|---:|")
    for name in pairs[0][0]:
        before, after = ([way[name] for way in side] for side in zip(*pairs, strict=True))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        print(
            f"| {name} | {statistics.median(before):.0f} | {statistics.median(after):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
