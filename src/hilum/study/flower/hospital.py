"""A hospital's side of a study: its own file, its own images, what it has approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hilum.errors import DataError, RunError, StudyError
from hilum.sites.site import Site
from hilum.study.approval import approval
from hilum.study.hospitals import load_own_site
from hilum.study.mistakes import explain
from hilum.study.sections import Section
from hilum.study.spec import Study, read_mapping, resolve_site


class NotApproved(RunError):
    """Code or a study that the hospital has not approved."""


class HospitalFile(Section):
    """What a hospital's node is told by its administrator.

    ``site``: its name in the study. ``root``: the only folder whose images are read. ``memory``: where it keeps what
    the study makes its own. ``cache``: decoded pixels. ``approved``: hashes of code and study, from 'hilum
    federation hash'. ``options``: of the database, where they differ from the study's.
    """

    site: str
    root: Path
    memory: Path
    cache: Path
    approved: list[str]
    options: dict[str, Any] = Field(default={})


def read_hospital(path: Path) -> HospitalFile:
    """Read a hospital's file, paths relative to it; raises ``StudyError``."""
    try:
        file = HospitalFile.model_validate(read_mapping(path))
    except ValidationError as error:
        lines = "\n".join(f"  {explain(e, HospitalFile)}" for e in error.errors())
        raise StudyError(f"{path} cannot be used as written:\n{lines}") from None
    folder = path.resolve().parent
    return file.model_copy(update={k: (folder / getattr(file, k)).resolve() for k in ("root", "memory", "cache")})


def require_approved(study: Study, file: HospitalFile) -> None:
    """Refuse code or a study that the hospital has not approved (``NotApproved``)."""
    found = approval(study)
    if found not in file.approved:
        raise NotApproved(
            f"'{file.site}' has not approved this code and study ({found}). Its administrator reads the study and adds "
            "the hash that 'hilum federation hash' tells there to 'approved', or the study and code that were approved "
            "are run."
        )


def own_site(study: Study, file: HospitalFile) -> Site:
    """Load the hospital's own images under the study's requirements, and no file outside of its root.

    Raises ``StudyError``, ``DataError`` and ``ImageError``.
    """
    return load_own_site(_with_own_paths(study, file), file.site, file.cache)


def _with_own_paths(study: Study, file: HospitalFile) -> Study:
    """Return the study with the hospital's root, and with options that are paths relative to it."""
    name = study.source_of(file.site)
    spec = study.sites[name]
    database = spec.database.model_copy(update=file.options)
    resolved = resolve_site(file.root, spec.model_copy(update={"root": file.root, "database": database}))
    for option, value in (resolved.database.model_extra or {}).items():
        own = option in file.options
        if isinstance(value, str) and value.startswith("/") and not own and not Path(value).is_relative_to(file.root):
            raise DataError(
                f"Expected the option '{option}' of the database to stay inside of the root of '{file.site}'; it leads "
                "out of it. Set it under 'options' of the hospital's own file if that is meant."
            )
    return study.model_copy(update={"sites": {name: resolved}})
