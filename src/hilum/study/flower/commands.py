"""How link, nodes and runs are started: the same words for a script at a hospital and for a process here."""

from __future__ import annotations

from dataclasses import dataclass

LINK_NAME = "hilum"
LOOPBACK = "127.0.0.1"
QUIET = {  # no telemetry, no look for updates, nothing installed when a run begins
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
}
NODE_PORT = 8001  # of a node's own processes, on loopback
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
SHIM = '#!/bin/sh\nexec python3 -m hilum.study.flower.executor "$@"\n'
REFUSAL = '#!/bin/sh\necho "A hospital\'s node runs no $(basename "$0")." >&2\nexit 1\n'


@dataclass(frozen=True)
class Address:
    """Where something listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def link_command(address: Address, database: str | None = None) -> list[str]:
    """Return what starts the link, in the folder with its certificate."""
    command = ["flower-superlink", "--host", address.host, "--port", str(address.port), "--enable-supernode-auth"]
    command += ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"]
    command += ["--disable-runtime-dependency-installation"]
    return command + (["--database", database] if database else [])


def node_command(link: Address, hospital: str, port: int = NODE_PORT) -> list[str]:
    """Return what starts a node, in the folder with its key; ``hospital``: path of its hospital.yaml."""
    command = ["flower-supernode", "--superlink", str(link), "--root-certificates", "ca.crt"]
    command += ["--auth-supernode-private-key", "node.key", "--host", LOOPBACK, "--port", str(port)]
    return [*command, "--node-config", f'hospital="{hospital}"']


def register_command(public_key: str, site: str) -> list[str]:
    """Return what lets a hospital's key in, under the hospital's name."""
    return ["flwr", "supernode", "register", public_key, LINK_NAME, "--name", site]


def run_command(app: str) -> list[str]:
    """Return what starts or resumes the run."""
    return ["flwr", "run", app, LINK_NAME]


def connection(link: Address, certificate: str) -> str:
    """Return the file config.toml by which 'flwr' finds the link."""
    lines = ["[superlink]", f'default = "{LINK_NAME}"', "", f"[superlink.{LINK_NAME}]"]
    return "\n".join([*lines, f'address = "{link}"', f'root-certificates = "{certificate}"', ""])
