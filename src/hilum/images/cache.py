"""The cache: every radiograph once, normalized and letterboxed, as memory-mapped uint8."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hilum.errors import DataError, ImageError
from hilum.images.decode import FAULTS, decode, read_bytes
from hilum.images.intensity import normalize
from hilum.images.letterbox import letterbox
from hilum.images.store import Entry, FileState, Store, StoreFullError
from hilum.progress import progress

PIPELINE = 2
"""Raised whenever the same file and parameters give other pixels than before."""
BATCH_IMAGES = 64
BATCH_SECONDS = 2.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CacheSpec:
    """What the pixels depend on besides the file: side in px, and the percentiles of the intensity."""

    size: int
    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.low < self.high <= 100:
            raise DataError(f"Expected size ≥ 1 and 0 ≤ low < high ≤ 100; found {self}.")

    @property
    def key(self) -> str:
        """Name of the directory that holds images made with these parameters."""
        text = f"{PIPELINE} {self.size} {float(self.low)} {float(self.high)}"
        return f"{self.size}px-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class LeftOut:
    """An image that cannot be used: its row (from 0) in the list of files, its name and why."""

    row: int
    name: str
    reason: str

    @property
    def kind(self) -> str:
        """The sort of reason, one of ``FAULTS``: it holds no file name, unlike ``name`` and perhaps ``reason``."""
        kind = self.reason.partition(":")[0]
        return kind if kind in FAULTS else "unreadable"

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Pixels:
    """Squares in the order of the rows, read from the map on use; indexed like the array it stands for."""

    slots: NDArray[np.int64]
    stored: np.memmap

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, height and width."""
        return len(self.slots), self.stored.shape[1], self.stored.shape[2]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, rows: int | slice | ArrayLike) -> NDArray[np.uint8]:
        return np.asarray(self.stored[self.slots[rows]])  # type: ignore[index]


@dataclass(frozen=True)
class PixelCache:
    """Images of one list of files, in its order.

    ``pixels``: uint8 (N, S, S), read-only; ``frames``: float32 (N, 4), the part of the square each image
    covers, in [0, 1]; ``kept``: bool (N,), False where the image was left out and its pixels are 0;
    ``problems``: what was left out; ``content``: SHA-256 of each file, "" where it was left out.
    """

    pixels: Pixels
    frames: NDArray[np.float32]
    kept: NDArray[np.bool_]
    problems: tuple[LeftOut, ...]
    content: list[str]

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, indices: ArrayLike) -> NDArray[np.uint8]:
        """Return a copy of the squares (n, S, S) of the given rows."""
        return self.pixels[np.asarray(indices)]


def build_cache(
    paths: Sequence[Path],
    spec: CacheSpec,
    directory: Path,
    *,
    on_error: Literal["refuse", "leave_out"] = "refuse",
    workers: int | None = None,
    label: str = "images",
    names: Sequence[str] | None = None,
) -> PixelCache:
    """Decode, normalize and letterbox what the cache in ``directory`` does not hold yet, and map it.

    A file of unchanged path, size and time is not read again; one of known content is not decoded again.
    Several processes may build at once; whatever a stopped one finished is kept. ``workers``: threads, all
    cores by default. ``names``: what problems call the images, the file names by default.
    Raises ``DataError`` after all files were tried when some cannot be read and ``on_error`` is 'refuse' (or
    none can), or when the disk is full.
    """
    if on_error not in ("refuse", "leave_out"):
        raise DataError(f"Expected on_error to be 'refuse' or 'leave_out'; found '{on_error}'.")
    paths = [Path(os.path.abspath(p)) for p in paths]  # noqa: PTH100 (resolve() would follow links)
    names = [p.name for p in paths] if names is None else names
    try:
        store = Store(directory / spec.key, spec.size)
    except StoreFullError as full:
        raise DataError(_full_disk(directory, spec, 0, len(paths))) from full
    with closing(store):
        problems = _fill(store, spec, paths, workers or _cores(), label)
        left_out = tuple(LeftOut(r, names[r], problems[p]) for r, p in enumerate(paths) if p in problems)
        if left_out and (on_error == "refuse" or len(left_out) == len(paths)):
            raise DataError(_refusal(label, left_out, len(paths)))
        return _open(store, paths, problems, left_out)


