"""Generators derived from names, so that order, parallelism and resume cannot change a result."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def derive_seed(*keys: int | str) -> int:
    """Return a 63-bit seed from any sequence of keys, such as ``(seed, round, site, "augmentation")``."""
    digest = hashlib.sha256("\x1f".join(str(k) for k in keys).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_generator(*keys: int | str) -> np.random.Generator:
    """Return a NumPy generator for the keys."""
    return np.random.default_rng(derive_seed(*keys))


def fixed_order(count: int) -> NDArray[np.int64]:
    """Return 0 … ``count`` − 1 in a random order that is always the same: any part of it is much like the whole."""
    return numpy_generator(0, "fixed order").permutation(count)


def torch_generator(*keys: int | str) -> torch.Generator:
    """Return a CPU torch generator for the keys."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*keys))
