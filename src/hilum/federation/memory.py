"""What a site keeps between rounds: on its own disk, keyed by round, so that a round that is run again repeats.

The server says which of the site's replies it took last; what the site kept then is what it goes on from. What it
kept of a reply that was lost is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hilum.errors import RunError
from hilum.federation.messages import AFTER_ALL_WAVES, NEVER, Moment
from hilum.training.state import State, load_state, save_state, write_atomically

SECRET, SECRET_BYTES = "secret.key", 32


@dataclass(frozen=True)
class SiteMemory:
    """The states of one site of one run in ``directory``: the newest, and those that may be gone on from."""

    directory: Path

    def at(self, moment: Moment) -> State:
        """Return what the site had kept after the task of ``moment``; nothing where it had kept nothing."""
        kept = [when for when in self._kept() if when <= moment]
        return load_state(self._path(*kept[-1])) if kept else {}

    def keep(self, now: Moment, state: State, taken: Moment = NEVER, lowest: Moment = NEVER) -> None:
        """Keep the state after the task of ``now``, and forget the older ones that nothing goes on from.

        What it may go on from are the states at ``taken``, those at the server's last two checkpoints, which
        end the rounds before this one, and the one at ``lowest``. A task that ends late forgets nothing of a newer one.
        """
        before = self._kept()
        if not state and not before:
            return
        save_state(self._path(*now), state)
        last = now[0] if now[1] >= AFTER_ALL_WAVES else now[0] - 1
        ends = [min(taken, (round_, AFTER_ALL_WAVES - 1)) for round_ in (last, last - 1)]
        needed = {max((when for when in before if when <= wanted), default=now) for wanted in (taken, lowest, *ends)}
        for when in {*before} - needed:
            if when < now:
                self._path(*when).unlink()

    def secret(self, make: Callable[[], bytes]) -> bytes:
        """Return what nobody but the site may know, made once for the run."""
        path = self.directory / SECRET
        if not path.is_file():
            write_atomically(path, make(), mode=0o600)
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise RunError(
                f"Expected {SECRET_BYTES} bytes in {path}; found {len(secret)}. The file is damaged: restore it, or "
                "start the run again with another --out."
            )
        return secret

    def _kept(self) -> list[Moment]:
        stems = (path.stem.split("_") for path in self.directory.glob("round_*.safetensors"))
        return sorted((int(round_), int(wave)) for _, round_, wave in stems)

    def _path(self, round_: int, wave: int) -> Path:
        return self.directory / f"round_{round_:05d}_{wave:04d}.safetensors"
