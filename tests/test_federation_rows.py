"""What a server's step leaves alone: rows that nobody taught, and what stays at the sites."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fakes import tiny_model
from hilum.errors import TrainingError
from hilum.federation.messages import LabelCounts, Reply, ServerState, Task
from hilum.federation.strategies import STRATEGIES
from hilum.training.state import State, copy_state

GROUPS = tiny_model().state_groups()
HEAD = ("head.weight", "head.bias")
COUNTS = {
    "a": LabelCounts(8, np.array([8, 0]), np.array([4, 0])),
    "b": LabelCounts(8, np.array([8, 8]), np.array([4, 4])),
}
OPTIMIZERS = ("fedavgm", "fedadam", "fedyogi")


def moved(site: str, by: float) -> Reply:
    """A reply that moves every weight from the initial ones, and tells FedNova of its steps."""
    state: State = {n: t + by if t.is_floating_point() else t for n, t in copy_state(tiny_model()).items()}
    return Reply(site, 1, state, COUNTS[site], 0.5, 1, extra={"steps": torch.tensor(3.0)})


def after(strategy: Any, server: ServerState, *replies: Reply) -> ServerState:
    asked = {reply.site: reply.counts for reply in replies}
    stepped: ServerState = strategy.step(server, strategy.collect(server, replies, asked))
    return stepped


def begun(strategy: Any) -> ServerState:
    joined: ServerState = strategy.join(ServerState(0, copy_state(tiny_model())), COUNTS)
    return joined


@pytest.mark.parametrize("name", [*OPTIMIZERS, "fedavg", "fednova"])
def test_a_row_that_nobody_teaches_in_a_round_rests_though_it_had_momentum(name: str) -> None:
    strategy = STRATEGIES.load(name)(GROUPS)
    first = after(strategy, begun(strategy), moved("a", 0.5), moved("b", 0.5))
    second = after(strategy, first, moved("a", 1.0))
    for row in HEAD:
        assert not torch.equal(first.state[row][1], begun(strategy).state[row][1])
        assert torch.equal(second.state[row][1], first.state[row][1])
        assert not torch.equal(second.state[row][0], first.state[row][0])


@pytest.mark.parametrize("name", [*OPTIMIZERS, "fednova", "scaffold"])
def test_what_stays_at_the_sites_is_averaged_and_no_more(name: str) -> None:
    options = {"server_lr": 0.3} if name in (*OPTIMIZERS, "scaffold") else {}
    strategy = STRATEGIES.load(name)(GROUPS, head="site", normalization="local", **options)
    averaging = STRATEGIES.load("fedavg")(GROUPS, head="site", normalization="local")
    found, plain = begun(strategy), begun(averaging)
    for by in (0.5, 0.7):
        replies = [moved("a", by), moved("b", 2 * by)]
        found, plain = after(strategy, found, *replies), after(averaging, plain, *replies)
    for tensor in (n for n, group in GROUPS.items() if group != "trunk"):
        assert torch.equal(found.state[tensor], plain.state[tensor])


def test_a_site_that_says_it_made_no_step_is_refused() -> None:
    reply = Reply("a", 1, {}, COUNTS["a"], extra={"steps": torch.tensor(0.0)})
    with pytest.raises(TrainingError, match="local steps of 'a', above 0; found 0"):
        STRATEGIES.load("fednova")(GROUPS).check(reply, Task("train", 1))
