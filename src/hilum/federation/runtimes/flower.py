"""Sites behind a Flower SuperLink: messages go out to their nodes, replies come back, what is lost is said."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx  # type: ignore[import-not-found, unused-ignore]
from flwr.app import Message, RecordDict  # type: ignore[import-not-found, unused-ignore]

from hilum.errors import TrainingError
from hilum.federation.messages import Lost, Reply, Task, share_of
from hilum.federation.payload import reply_of, task_payload
from hilum.federation.runtimes.base import Tell, tell_of, unheard
from hilum.federation.runtimes.flower_records import (
    FACTS,
    TASK,
    WHO,
    Envelope,
    Identity,
    opened,
    require_same,
    require_site,
)
from hilum.federation.runtimes.in_process import Presence

REASONS = {  # Flower's error codes
    1: "its node could not load the app",
    2: "its app failed",
    3: "the message was lost on the way there",
    4: "the reply was lost on the way back",
    5: "its node is gone",
    7: "its node refused the app",
    8: "its app's process ended",
}
OF_ROUNDS = ("train", "validate")  # tasks; what comes before and after the rounds is every site's


class Grid(Protocol):
    """What is used of Flower's grid."""

    def get_node_ids(self) -> Iterable[int]:
        """Nodes that are connected."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""


@dataclass(frozen=True)
class Limits:
    """How long a site is waited for, in s.

    ``round``: from the task to the reply. ``absent``: for a node that is not connected, or does not tell its site.
    ``who``: after which a node is asked for its site again. ``attempts``: times that a task is sent to a site whose
    node or app is lost meanwhile. ``enough``: share of the replies after which the others are not waited for in
    ``OF_ROUNDS``; None waits for all.
    """

    round: float = 3600.0
    absent: float = 300.0
    who: float = 120.0
    attempts: int = 3
    enough: float | None = None


@dataclass(frozen=True)
class Clock:
    """Time in s, and how to let it pass."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    poll: float = 1.0


@dataclass(frozen=True)
class Question:
    """A node was asked for its site, and when."""

    node: int
    at: float


