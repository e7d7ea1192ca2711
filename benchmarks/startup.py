"""Seconds to answer ``hilum --help``, as a ratio to a Python that imports nothing and to one that imports torch.

Run: python benchmarks/startup.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    commands = {
        "python -c pass": ["-c", "pass"],
        "hilum --help": ["-c", "import sys; sys.argv = ['hilum', '--help']; from hilum.cli import main; main()"],
        "python -c 'import torch'": ["-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    for name, values in seconds.items():
        print(f"{name:<26} {statistics.median(values):.2f} s ({min(values):.2f} – {max(values):.2f})")


if __name__ == "__main__":
    main()
