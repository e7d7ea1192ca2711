"""What a hospital approves before its images are trained on: this code and one study, as one hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hilum
from hilum.study.spec import Study, dump_study


def study_digest(study: Study) -> str:
    """Return the SHA-256 of a study with every default filled in."""
    return hashlib.sha256(dump_study(study).encode()).hexdigest()


def source_digest() -> str:
    """Return the SHA-256 of the names and bytes of every file of the installed hilum package."""
    package, digest = Path(hilum.__file__).parent, hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def approval(study: Study) -> str:
    """Return the hash of code and study."""
    return hashlib.sha256(f"{source_digest()} {study_digest(study)}".encode()).hexdigest()
