"""Who reaches what: nodes with a known key reach the fleet API, through the proxy, and nothing else."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr")
from flower_processes import NGINX, SITES, empty_federation, start_proxy, wait_for
from hilum.errors import RunError
from hilum.study.flower.commands import LOOPBACK, Address, connection, node_command
from hilum.study.flower.keys import Authority, certificate_pem, key_pem, new_authority, new_node, new_server
from hilum.study.flower.local import LocalFederation
from hilum.study.flower.processes import Started, call, environment, free_port, start

pytestmark = [pytest.mark.slow, pytest.mark.flower]

CONTROL = ("list-runs", "start-run", "stop-run", "register-node", "list-nodes", "stream-logs")
CLOSED = (
    *(f"/v1/control/{name}" for name in CONTROL),
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "//v1/control/list-runs",
    "/v1/runtime/push-messages",
    "/health",
    "/docs",
    "/openapi.json",
    "/",
)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """A link, and in front of it nginx with the configuration that 'init' writes, where nginx is installed."""
    folder = tmp_path_factory.mktemp("federation")
    with empty_federation(folder, Address("localhost", free_port())) as opened:
        opened.start_link()
        for site in SITES[:2]:
            opened.register(site)
        proxy = start_proxy(opened.layout.server, opened.layout.public.port) if NGINX else None
        yield opened
        if proxy is not None:
            proxy.stop()


@pytest.fixture
def proxied(federation: LocalFederation) -> LocalFederation:
    """The federation, where a proxy stands before it."""
    if not (federation.layout.server / "proxy.conf").is_file():
        pytest.skip("nginx is not installed")
    return federation


def post(federation: LocalFederation, address: Address, path: str) -> int:
    """Return the status of an empty message of protobuf, as anybody without a key may send it."""
    trusted = ssl.create_default_context(cafile=str(federation.layout.server / "ca.crt"))
    client = http.client.HTTPSConnection(address.host, address.port, context=trusted, timeout=30)
    try:
        client.request("POST", path, b"", {"Content-Type": "application/protobuf"})
        return client.getresponse().status
    finally:
        client.close()


def node(federation: LocalFederation, site: str, link: Address, key: bytes | None = None) -> Started:
    folder = federation.layout.hospital(site)
    if key is not None:
        (folder / "node.key").chmod(0o600)
        (folder / "node.key").write_bytes(key)
    command = [*node_command(link, "hospital.yaml", free_port()), "--max-retries", "2"]
    return start("node", command, folder, environment(folder))


def said(started: Started, word: str, seconds: float = 60) -> bool:
    return wait_for(lambda: word in started.log.read_text() or not started.running, seconds) and (
        word in started.log.read_text()
    )


@pytest.mark.parametrize("path", CLOSED)
def test_a_site_reaches_nothing_but_the_fleet_api(proxied: LocalFederation, path: str) -> None:
    assert post(proxied, proxied.layout.public, "/v1/fleet/pull-messages") == 401  # reached, and asked for its key
    assert post(proxied, proxied.layout.public, path) in (400, 403)


def test_without_the_proxy_anybody_lists_runs_which_is_why_it_is_there(federation: LocalFederation) -> None:
    assert post(federation, federation.layout.link, "/v1/control/list-runs") == 200


def test_flwr_lists_runs_at_the_link_and_not_through_the_proxy(proxied: LocalFederation, tmp_path: Path) -> None:
    (tmp_path / "flower").mkdir()
    ca = str(proxied.layout.server / "ca.crt")
    for address, reached in ((proxied.layout.link, True), (proxied.layout.public, False)):
        (tmp_path / "flower" / "config.toml").write_text(connection(address, ca))
        for command in (["list"], ["supernode", "list"]):
            if reached:
                call(["flwr", *command, "hilum"], tmp_path, environment(tmp_path))
            else:
                with pytest.raises(RunError):
                    call(["flwr", *command, "hilum"], tmp_path, environment(tmp_path))


def test_a_node_with_a_known_key_connects_through_the_proxy(proxied: LocalFederation) -> None:
    started = node(proxied, "north", proxied.layout.public)
    try:
        assert said(started, "SuperNode ID"), started.log.read_text()
    finally:
        started.stop()


def test_a_node_with_another_key_is_refused(federation: LocalFederation) -> None:
    started = node(federation, "south", federation.layout.link, new_node()[0])
    try:
        assert wait_for(lambda: not started.running, 60), started.log.read_text()
        assert "SuperNode ID" not in started.log.read_text()
    finally:
        started.stop()


def test_a_node_whose_server_has_a_certificate_of_another_authority_does_not_connect(
    federation: LocalFederation,
) -> None:
    folder = federation.layout.hospital("west")
    (folder / "ca.crt").write_bytes(certificate_pem(new_authority().certificate))
    started = node(federation, "west", federation.layout.link)
    try:
        assert said(started, "CERTIFICATE_VERIFY_FAILED"), started.log.read_text()
        assert "SuperNode ID" not in started.log.read_text()
    finally:
        started.stop()


def test_plain_http_is_refused_on_both_sides(federation: LocalFederation) -> None:
    plain = http.client.HTTPConnection(LOOPBACK, federation.layout.link.port, timeout=30)
    plain.request("POST", "/v1/fleet/pull-messages", b"")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    plain.close()
    folder = federation.layout.hospital("north")
    command = node_command(federation.layout.link, "hospital.yaml", free_port())
    k = command.index("--root-certificates")
    started = start("plain", [*command[:k], *command[k + 2 :], "--insecure"], folder, environment(folder))
    try:
        assert wait_for(lambda: not started.running)
        assert "requires a secure TLS connection" in " ".join(started.log.read_text().split())
    finally:
        started.stop()


def test_a_server_with_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    with empty_federation(tmp_path, sites=("north",)) as opened:
        authority = new_authority()
        renew(opened, authority, -0.5)
        opened.start_link()
        started = node(opened, "north", opened.layout.link)
        assert said(started, "certificate has expired"), started.log.read_text()
        assert "SuperNode ID" not in started.log.read_text()
        started.stop()


def renew(federation: LocalFederation, authority: Authority, days: float) -> None:
    """Give the server another certificate, and the hospitals its authority."""
    key, certificate = new_server(authority, LOOPBACK, days)
    server, trusted = federation.layout.server, certificate_pem(authority.certificate)
    for name, data in {"server.key": key, "server.pem": certificate, "ca.crt": trusted}.items():
        (server / name).write_bytes(data)
    (server / "ca.key").write_bytes(key_pem(authority.key))
    for site in federation.layout.sites:
        (federation.layout.hospital(site) / "ca.crt").write_bytes(trusted)


def test_the_proxy_takes_the_configuration_as_it_is_written(proxied: LocalFederation) -> None:
    server = proxied.layout.server
    told = subprocess.run(
        [str(NGINX), "-t", "-c", f"{server}/proxy.conf", "-p", str(server)], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