def _fill(store: Store, spec: CacheSpec, paths: list[Path], workers: int, label: str) -> dict[Path, str]:
    """Bring every file into the store; return the reason for each that cannot be read."""
    problems: dict[Path, str] = {}
    todo = _changed(store, paths)
    if not todo:
        return problems
    keys, batch, saved = store.keys(), list[Entry](), 0
    last = time.monotonic()
    try:
        with progress(label, len(todo)) as advance:
            for path, entry in _in_order(lambda p: (p, _read(p, spec, keys)), todo, workers):
                if isinstance(entry, Entry):
                    batch.append(entry)
                else:
                    problems[path] = entry
                advance(note=f"{len(problems)} unreadable" if problems else "")
                if len(batch) >= BATCH_IMAGES or time.monotonic() - last >= BATCH_SECONDS:
                    saved += _save(store, batch, keys)
                    last = time.monotonic()
        _save(store, batch, keys)
    except KeyboardInterrupt:
        saved += _save(store, batch, keys)
        raise KeyboardInterrupt(
            f"Stopped: {saved} of {len(todo)} new images of {label} are kept in {store.directory}; "
            "repeat the command to go on from there."
        ) from None
    except StoreFullError as full:
        raise DataError(_full_disk(store.directory, spec, saved, len(todo) - saved)) from full
    return problems


def _changed(store: Store, paths: list[Path]) -> list[Path]:
    """Return the files, each once, that the index does not know as they are now."""
    unique = list(dict.fromkeys(paths))
    known = store.recall(unique)
    return [p for p in unique if p not in known or not _unchanged(p, known[p][0])]


def _unchanged(path: Path, seen: FileState) -> bool:
    try:
        return seen.still_holds(FileState.of(path))
    except OSError:
        return False


def _read(path: Path, spec: CacheSpec, keys: set[str]) -> Entry | str:
    """Read one file to an entry, without pixels where its content is known, or to the reason it cannot be."""
    seen_ns = time.time_ns()
    try:
        data = read_bytes(path)
        state = FileState.of(path, seen_ns)
        key = hashlib.sha256(data).hexdigest()
        if key in keys:
            return Entry(path, state, key, None, None)
        square, frame = letterbox(normalize(decode(data), spec.low, spec.high), spec.size)
        return Entry(path, state, key, square, frame)
    except (ImageError, OSError) as error:
        return str(error)


def _save(store: Store, batch: list[Entry], keys: set[str]) -> int:
    """Move the batch into the store; return how many images it held."""
    store.add(batch)
    keys.update(entry.key for entry in batch)
    saved = len(batch)
    batch.clear()
    return saved


def _in_order(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Map a function over items in threads, a few ahead; Pillow and NumPy let go of the interpreter."""
    pool = ThreadPoolExecutor(workers)
    ahead: deque[Future[Result]] = deque()
    try:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _open(store: Store, paths: list[Path], problems: dict[Path, str], left_out: tuple[LeftOut, ...]) -> PixelCache:
    known = store.recall(list(dict.fromkeys(paths)))
    contents = store.contents()
    slots = np.array([0 if p in problems else known[p][1] for p in paths], np.int64)
    return PixelCache(
        pixels=Pixels(slots, store.pixels()),
        frames=np.array([contents[s][1] for s in slots], np.float32).reshape(-1, 4),
        kept=slots > 0,
        problems=left_out,
        content=[contents[s][0] for s in slots],
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refusal(label: str, left_out: tuple[LeftOut, ...], total: int) -> str:
    listed = "\n".join(f"  {problem}" for problem in left_out[:5])
    more = f"\n  and {len(left_out) - 5} more" if len(left_out) > 5 else ""
    advice = (
        "None can be read: check the path of the images."
        if len(left_out) == total
        else "Repair them, or pass `on_error: leave_out` in the study; the others are kept in the cache."
    )
    found = f"{label}: expected {total} readable images; found {len(left_out)} that are not:"
    return f"{found}\n{listed}{more}\n{advice}"


def _full_disk(directory: Path, spec: CacheSpec, saved: int, missing: int) -> str:
    needed = missing * spec.size**2 / 1e6
    return (
        f"The disk of {directory} is full: about {needed:,.1f} MB more are needed for {missing} images. "
        f"The {saved} built now and all earlier ones are kept; free some space, or choose another directory "
        "for the cache, and repeat the command."
    )
