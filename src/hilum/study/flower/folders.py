"""The folders of a federation: one for the server, one for each hospital, with keys and all that starts them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hilum.study.flower.app import path_options
from hilum.study.flower.commands import (
    NODE_PORT,
    QUIET,
    REFUSAL,
    REFUSED,
    SHIM,
    Address,
    connection,
    link_command,
    node_command,
    register_command,
    run_command,
)
from hilum.study.flower.keys import certificate_pem, key_pem, new_authority, new_node, new_server, write_secret
from hilum.study.spec import Study, dump_study
from hilum.training.state import write_atomically

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Layout:
    """Where the folders of a federation lie, and where its server is reached.

    ``public``: what hospitals connect to. ``link``: what Flower's link listens on, on the server's own loopback.
    """

    root: Path
    sites: tuple[str, ...]
    public: Address
    link: Address

    @property
    def server(self) -> Path:
        """Folder of the server."""
        return self.root / "server"

    def hospital(self, site: str) -> Path:
        """Folder of a hospital."""
        return self.root / "hospitals" / site


def write_keys(layout: Layout) -> None:
    """Write certificates and keys; none is replaced (``RunError``)."""
    authority = new_authority()
    key, certificate = new_server(authority, layout.public.host)
    write_secret(layout.server / "ca.key", key_pem(authority.key))
    write_secret(layout.server / "server.key", key)
    write_atomically(layout.server / "server.pem", certificate)
    trusted = certificate_pem(authority.certificate)
    write_atomically(layout.server / "ca.crt", trusted)
    for site in layout.sites:
        private, public = new_node()
        write_secret(layout.hospital(site) / "node.key", private)
        write_atomically(layout.hospital(site) / "ca.crt", trusted)
        write_atomically(layout.server / "keys" / f"{site}.pub", public)


def write_server(layout: Layout) -> None:
    """Write the scripts of the server, and the proxy's configuration."""
    words = {
        "quiet": QUIET,
        "layout": layout,
        "folder": layout.server.resolve(),
        "link": shlex.join(link_command(layout.link, "state.db")),
        "register": [shlex.join(register_command(f"keys/{site}.pub", site)) for site in layout.sites],
        "run": shlex.join(run_command("app")),
        "connection": connection(layout.link, "$PWD/ca.crt"),
    }
    for name in ("start-link.sh", "register-hospitals.sh", "start-run.sh"):
        _write_script(layout.server / name, _rendered(f"{name}.j2", words))
    write_atomically(layout.server / "nginx.conf", _rendered("nginx.conf.j2", words).encode())
    write_atomically(layout.server / "README.md", _rendered("server.md.j2", words).encode())


def write_hospital_file(layout: Layout, site: str, facts: Mapping[str, Any]) -> None:
    """Write the hospital.yaml of a site; ``facts``: see ``hospital.HospitalFile``."""
    text = yaml.safe_dump({"site": site, **facts}, sort_keys=False)
    write_atomically(layout.hospital(site) / "hospital.yaml", text.encode())


def write_hospital(layout: Layout, study: Study | None, site: str) -> None:
    """Write what starts a hospital's node, and the study for its administrator to read."""
    folder = layout.hospital(site)
    if study is not None:
        write_atomically(folder / "study.yaml", dump_study(study).encode())
    _write_script(folder / "bin" / "flwr-clientapp", SHIM)
    for name in REFUSED:
        _write_script(folder / "bin" / name, REFUSAL)
    node = shlex.join(node_command(layout.public, "HOSPITAL")).replace("HOSPITAL", "'\"$PWD\"'/hospital.yaml")
    words = {"quiet": QUIET, "site": site, "layout": layout, "node": node, "node_port": NODE_PORT}
    _write_script(folder / "start-node.sh", _rendered("start-node.sh.j2", words))
    write_atomically(folder / "hilum-node.service", _rendered("hilum-node.service.j2", words).encode())
    write_atomically(folder / "README.md", _rendered("hospital.md.j2", words).encode())


def own_options(study: Study, site: str) -> dict[str, Any]:
    """Return the options of a site's database that are paths on this machine."""
    return path_options(study.sites[study.source_of(site)])


def _write_script(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
    path.chmod(0o755)


def _rendered(name: str, words: Mapping[str, Any]) -> str:
    return _environment().get_template(name).render(words)


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
