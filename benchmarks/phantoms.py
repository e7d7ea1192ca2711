"""Phantom radiographs a second on one core, beside the same drawing at 512 px shrunk to 128 px.

    OMP_NUM_THREADS=1 python benchmarks/phantoms.py

Times are of the processor, not of the wall clock, so that other work on the machine does not count; the
two ways take turns. Every radiograph shows one finding, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from hilum.databases.phantoms.render import PHANTOM_FINDINGS, render

SIZE, FINE, IMAGES, ROUNDS = 128, 512, 24, 8


def at_the_target_size(seed: int) -> np.ndarray:
    return render(seed, (PHANTOM_FINDINGS[seed % len(PHANTOM_FINDINGS)],), "PA", SIZE).pixels


def fine_then_shrunk(seed: int) -> np.ndarray:
    fine = render(seed, (PHANTOM_FINDINGS[seed % len(PHANTOM_FINDINGS)],), "PA", FINE).pixels
    return np.asarray(Image.fromarray(fine).resize((SIZE, SIZE), Image.Resampling.BOX))


def images_per_second(draw: Callable[[int], np.ndarray], first: int) -> float:
    start = time.process_time()
    for seed in range(first, first + IMAGES):
        draw(seed)
    return IMAGES / (time.process_time() - start)


def main() -> None:
    ways = (at_the_target_size, fine_then_shrunk)
    rates = np.array([[images_per_second(way, r * IMAGES) for way in ways] for r in range(ROUNDS)])
    ours, alternative = np.median(rates, axis=0)
    ratios = rates[:, 0] / rates[:, 1]
    print(f"drawn at {SIZE} px:              {ours:7.1f} images/s of processor time on one core")
    print(f"drawn at {FINE} px, then shrunk: {alternative:7.1f} images/s")
    print(f"ratio: {np.median(ratios):.1f} (range over {ROUNDS} turns {ratios.min():.1f} to {ratios.max():.1f})")


if __name__ == "__main__":
    main()
