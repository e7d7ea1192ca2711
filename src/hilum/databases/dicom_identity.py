"""Pseudonyms: identifiers become keyed hashes at the site, and the key stays there."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from hilum.errors import DataError

KEY_FILE = "hilum-id-key"
KEY_BYTES = 32
DIGITS = 16


def identity_hash(key: bytes, value: str) -> str:
    """Return the first 16 hexadecimal digits of the HMAC-SHA256 of ``value`` under the key of the site.

    Without the key neither can the value be found by trying all of them, nor two sites' pseudonyms be compared.
    """
    return hmac.new(key, value.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:DIGITS]


def pseudonym(key: bytes, kind: str, value: str) -> str:
    """Return the hash of a value as one of a kind ('patient', 'study', 'image'): of another kind it is another."""
    return identity_hash(key, f"{kind}/{value}")


def site_key(database: str, root: Path, key_file: Path | None) -> bytes:
    """Return the key in ``key_file``, or in 'hilum-id-key' under ``root``.

    The latter is made where it is absent, for its owner alone. Raises ``DataError`` if it cannot be read
    or made, or does not hold 32 bytes.
    """
    if key_file is not None and not isinstance(key_file, str | Path):
        raise DataError(
            f"{database}: expected the option 'key_file' as a path; found {key_file!r}. Correct the study file."
        )
    path = root / KEY_FILE if key_file is None else Path(key_file).expanduser()
    try:
        if key_file is None and not path.exists():
            write_key(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{database}: expected to read or make the key of the patient ids at '{path}'; {error.strerror}. Make "
            "32 random bytes where you may ('openssl rand -out FILE 32') and name the file in the option key_file."
        ) from None
    if len(key) != KEY_BYTES:
        raise DataError(
            f"{database}: expected {KEY_BYTES} bytes in the key '{path}'; found {len(key)}. Restore the key of this "
            "site; with a new one all patient ids change."
        )
    return key


def write_key(path: Path, key: bytes) -> None:
    """Write a new key that its owner alone may read; raises ``OSError`` where there is one."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(key)
