"""The store under the cache: one file of equal slots that only grows, and an SQLite index of what they hold.

A batch is written in one exclusive transaction: pixels into slots that the index does not know yet, flushed
to disk, then the index. A process that dies in between leaves slots that the next one takes again.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hilum.errors import DataError
from hilum.images.letterbox import Frame

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS contents (slot INTEGER PRIMARY KEY, key TEXT UNIQUE NOT NULL, "
    "x0 REAL NOT NULL, y0 REAL NOT NULL, x1 REAL NOT NULL, y1 REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, seen_ns INTEGER NOT NULL, slot INTEGER NOT NULL) WITHOUT ROWID",
)
NOTHING = ""
CLOCK_NS = 2_000_000_000
LOCK_SECONDS = 300.0
QUERY_PATHS = 500


class StoreFullError(DataError):
    """The disk under the store is full."""


class FileState(NamedTuple):
    """What tells that a file has not changed: its size and time, and when it was last read."""

    size: int
    mtime_ns: int
    seen_ns: int

    @classmethod
    def of(cls, path: Path, seen_ns: int = 0) -> FileState:
        """Return the state of a file now; raises ``OSError``."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, seen_ns)

    def still_holds(self, now: FileState) -> bool:
        """Tell whether a file seen in this state is unchanged; one written as it was read is not trusted."""
        same = (self.size, self.mtime_ns) == (now.size, now.mtime_ns)
        return same and self.mtime_ns + CLOCK_NS < self.seen_ns


@dataclass(frozen=True)
class Entry:
    """One file read: its state, the key of its content, and its pixels unless the key was known."""

    path: Path
    state: FileState
    key: str
    square: NDArray[np.uint8] | None
    frame: Frame | None


class Store:
    """Slots of ``size`` × ``size`` uint8 in ``directory``; slot 0 is black and stands for an absent image."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        with _clear_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(directory / "pixels.u8", os.O_RDWR | os.O_CREAT, 0o666)
            self._index = sqlite3.connect(directory / "index.sqlite", LOCK_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the index and the file of slots."""
        self._index.close()
        os.close(self._file)

    def keys(self) -> set[str]:
        """Return the key of every content in the store."""
        with _clear_errors(self.directory):
            return {key for (key,) in self._index.execute("SELECT key FROM contents WHERE slot > 0")}

    def recall(self, paths: Sequence[Path]) -> dict[Path, tuple[FileState, int]]:
        """Return the state and the slot of those paths that the index knows."""
        known: dict[Path, tuple[FileState, int]] = {}
        with _clear_errors(self.directory):
            for start in range(0, len(paths), QUERY_PATHS):
                part = [os.fsencode(p) for p in paths[start : start + QUERY_PATHS]]
                marks = ",".join("?" * len(part))
                query = f"SELECT path, size, mtime_ns, seen_ns, slot FROM files WHERE path IN ({marks})"
                for path, *state, slot in self._index.execute(query, part):
                    known[Path(os.fsdecode(path))] = (FileState(*state), slot)
        return known

    def add(self, entries: Sequence[Entry]) -> None:
        """Write the entries in one transaction, each content once; raises ``StoreFullError``."""
        with _clear_errors(self.directory), self._transaction():
            for entry in entries:
                slot = self._slot(entry.key)
                if slot is None:
                    assert entry.square is not None
                    assert entry.frame is not None
                    slot = self._append(entry.key, entry.square, entry.frame)
                row = (os.fsencode(entry.path), *entry.state, slot)
                self._index.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", row)
            os.fsync(self._file)

    def contents(self) -> dict[int, tuple[str, Frame]]:
        """Return the key and the frame of every slot."""
        with _clear_errors(self.directory):
            rows = self._index.execute("SELECT slot, key, x0, y0, x1, y1 FROM contents")
            return {slot: (key, Frame(*frame)) for slot, key, *frame in rows}

    def pixels(self) -> np.memmap:
        """Map every slot, read-only (slots, size, size)."""
        slots = os.fstat(self._file).st_size // self.size**2
        return np.memmap(self.directory / "pixels.u8", np.uint8, "r", shape=(slots, self.size, self.size))

    def _prepare(self) -> None:
        with self._transaction():
            for statement in SCHEMA:
                self._index.execute(statement)
            if self._slot(NOTHING) is None:
                self._append(NOTHING, np.zeros((self.size, self.size), np.uint8), Frame(0, 0, 1, 1))
            self._check_length()

    def _slot(self, key: str) -> int | None:
        row = self._index.execute("SELECT slot FROM contents WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])

    def _append(self, key: str, square: NDArray[np.uint8], frame: Frame) -> int:
        (slot,) = self._index.execute("SELECT COALESCE(MAX(slot) + 1, 0) FROM contents").fetchone()
        _write_all(self._file, square.tobytes(), slot * self.size**2)
        self._index.execute("INSERT INTO contents VALUES (?, ?, ?, ?, ?, ?)", (slot, key, *frame))
        return int(slot)

    def _check_length(self) -> None:
        (slots,) = self._index.execute("SELECT MAX(slot) + 1 FROM contents").fetchone()
        if os.fstat(self._file).st_size < slots * self.size**2:
            raise DataError(
                f"Expected {slots} images in {self.directory / 'pixels.u8'}; the file is shorter. "
                f"Delete {self.directory} and repeat the command."
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._index.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._index.execute("COMMIT")
        except BaseException:
            if self._index.in_transaction:
                self._index.execute("ROLLBACK")
            raise


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


@contextmanager
def _clear_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"The disk of {directory} is full.") from error
        raise DataError(f"Expected to write the image cache in {directory}; {error.strerror}.") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StoreFullError(f"The disk of {directory} is full.") from error
        raise DataError(
            f"The index of the image cache in {directory} cannot be used ({error}). If no other process "
            "builds this cache now, delete that directory and repeat the command."
        ) from error
