"""The hospital's end of the Flower app: one message in, one reply out. No image, id or path leaves with it."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict  # type: ignore[import-not-found, unused-ignore]
from flwr.clientapp import ClientApp  # type: ignore[import-not-found, unused-ignore]

from hilum.errors import DataError, HilumError, RunError, StudyError, TrainingError
from hilum.federation.audit import AUDIT_LOG, AuditLog
from hilum.federation.messages import contribution
from hilum.federation.payload import reply_payload, task_of
from hilum.federation.rounds import size
from hilum.federation.runtimes.flower_records import FACTS, Envelope, Identity, opened
from hilum.study.approval import approval, study_digest
from hilum.study.flower.hospital import HospitalFile, NotApproved, own_site, read_hospital, require_approved
from hilum.study.spec import Study, parse_study, read_mapping

SENT = "sent"
SEE_LOG = "the log of its node says more."
CHECK = "'hilum data check --hospital hospital.yaml'"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def client_app(study_file: Path) -> ClientApp:
    """Return the app that a hospital's node runs for the study of ``study_file``."""
    app = ClientApp()

    @app.query("who")
    def who(message: Message, context: Context) -> Message:
        try:
            site = hospital_of(context.node_config, context.run_config).site
        except HilumError as error:
            _log(error, "its own file cannot be used.")
            site = ""
        return Message(RecordDict({FACTS: ConfigRecord({"site": site})}), reply_to=message)

    @app.train("task")
    def task(message: Message, context: Context) -> Message:
        return Message(answer(message.content, study_file, context).records(), reply_to=message)

    return app


def hospital_of(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> HospitalFile:
    """Return the hospital's file that its node names; in a simulation, that of the node's number among the sites."""
    if "hospital" in node_config:
        return read_hospital(Path(str(node_config["hospital"])))
    if "partition-id" in node_config and run_config.get("hospitals"):
        files = sorted(Path(str(run_config["hospitals"])).glob("*/hospital.yaml"))
        return read_hospital(files[int(node_config["partition-id"]) % len(files)])
    raise StudyError("Expected a node that is started with --node-config 'hospital=\"/…/hospital.yaml\"'; found none.")


def answer(records: RecordDict, study_file: Path, context: Context) -> Envelope:
    """Do the task of a message; what goes wrong becomes a reason that tells nothing of patients or files."""
    asked = Envelope(Identity("", "", ""), "", 0, 0)
    try:
        asked = opened(records)
        file = hospital_of(context.node_config, context.run_config)
        study = parse_study(read_mapping(study_file), "the study of the app")
        with logged(study, file, asked) as entry:
            require_approved(study, file)
            require_study(study, asked)
            return do(study, file, asked, entry)
    except Exception as error:
        reason = told(error)
        _log(error, reason)
    return Envelope(asked.identity, asked.kind, asked.round, asked.wave, lost=reason)


@contextmanager
def logged(study: Study, file: HospitalFile, asked: Envelope) -> Iterator[dict[str, Any]]:
    """Write into the hospital's own audit log what it was asked for, and what left or why nothing did."""
    identity = asked.identity
    entry: dict[str, Any] = {"kind": asked.kind, "round": asked.round, "wave": asked.wave}
    entry |= {"run": identity.run, "model": identity.model, "site": file.site, "code_and_study": approval(study)}
    try:
        yield entry
    except Exception as error:
        with suppress(HilumError):  # the first error is the one to tell
            AuditLog(file.memory / AUDIT_LOG).add([entry | {"outcome": told(error)}])
        raise
    AuditLog(file.memory / AUDIT_LOG).add([entry | {"outcome": SENT}])


def do(study: Study, file: HospitalFile, asked: Envelope, entry: dict[str, Any]) -> Envelope:
    """Load the hospital's images and do the task; say in ``entry`` what leaves. Raises ``HilumError``."""
    import torch

    from hilum.allocator import keep_freed_memory
    from hilum.study.arms import choose_device, model_keys, new_model, workers_of
    from hilum.study.directory import RunDirectory
    from hilum.study.flower.handout import HAND_OUT, take

    if study.training.threads:
        torch.set_num_threads(study.training.threads)
    keep_freed_memory()
    identity = asked.identity
    site = own_site(study, file)
    keys = {key.path.as_posix(): key for key in model_keys(study, [])}
    if identity.model not in keys or not identity.run.isalnum() or asked.payload is None:
        raise TrainingError(f"Expected a task for a model of the study; found '{identity.model}'.")
    key = keys[identity.model]
    memory = RunDirectory(file.memory / identity.run)
    model = new_model(study, key.seed).to(choose_device(study))
    (worker,) = workers_of(study, key, [site], model, memory, study.training.precision, {})
    task = task_of(asked.payload)
    if (task.kind, task.round, task.wave) != (asked.kind, asked.round, asked.wave):
        raise TrainingError("Expected the task that its envelope names; found another.")
    reply = take(worker, task, study, key, memory) if task.kind == HAND_OUT else worker.do(task)
    sent, masked = size(reply.state) + size(reply.extra), task.kind == "train" and worker.secure is not None
    entry |= {"images": reply.counts.images, "bytes": sent, "sha256": contribution(reply), "masked": masked}
    return Envelope.of(identity, task, reply_payload(reply))


def require_study(study: Study, asked: Envelope) -> None:
    """Refuse a task of another study than the app's (``TrainingError``)."""
    if asked.identity.study != study_digest(study):
        raise TrainingError("Expected a task of the study that came with the app; found one of another study.")


def _log(error: Exception, reason: str) -> None:
    """Write what happened to the node's log; an error's own words may hold a file name, and stay out of it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    words = f" {error}" if isinstance(error, NotApproved) else ""
    print(
        f"hilum: {reason}{words} ({type(error).__name__}, {Path(place.filename).name}:{place.lineno})", file=sys.stderr
    )


def told(error: BaseException) -> str:
    """Return what the server is told of an error: its kind, and its words only where they are made of figures."""
    if isinstance(error, NotApproved):
        return "it has not approved this code and study."
    if isinstance(error, TrainingError):
        return str(error)
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in NO_ROOM:
        return "its disk is full."
    if isinstance(error, DataError | StudyError):
        return f"its images or labels do not meet the study's requirements; {CHECK} there says more."
    if isinstance(error, RunError):
        return f"what it keeps of the run cannot be used; {SEE_LOG}"
    return f"{type(error).__name__} in its app; {SEE_LOG}"