@dataclass
class Nodes:
    """Which node is at which site. A node tells its site once; one that comes back is known by its key.

    ``named``: a node speaks only for the site under whose name its key was registered; in a simulation there are no
    keys. ``refused``: site → why a node that claims it does not speak for it. ``asked``: questions on their way, by
    message id. ``asked_before``: nodes that have answered, or have not in time.
    """

    grid: Grid
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=Clock)
    named: bool = True
    site_of: dict[int, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    asked: dict[str, Question] = field(default_factory=dict)
    asked_before: set[int] = field(default_factory=set)

    def connected(self) -> dict[str, int]:
        """Return site → node of the connected nodes that have told their site; does not wait for those that have not.

        A site has no node where two claim it, or where another that is registered under its name has yet to answer.
        """
        online = sorted(self.grid.get_node_ids())
        self.asked = {message_id: question for message_id, question in self.asked.items() if question.node in online}
        self._ask([node for node in online if node not in self.site_of])
        registered = self._registered() if self.asked else {}
        self._hear(registered)
        sites = [self.site_of[node] for node in online if node in self.site_of]
        if self.named:
            sites += [registered.get(q.node, "") for q in self.asked.values() if q.node not in self.asked_before]
        return {
            self.site_of[node]: node for node in online if node in self.site_of and sites.count(self.site_of[node]) == 1
        }

    def _ask(self, nodes: list[int]) -> None:
        """Ask nodes for their site; those that have not answered within ``limits.who`` are asked again."""
        now = self.clock.now()
        for message_id, question in list(self.asked.items()):
            if now - question.at >= self.limits.who:
                del self.asked[message_id]
                self.asked_before.add(question.node)
        waiting = {question.node for question in self.asked.values()}
        nodes = [node for node in nodes if node not in waiting]
        messages = [
            Message(RecordDict(), dst_node_id=node, message_type=WHO, ttl=self.limits.who, group_id="who")
            for node in nodes
        ]
        for node, message_id in zip(nodes, self.grid.push_messages(messages) if messages else (), strict=True):
            if message_id:
                self.asked[message_id] = Question(node, now)

    def _hear(self, registered: Mapping[int, str]) -> None:
        """Take the answers that are there. A node that names no site, or one that is not its own, is asked again."""
        for reply in self.grid.pull_messages(list(self.asked)) if self.asked else ():
            question = self.asked.pop(reply.metadata.reply_to_message_id, None)
            if question is None:
                continue
            self.asked_before.add(question.node)
            site, name = _told_site(reply), registered.get(question.node, "")
            if site and self.named and name != site:
                if site not in self.site_of.values():
                    self.refused[site] = f"one that claims to be it has a key registered {_under(name)}"
            elif site:
                self.site_of[question.node] = site
                self.refused.pop(site, None)

    def _registered(self) -> dict[int, str]:
        """Return the names under which the link's administrator has registered the keys of the nodes, where told."""
        return {node.node_id: node.name for node in self._told()}

    def came(self) -> dict[int, str]:
        """Return since when the link knows each node to be there, where told."""
        return {node.node_id: node.last_activated_at for node in self._told()}

    def _told(self) -> list[Any]:
        try:
            return list(self.grid.get_nodes())  # type: ignore[attr-defined]
        except (AttributeError, NotImplementedError):
            return []


def _under(name: str) -> str:
    return f"under the name '{name}'" if name else "without a name ('flwr supernode register' with --name gives one)"


def _told_site(reply: Message) -> str:
    if reply.has_error() or FACTS not in reply.content:
        return ""
    return str(reply.content[FACTS].get("site", ""))


class FlowerRuntime:
    """The sites of a study behind a SuperLink. A site that does not answer is lost, and the reason is told.

    ``presence``: of every site of the study. ``tell`` hears of every task that is sent and every reply that arrives.
    """

    def __init__(
        self,
        nodes: Nodes,
        presence: Mapping[str, Presence],
        identity: Identity,
        tell: Tell = unheard,
    ) -> None:
        self.nodes, self.presence, self.identity, self.tell = nodes, dict(presence), identity, tell

    def sites(self, round_: int) -> list[str]:
        """Names of the sites of the study that are there in a round, sorted, whether their nodes are or not."""
        return sorted(name for name, presence in self.presence.items() if round_ in presence)

    def exchange(self, tasks: Mapping[str, Task]) -> Iterator[Reply | Lost]:
        """Send every site its task and yield the replies as they come, sorted by the name of the site."""
        exchange = Exchange(self.nodes, self.identity, tasks)
        for site in sorted(tasks):
            while site in exchange.open:
                if exchange.advance():
                    tell_of(tasks, tasks.keys() - exchange.open, self.tell)
                if site in exchange.open:
                    self.nodes.clock.sleep(self.nodes.clock.poll)
            yield exchange.answers.pop(site)


@dataclass(frozen=True)
class Sent:
    """A task on its way: to which site's node, and since when that node was there."""

    site: str
    node: int
    came: str | None


class Exchange:
    """Tasks on their way: those not sent yet, those that wait for a reply, and the answers that nobody took yet."""

    def __init__(self, nodes: Nodes, identity: Identity, tasks: Mapping[str, Task]) -> None:
        self.nodes, self.identity, self.tasks = nodes, identity, tasks
        self.started = nodes.clock.now()
        self.open = set(tasks)
        self.unsent = dict.fromkeys(tasks, self.started)  # site → since when
        self.pending: dict[str, Sent] = {}  # by message id
        self.attempts: Counter[str] = Counter()
        self.answers: dict[str, Reply | Lost] = {}
        self.replies = 0

    def advance(self) -> bool:
        """Send what can be sent, take what has arrived, give up what is too late; tell whether anything changed."""
        before = len(self.open), len(self.pending)
        with suppress(httpx.HTTPError):  # a link that is busy for a moment is asked again
            self._send()
            for message in self.nodes.grid.pull_messages(list(self.pending)) if self.pending else ():
                sent = self.pending.pop(message.metadata.reply_to_message_id, None)
                if sent is not None:
                    self._receive(sent.site, message)
            self._send_anew()
        self._give_up()
        return before != (len(self.open), len(self.pending))

    def _send(self) -> None:
        if not self.unsent:
            return
        connected, came = self.nodes.connected(), self.nodes.came()
        sites = [site for site in sorted(self.unsent) if site in connected]
        messages = [self._message(site, connected[site]) for site in sites]
        for site, message_id in zip(sites, self.nodes.grid.push_messages(messages) if messages else (), strict=True):
            if message_id:
                self.pending[message_id] = Sent(site, connected[site], came.get(connected[site]))
                self.attempts[site] += 1
                del self.unsent[site]

    def _send_anew(self) -> None:
        """Find the tasks of nodes that have come anew: they know of none, and the link may not have seen them gone."""
        came = self.nodes.came() if self.pending else {}
        for message_id, sent in list(self.pending.items()):
            if came.get(sent.node, sent.came) != sent.came:
                del self.pending[message_id]
                self._again(sent.site, REASONS[5])

    def _again(self, site: str, reason: str) -> None:
        if self.attempts[site] < self.nodes.limits.attempts:
            self.unsent[site] = self.nodes.clock.now()
        else:
            self._settle(site, Lost(site, f"{reason}, {self.attempts[site]} times in a row."))

    def _message(self, site: str, node: int) -> Message:
        task = self.tasks[site]
        left = max(1.0, self.nodes.limits.round - (self.nodes.clock.now() - self.started))
        content = Envelope.of(self.identity, task, task_payload(task)).records()
        return Message(content, dst_node_id=node, message_type=TASK, ttl=left, group_id=str(task.round))

    def _receive(self, site: str, message: Message) -> None:
        if not message.has_error():
            self._settle(site, self._answer(site, message.content))
        else:
            self._again(site, REASONS.get(message.error.code, "its node reports an error"))

    def _answer(self, site: str, records: RecordDict) -> Reply | Lost:
        try:
            envelope = opened(records)
            if envelope.lost:
                return Lost(site, envelope.lost)
            require_same(Envelope.of(self.identity, self.tasks[site]), envelope, site)
            if envelope.payload is None:
                raise TrainingError(f"Expected a reply from '{site}'; found an empty message.")
            return require_site(reply_of(envelope.payload), site)
        except TrainingError as error:
            return Lost(site, str(error))

    def _give_up(self) -> None:
        limits, now = self.nodes.limits, self.nodes.clock.now()
        share = limits.enough if next(iter(self.tasks.values())).kind in OF_ROUNDS else None
        enough = share is not None and self.replies >= share_of(share, len(self.tasks))
        for site in sorted(self.open):
            if enough:
                self._settle(site, Lost(site, "not waited for: enough others had answered."))
            elif now - self.started >= limits.round:
                self._settle(site, Lost(site, f"no reply within {limits.round:g} s."))
            elif site in self.unsent and now - self.unsent[site] >= limits.absent:
                refused = f"; {self.nodes.refused[site]}" if site in self.nodes.refused else ""
                self._settle(site, Lost(site, f"its node was not connected for {limits.absent:g} s{refused}."))

    def _settle(self, site: str, answer: Reply | Lost) -> None:
        self.answers[site] = answer
        self.replies += isinstance(answer, Reply)
        self.open.discard(site)
        self.unsent.pop(site, None)
        self.pending = {message_id: sent for message_id, sent in self.pending.items() if sent.site != site}
