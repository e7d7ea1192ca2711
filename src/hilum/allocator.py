"""The C allocator: keep the memory that one update frees for the next."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 2**31 - 1  # bytes at the top of the heap before any go back to the system
ON_HEAP = 2**30  # a smaller block comes from the heap


def keep_freed_memory() -> bool:
    """Let glibc reuse freed blocks instead of returning them to the system; return whether it took the setting.

    By default every activation map is mapped, zeroed page by page and unmapped again: with the setting a CPU training
    loop is 1.3 times and inference 3 times as fast (``benchmarks/allocator.py``). Other C libraries are
    left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, ON_HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
