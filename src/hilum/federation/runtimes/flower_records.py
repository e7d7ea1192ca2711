"""Tasks and replies as what Flower carries: arrays, and a few words on which run they belong to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict  # type: ignore[import-not-found, unused-ignore]

from hilum.errors import TrainingError
from hilum.federation.messages import Reply, Task
from hilum.federation.payload import Payload

ARRAYS, FACTS = "arrays", "hilum"
WHO, TASK = "query.who", "train.task"  # the two messages that a site answers


@dataclass(frozen=True)
class Identity:
    """Which training a message belongs to: digest of the study, path of the model in it, id of the run."""

    study: str
    model: str
    run: str


@dataclass(frozen=True)
class Envelope:
    """A payload with its identity, the kind, round and wave of the task, or why there is no reply (``lost``)."""

    identity: Identity
    kind: str
    round: int
    wave: int
    payload: Payload | None = None
    lost: str = ""

    @classmethod
    def of(cls, identity: Identity, task: Task, payload: Payload | None = None, lost: str = "") -> Envelope:
        """Return what is sent with a task, or in reply to it."""
        return cls(identity, task.kind, task.round, task.wave, payload, lost)

    def records(self) -> RecordDict:
        """Return the content of a Flower message."""
        facts: dict[str, Any] = asdict(self.identity)
        facts |= {"kind": self.kind, "round": self.round, "wave": self.wave, "lost": self.lost}
        if self.payload is None:
            return RecordDict({FACTS: ConfigRecord(facts)})
        facts |= {"scalars": self.payload.scalars, "digest": self.payload.digest}
        arrays = ArrayRecord({name: Array(array) for name, array in self.payload.arrays.items()})
        return RecordDict({FACTS: ConfigRecord(facts), ARRAYS: arrays})


def opened(records: RecordDict) -> Envelope:
    """Read the content of a Flower message; raises ``TrainingError`` where it is not of hilum, or was changed."""
    try:
        facts: dict[str, Any] = dict(records.config_records[FACTS])
        payload = None
        if "scalars" in facts:
            arrays = {str(name): array.numpy() for name, array in records.array_records[ARRAYS].items()}
            payload = Payload(arrays, str(facts["scalars"]))
        changed = payload is not None and payload.digest != facts["digest"]
        identity = Identity(str(facts["study"]), str(facts["model"]), str(facts["run"]))
        envelope = Envelope(
            identity, str(facts["kind"]), int(facts["round"]), int(facts["wave"]), payload, str(facts["lost"])
        )
    except Exception as error:  # bytes that anybody has sent: numpy alone raises errors of half a dozen modules
        raise TrainingError(f"Expected a message of hilum; found another ({type(error).__name__}).") from None
    if changed:
        raise TrainingError("Expected a message as it was sent; found another digest: it was changed on the way.")
    return envelope


def require_same(sent: Envelope, reply: Envelope, site: str) -> None:
    """Refuse a reply to another task than that which was sent (``TrainingError``)."""
    for what in ("study", "model", "run"):
        if getattr(sent.identity, what) != getattr(reply.identity, what):
            raise TrainingError(f"Expected a reply of this {what} from '{site}'; found one of another {what}.")
    if (sent.kind, sent.round, sent.wave) != (reply.kind, reply.round, reply.wave):
        raise TrainingError(
            f"Expected a reply to '{sent.kind}' of round {sent.round} from '{site}'; "
            f"found one to '{reply.kind}' of round {reply.round}."
        )


def require_site(reply: Reply, site: str) -> Reply:
    """Refuse a reply in the name of another site (``TrainingError``)."""
    if reply.site != site:
        raise TrainingError(f"Expected a reply of '{site}'; found one in the name of '{reply.site}'.")
    return reply
