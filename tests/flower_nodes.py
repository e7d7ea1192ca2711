"""Nodes and a link of tests that are no processes: a node answers when it is asked for its reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hilum.federation.runtimes.flower import Clock
from hilum.federation.runtimes.flower_records import FACTS, WHO

# What a server app's process knows of itself; messages are made of it.
TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1

Answer = Callable[[Message], RecordDict | Error | None]


@dataclass
class Time:
    """A clock that moves only when somebody waits."""

    now: float = 0.0

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.wait, 1.0)


@dataclass
class FakeNode:
    """A node: what it says its site is, how it answers a task, when it is connected, when it tells its site.

    ``registered``: name of its key; None is that of its site.
    """

    site: str
    answer: Answer
    connected: Callable[[float], bool] = lambda now: True
    registered: str | None = None
    came: Callable[[float], str] = lambda now: ""
    tells: Callable[[float], bool] = lambda now: True


@dataclass
class FakeGrid:
    """Nodes that answer when they are asked for the reply; those that return None never do."""

    nodes: dict[int, FakeNode]
    time: Time
    sent: dict[str, Message] = field(default_factory=dict)
    types: list[str] = field(default_factory=list)

    def get_node_ids(self) -> list[int]:
        return [number for number, node in self.nodes.items() if node.connected(self.time.now)]

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(
                node_id=k,
                name=n.site if n.registered is None else n.registered,
                last_activated_at=n.came(self.time.now),
            )
            for k, n in self.nodes.items()
        ]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            ids.append(f"message {len(self.types)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.sent[ids[-1]] = message
            self.types.append(message.metadata.message_type)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = []
        for message_id in message_ids:
            message = self.sent[message_id]
            node = self.nodes[message.metadata.dst_node_id]
            content: RecordDict | Error | None
            if message.metadata.message_type == WHO:
                told = node.tells(self.time.now)
                content = RecordDict({FACTS: ConfigRecord({"site": node.site})}) if told else None
            else:
                content = node.answer(message)
            if content is not None:
                replies.append(Message(content, reply_to=message))
        return replies
