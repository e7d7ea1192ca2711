"""A log of who was asked for what and what came of it, in which no line can be changed unnoticed."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from os import SEEK_END
from pathlib import Path
from typing import Any

from hilum.errors import RunError
from hilum.training.state import append, not_written

Entry = dict[str, Any]
AUDIT_LOG = "audit.jsonl"  # of a run, and in the memory of a hospital
BEFORE_ALL = "0" * 64
LONGEST = 2**20  # bytes of a line
LONGEST_WORDS = 1000  # characters; some come from others
WHOSE = ("run", "model", "site", "kind", "round", "wave")  # what a reply is known by, at a server and at a site
TAKEN = "taken"  # the outcome of a reply that was used


@dataclass(frozen=True)
class AuditLog:
    """JSON lines in ``path``, each with the SHA-256 of itself and of the line before it.

    ``facts`` are in every entry. Who changes a line has to write all that follow anew: that, and lines cut off at the
    end, show against a hash that others have kept (``Chain.holds``). No entry tells of an image or a patient.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)

    def add(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Add entries, after those that are there; raises ``RunError`` where these were changed."""
        if not entries:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                append(self.path, self._lines(entries).encode())
        except OSError as error:
            raise not_written(self.path, error) from error

    def _lines(self, entries: Sequence[Mapping[str, Any]]) -> str:
        number, last = self._end()
        lines = []
        for entry in entries:
            number += 1
            time = datetime.now(UTC).isoformat(timespec="seconds")
            told = {"entry": number, "time": time, **self.facts, **entry, "previous": last}
            told = {k: v[:LONGEST_WORDS] if isinstance(v, str) else v for k, v in told.items()}
            last = digest_of(told)
            lines.append(_text({**told, "hash": last}) + "\n")
        return "".join(lines)

    def _end(self) -> tuple[int, str]:
        """Return number and hash of the last line; a line that a killed process has half written is removed."""
        with self.path.open("rb+") as handle:
            start = max(0, handle.seek(0, SEEK_END) - LONGEST)
            handle.seek(start)
            tail = handle.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            handle.truncate(start + len(whole))
        if not whole:
            return 0, BEFORE_ALL
        entry = _read(self.path, "the last line", whole.splitlines()[-1])
        return int(entry["entry"]), str(entry["hash"])


@dataclass(frozen=True)
class Chain:
    """A log that is whole: its entries, and the hash of the last."""

    entries: tuple[Entry, ...]
    last: str

    def holds(self, digest: str) -> bool:
        """Tell whether a hash that was told before is that of one of the lines."""
        return any(entry["hash"] == digest for entry in self.entries)


def digest_of(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an entry without its own."""
    return hashlib.sha256(_text({k: v for k, v in entry.items() if k != "hash"}).encode()).hexdigest()


def verified(path: Path) -> Chain:
    """Read a log, or that of a directory; raises ``RunError`` that names the first line that does not follow."""
    path = path / AUDIT_LOG if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"Expected an audit log at {path}; the system says: {error.strerror or error}.") from None
    if content and not content.endswith(b"\n"):
        raise RunError(
            f"Expected a whole last line in {path}; found one that was cut off. Where a kill has done that, the next "
            "entry replaces it: go on with the run, or take the end of the line away."
        )
    lines = content.splitlines()
    entries: list[Entry] = []
    last = BEFORE_ALL
    for number, line in enumerate(lines, 1):
        entry = _read(path, f"line {number}", line)
        if entry["entry"] != number or entry["previous"] != last:
            raise RunError(
                f"Expected entry {number} in line {number} of {path}, after the line before it; found entry "
                f"{entry['entry']}, after another. A line was removed, put in or moved."
            )
        entries.append(entry)
        last = str(entry["hash"])
    return Chain(tuple(entries), last)


def agreed(server: Chain, site: Chain) -> int:
    """Return how many replies the server took of the site, all of which the site has logged; raises ``RunError``."""
    sent: dict[tuple[Any, ...], set[Any]] = {}
    for entry in site.entries:
        sent.setdefault(_whose(entry), set()).add(entry.get("sha256"))
    sites = {entry.get("site") for entry in site.entries}
    taken = [e for e in server.entries if e.get("site") in sites and e.get("outcome") == TAKEN]
    if not taken:
        raise RunError(
            "Expected replies of one hospital in both logs; found none. Is the second the log of a hospital that took "
            "part in the run?"
        )
    for entry in taken:
        if entry.get("sha256") not in sent.get(_whose(entry), ()):
            raise RunError(
                f"Expected the reply of '{entry['site']}' to '{entry['kind']}' of round {entry['round']}, in entry "
                f"{entry['entry']} of the server's log, among those that the site has logged; found none of the same "
                "hash."
            )
    return len(taken)


def _whose(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in WHOSE)


def _read(path: Path, place: str, line: bytes) -> Entry:
    """Return the entry of a line whose hash is right; raises ``RunError``."""
    try:
        entry = json.loads(line)
        same = _text(entry).encode() == line and digest_of(entry) == entry["hash"]
        if same and isinstance(entry["entry"], int) and "previous" in entry:
            return dict(entry)
        found = "a line that was changed"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = "something else"
    raise RunError(f"Expected an entry with its hash in {place} of {path}; found {found}.")


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False)


def unlogged(entries: Iterable[Mapping[str, Any]]) -> None:
    """Log nothing."""
