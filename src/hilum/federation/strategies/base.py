"""What a federated algorithm is: two pure halves, the site's and the server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hilum.federation.messages import Reply, ServerState, Task
from hilum.training.loop import LocalTrainer
from hilum.training.state import State


class Strategy(Protocol):
    """A federated algorithm. It knows no runtime, no disk and no metric; what it must remember it returns."""

    def closing(self, sites: int) -> tuple[str, ...]:
        """Return the kinds of task that follow the last round, in order, in a federation of so many sites."""

    def model_at_site(self, state: State, site_state: State, trainer: LocalTrainer) -> State:
        """Return the weights that a site computes with: the server's, with what the site keeps."""

    def at_site(self, task: Task, site_state: State, trainer: LocalTrainer) -> tuple[Reply, State]:
        """Do the site's half of a round: (task, site state) → (reply, site state)."""

    def at_server(self, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Do the server's half of a round: (server state, replies) → server state."""

    def close_at_server(self, kind: str, server: ServerState, replies: Sequence[Reply]) -> ServerState:
        """Take what the replies to a closing task hold; no weight changes, and no round passes."""
