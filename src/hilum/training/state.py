"""The state of a model as a value: named tensors on disk without pickle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hilum.errors import RunError

State = dict[str, Tensor]


def copy_state(module: nn.Module) -> State:
    """Return a detached copy of the module's state, on the CPU wherever the module is."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def save_state(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> None:
    """Write a state as safetensors, with facts, whole or not at all. Raises ``RunError`` when the disk is full."""
    from safetensors.torch import save

    write_atomically(
        path, save({k: v.contiguous() for k, v in state.items()}, {"facts": json.dumps(dict(facts or {}))})
    )


def load_state(path: Path) -> State:
    """Read a state written by ``save_state``. Raises ``RunError``."""
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"Expected the weights {path}; the file is absent. Run the study again with --resume.") from None
    except Exception as error:
        raise RunError(
            f"Expected safetensors in {path}; could not read it ({error}). Remove the file and run the study "
            "again with --resume."
        ) from error


def load_facts(path: Path) -> dict[str, Any]:
    """Return the facts that ``save_state`` wrote beside the tensors; raises ``RunError`` as ``load_state`` does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {}).get("facts", "{}")))
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"Expected safetensors in {path}; could not read it ({error}).") from error


def fingerprint(state: Mapping[str, Tensor], as_laid_out: bool = False) -> str:
    """Return the SHA-256 of names, shapes and bytes of a state.

    ``as_laid_out``: of the bytes in the order in which they lie in memory, which is faster.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        if as_laid_out and tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            tensor = tensor.permute(0, 2, 3, 1)
        tensor = tensor.contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode(errors="surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write bytes so that the file is either the old one or the whole new one; ``mode``: of a new file, less the umask.

    Raises ``RunError``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode)
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise not_written(path, error, f"{len(data) / 2**20:.1f} MiB of free space for") from error


def append(path: Path, lines: bytes) -> None:
    """Add whole lines to a file, all or none. Raises ``RunError``."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as handle:
            handle.write(lines)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)
        raise not_written(path, error, "free space for one more line of") from error


def not_written(path: Path, error: OSError, needed: str = "free space for") -> RunError:
    """Return what to tell of a file that could not be written; ``needed``: what a full disk lacks."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"Expected {needed} {path}; the disk is full. "
            "What was computed is kept: free some space and repeat the command (hilum study: with --resume)."
        )
    return RunError(f"Expected to write {path}; the system says: {error.strerror or error}.")
