"""Progress: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Callable that moves a progress bar."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Advance by steps, and show a note of one or more lines."""


PLAIN_INTERVAL = 15.0
DETAIL_INTERVAL = 30.0


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """Show progress of ``total`` steps on standard error: a bar in a terminal, else a line now and then.

    There, what a note says after its first line is a line of its own, where it has changed.
    """
    if sys.stderr.isatty():
        with _bar(label, total) as advance:
            yield advance
        return
    done, noted, detailed = 0, "", ""
    last = last_detail = time.monotonic()

    def advance_plain(steps: int = 1, note: str = "") -> None:
        nonlocal done, noted, detailed, last, last_detail
        line, _, detail = note.partition("\n")
        done, noted = done + steps, line or noted
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            print(f"{label}: {done}/{total} {noted}".rstrip(), file=sys.stderr, flush=True)
        if detail not in ("", detailed) and now - last_detail >= DETAIL_INTERVAL:
            detailed, last_detail = detail, now
            print(f"{label}: {detail}", file=sys.stderr, flush=True)

    yield advance_plain


@contextmanager
def _bar(label: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, RenderableType, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Noted(Progress):
        note = ""

        def get_renderables(self) -> Iterator[RenderableType]:
            yield from super().get_renderables()
            yield Text(self.note)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Noted(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)

        def advance(steps: int = 1, note: str = "") -> None:
            bar.note = note or bar.note
            bar.update(task, advance=steps)

        yield advance
