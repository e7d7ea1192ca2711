"""Link, nodes and commands of Flower as processes of this machine, each with all that it starts itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hilum.errors import MissingExtra, RunError
from hilum.study.flower.commands import QUIET

PATIENCE = 10.0  # s in which a process may end by itself


@dataclass
class Started:
    """A process with its children, what it says in ``log``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to it and to all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """End it and all that it has started, by force where they do not listen."""
        family = [] if not self.running else self.family()
        self.signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        self.signal(signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + PATIENCE  # Flower's others see that they are alone, and end
        while alive(family) and time.monotonic() < deadline:
            time.sleep(0.1)
        for number in alive(family):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def family(self) -> list[int]:
        """Return the processes that it has started, also through others."""
        parents = parent_of_each()
        family = {self.process.pid}
        while more := {child for child, parent in parents.items() if parent in family} - family:
            family |= more
        return sorted(family - {self.process.pid})


def parent_of_each() -> dict[int, int]:
    """Return process → parent, of all processes of this machine."""
    try:
        told = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    rows = (line.split() for line in told.splitlines())
    return {int(child): int(parent) for child, parent, state in rows if not state.startswith("Z")}


def alive(processes: Sequence[int]) -> list[int]:
    """Return those of the processes that have not ended."""
    return sorted(parent_of_each().keys() & set(processes)) if processes else []


def environment(folder: Path, first: Path | None = None) -> dict[str, str]:
    """Return the environment of a process: its own FLWR_HOME in ``folder``; programs of ``first`` before others."""
    paths = [str(first)] if first else []
    paths += [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return os.environ | QUIET | {"FLWR_HOME": str(folder / "flower"), "PATH": os.pathsep.join(paths)}


def start(name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> Started:
    """Start a command in ``folder``; what it says goes to <name>.log there. Raises ``MissingExtra``."""
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(env),
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise MissingExtra("flower", "flwr") from None
    return Started(name, process, log)


def call(command: Sequence[str], folder: Path, env: Mapping[str, str], seconds: float = 300) -> str:
    """Run a command of 'flwr' and return what it says; raises ``RunError`` and ``MissingExtra``."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=dict(env),
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise MissingExtra("flower", "flwr") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"Expected '{' '.join(command[:3])}' to end within {seconds:g} s; it did not.") from None
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise RunError(f"Expected '{' '.join(command[:3])}' to succeed; it says: {said[-500:]}")
    return done.stdout


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(started: Started, port: int, seconds: float = 300) -> None:
    """Wait until a process listens on a port of the loopback; raises ``RunError`` where it ends before that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and started.running:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RunError(f"Expected the {started.name} to listen on port {port}; it does not. See {started.log}.")
