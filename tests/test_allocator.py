"""Freed memory is kept for the next update, where the C library can."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from hilum.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else True
np.ones(2**26, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**26, np.uint8)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    def faults(way: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True)
        return [int(part) for part in done.stdout.split()]

    kept, again = faults("kept")
    if not kept:
        pytest.skip("this C library takes no such setting")
    assert again < 0.1 * faults("default")[1]


def test_other_c_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from hilum import allocator

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
