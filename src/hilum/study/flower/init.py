"""A federation from nothing: keys, configuration and instructions for the server and every hospital."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hilum.errors import RunError, StudyError
from hilum.study.flower.app import CONFIG, app_study, write_app, write_donor
from hilum.study.flower.commands import LOOPBACK, Address
from hilum.study.flower.folders import Layout, write_hospital, write_hospital_file, write_keys, write_server
from hilum.study.spec import Study

UNSET = "/set/this/to/the/folder/with/the/images"


def init_federation(folder: Path, study: Study | None, sites: Sequence[str], public: Address, link_port: int) -> Layout:
    """Write the folders ``server`` and ``hospitals/<site>``; where they are already, only the study is renewed.

    ``link_port``: of Flower's link, on the server's loopback.

    Raises ``StudyError`` for names that cannot be, and ``RunError`` for a folder of other sites.
    """
    require_names(sites, study)
    layout = Layout(folder, tuple(sorted(sites)), public, Address(LOOPBACK, link_port))
    known = sorted(path.stem for path in (layout.server / "keys").glob("*.pub"))  # hospitals' folders move to them
    if known and known != list(layout.sites):
        raise RunError(f"Expected the hospitals of {folder} ({', '.join(known)}); found {', '.join(layout.sites)}.")
    if public.port == link_port:
        raise StudyError(
            f"Expected different ports for hospitals and the server's own link; found {link_port} for both."
        )
    shared = app_study(study, layout.sites, _precision(study), study.training.threads) if study else None
    if study is not None:
        write_donor(layout.server / "run", study)
    if not known:
        write_keys(layout)
        for site in layout.sites:
            write_hospital_file(layout, site, {"root": UNSET, "memory": "memory", "cache": "cache", "approved": []})
    write_server(layout)
    if shared is not None:
        write_app(layout.server / "app", shared, {**CONFIG, "sites": ",".join(layout.sites)})
    for site in layout.sites:
        write_hospital(layout, shared, site)
    return layout


def require_names(sites: Sequence[str], study: Study | None) -> None:
    """Refuse names that are no folder, stand twice, or are of no site that trains (``StudyError``)."""
    for name in sites:
        if not name.replace("-", "").replace("_", "").isalnum() or list(sites).count(name) > 1:
            raise StudyError(f"Expected different names of letters, digits, '-' and '_'; found '{name}'.")
        if study and (role := study.sites[study.source_of(name)].role) != "training":
            raise StudyError(f"Expected sites that train; '{name}' has the role '{role}'. Leave it out of --sites.")


def _precision(study: Study) -> str:
    """Hospitals' machines differ: what is fastest on this one says nothing."""
    return "float32" if study.training.precision == "auto" else study.training.precision
