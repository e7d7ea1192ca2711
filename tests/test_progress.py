"""Progress where there is no terminal: lines, and not too many."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hilum.progress import progress


def test_without_a_terminal_both_lines_of_a_note_are_told_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("hilum.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
    told = []
    with progress("training", 9) as advance:
        for moment, steps, note in (
            (1, 1, "loss 0.5\ndone none; waiting a, b"),
            (16, 0, "\ndone none; waiting a, b"),
            (31, 1, "loss 0.4\ndone a; waiting b"),
            (45, 0, "loss 0.4\ndone none; waiting a, b"),
            (62, 0, "loss 0.4\ndone a; waiting b"),
            (70, 0, "loss 0.4\ndone none; waiting a, b"),
            (77, 0, ""),
        ):
            now[0] = moment
            advance(steps, note)
            told.append(capsys.readouterr().err.splitlines())
    assert told == [
        [],
        ["training: 1/9 loss 0.5"],
        ["training: 2/9 loss 0.4", "training: done a; waiting b"],
        [],  # neither is due
        ["training: 2/9 loss 0.4"],  # what is waited for is what was told
        ["training: done none; waiting a, b"],
        ["training: 2/9 loss 0.4"],
    ]
