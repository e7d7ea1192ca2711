"""Images a second from PNG into the cache, and back out of it, against Pillow and a plain Dataset.

Both sides are timed in turn in every round, so that only the ratios count; nothing is left on the disk.
    python benchmarks/ingest.py --images 60 --side 1024 --rounds 5
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from hilum.images.cache import CacheSpec, PixelCache, build_cache

BATCH = 32


class PlainDataset(Dataset):
    """What one writes without a cache: open, grey, fit into a square, tensor."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            grey = ImageOps.pad(image.convert("L"), (self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(grey, np.float32) / 255)


def radiographs(folder: Path, count: int, side: int) -> list[Path]:
    """Write smooth shadows with film grain: as hard to decompress as a chest film."""
    rng = np.random.default_rng(0)
    for i in range(count):
        shadows = Image.fromarray(rng.integers(20, 235, (8, 7), np.uint8)).resize((side, side), Image.BICUBIC)
        grain = rng.normal(0, 3, (side, side))
        Image.fromarray(np.clip(np.asarray(shadows) + grain, 0, 255).astype(np.uint8)).save(folder / f"{i:05d}.png")
    return sorted(folder.iterdir())


def read_plain(paths: list[Path], size: int, workers: int) -> None:
    loader = DataLoader(PlainDataset(paths, size), BATCH, shuffle=True, num_workers=workers if workers > 1 else 0)
    for batch in loader:
        assert batch.shape[1:] == (size, size)


def read_cache(cache: PixelCache) -> None:
    order = torch.randperm(len(cache)).numpy()
    for start in range(0, len(order), BATCH):
        batch = torch.from_numpy(cache.gather(order[start : start + BATCH])).float().div_(255)
        assert batch.shape[0] > 0


def seconds(action, *arguments) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def measure(paths: list[Path], scratch: Path, size: int, workers: int) -> dict[str, float]:
    """Time one round; return images a second of each way."""
    spec, place = CacheSpec(size), scratch / "cache"
    times = {
        "plain": seconds(read_plain, paths, size, workers),
        "build": seconds(lambda: build_cache(paths, spec, place, workers=workers)),
        "again": seconds(lambda: build_cache(paths, spec, place, workers=workers)),
    }
    cache = build_cache(paths, spec, place)
    times["read"] = seconds(read_cache, cache)
    shutil.rmtree(place)
    return {name: len(paths) / value for name, value in times.items()}


ROWS = {
    "plain": "Pillow + plain `Dataset`, every epoch",
    "build": "into the cache, once",
    "again": "open the cache again, files unchanged",
    "read": "out of the cache, shuffled, float32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="PNG or JPEG to use instead of generated ones")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--side", type=int, default=1024, help="px of the generated images")
    parser.add_argument("--size", type=int, default=224, help="px in the cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "images"
        source.mkdir()
        if options.folder is None:
            paths = radiographs(source, options.images, options.side)
        else:
            every = options.folder.rglob("*")
            paths = sorted(p for p in every if p.suffix in (".png", ".jpg", ".jpeg"))[: options.images]
        measured = (options.size, options.workers)
        rounds = [measure(paths, Path(scratch), *measured) for _ in range(options.rounds + 1)][1:]
    print(f"{len(paths)} images to {options.size} px, {options.workers} worker(s), {options.rounds} rounds\n")
    print("| way | images/s (median) | against plain: median (least – most) |\n|---|---:|---:|")
    for name, words in ROWS.items():
        ratios = [r[name] / r["plain"] for r in rounds]
        median = statistics.median(r[name] for r in rounds)
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
        print(f"| {words} | {median:,.0f} | {spread} |")


if __name__ == "__main__":
    main()
