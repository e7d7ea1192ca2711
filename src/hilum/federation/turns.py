"""Sums over training images where sites take turns: those of every site that is there, added up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from hilum.federation.messages import Reply, ServerState, Task
from hilum.models.classifier import StateGroup
from hilum.training.state import State

COUNTED = "counted/"  # of the server's tensors, the sums that each site has counted last


@dataclass
class Turns:
    """The replies of sites that train one after the other, from ``server``.

    A star takes the sums of all sites at once. In turns, a site that counts anew replaces its own part of them alone.
    ``counted``: what the server keeps of the sums of each site.
    """

    groups: Mapping[str, StateGroup]
    server: ServerState
    counted: State = field(default_factory=dict)

    def added(self, replies: Iterable[Reply], tasks: Mapping[str, Task]) -> Iterator[Reply]:
        """Yield the replies, those that counted with the sums of all sites that are there."""
        names = [name for name, group in self.groups.items() if group == "sums"]
        for reply in replies:
            sent = tasks[reply.site].state
            if all(torch.equal(reply.state[name], sent[name]) for name in names):
                yield reply
                continue
            self.counted |= {f"{COUNTED}{reply.site}/{name}": reply.state[name] for name in names}
            yield replace(reply, state={**reply.state, **{name: self._total(name) for name in names}})

    def _total(self, name: str) -> torch.Tensor:
        kept = self.server.extra | self.counted
        parts = (kept.get(f"{COUNTED}{site}/{name}") for site in self.server.present)
        return torch.stack([part for part in parts if part is not None]).sum(0)
