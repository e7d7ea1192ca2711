"""The arms of a study: local, pooled and federated, all by the same round loop at the same budget."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hilum.allocator import keep_freed_memory
from hilum.errors import RunError, StudyError
from hilum.federation.aggregation import own_rows
from hilum.federation.audit import AuditLog
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import ServerState
from hilum.federation.rounds import Federation, OnCounts, last_round, unchecked
from hilum.federation.runtimes.base import Runtime, Tell
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.runtimes.processes import Processes
from hilum.federation.strategies.base import Strategy
from hilum.federation.strategies.fedavg import HEADS_OF
from hilum.federation.worker import Worker
from hilum.findings.taxonomy import ancestors
from hilum.models import INITIALIZATIONS, NECKS
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.site_heads import HOME, SiteHeads
from hilum.models.taxonomy import Taxonomy
from hilum.randomness import derive_seed, torch_generator
from hilum.sites.examples import Examples
from hilum.sites.site import Site
from hilum.study.approval import approval
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.federations import (
    build_compression,
    build_secure_sum,
    build_strategy,
    build_topology,
    build_worker,
    federation_spec,
    presence_of,
    rounds_plan,
)
from hilum.study.hospitals import cache_of, load_sites, training_sites
from hilum.study.shared import load_shared, shared_of_sites
from hilum.study.spec import Study
from hilum.study.watch import Watch
from hilum.training.loop import autocast, trained_norms
from hilum.training.state import State, copy_state, load_facts, load_state, save_state

WEIGHTS = "model.safetensors"
SITE_HEADS = "site_heads.safetensors"
OWN_ROWS = "own_rows"  # which rows of the head are a site's own
TRAIN_AGAIN = "Remove the folder and run the study again with --resume."


def model_keys(study: Study, sites: Sequence[Site]) -> Iterator[ModelKey]:
    """Yield every model of a study, seed by seed; ``sites`` are those that train."""
    for seed in study.seeds:
        for arm in study.arms:
            for name in [site.name for site in sites] if arm == "local" else [arm]:
                yield ModelKey(seed, arm, name)


def new_model(study: Study, seed: int) -> LocalizingClassifier:
    """Return the classifier of a study with the initial weights of a seed, the same in every arm.

    Raises ``StudyError`` where backbone, neck or pooling cannot be made with the options of the study.
    """
    spec = study.model
    backbone, pooling, neck = (part.model_dump() for part in (spec.backbone, spec.pooling, spec.neck))
    try:
        model = build_model(backbone, pooling, len(study.findings), derive_seed(seed, "weights"), neck)
    except ValueError as error:
        raise StudyError(f"model.{error}.") from error
    model.taxonomy = Taxonomy(study.findings) if spec.taxonomy else None
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def require_effect(study: Study) -> None:
    """Refuse options that would be silently off (``StudyError``); a run of an older hilum may have such."""
    if study.model.taxonomy and not any(a in study.findings for name in study.findings for a in ancestors(name)):
        raise StudyError(
            "Expected a finding that is a kind of another, such as Nodule beside Nodule/Mass, for model.taxonomy; "
            f"found {', '.join(study.findings)}. Leave model.taxonomy out."
        )
    model, rounds = initial_model(study, study.seeds[0]), study.training.rounds
    if (study.training.batch == 1 or not study.training.updates) and trained_norms(model) and _cells(model, study) == 1:
        raise StudyError(
            f"Expected a map of several cells, or batches of two images and more, to normalize over; with "
            f"{study.images.size} px it has one cell, and with training.batch {study.training.batch} and "
            f"training.updates {study.training.updates} a batch may hold one image. Give larger images, a finer trunk, "
            "or updates."
        )
    neck = model.neck
    if neck.sums and not any(neck.counts_in(round_, rounds) for round_ in range(1, rounds + 1)):
        raise StudyError(
            f"Expected a round in which model.neck {study.model.neck.name} counts what surrounds a finding; its "
            f"iterations and training.rounds {rounds} give none. Give 2 or more of both."
        )


def most_patients(study: Study, sites: Sequence[Site]) -> dict[str, int]:
    """Return arm → the most training patients of one participant who show one finding."""
    shown = np.stack([Examples.of([site], "train").patients().sum(0) for site in sites])
    return {arm: int((shown.sum(0) if arm == "pooled" else shown).max()) for arm in study.arms}


def require_confounders(study: Study, most: Mapping[str, int]) -> None:
    """Refuse a neck that sums up what surrounds findings where too few patients show any (``StudyError``).

    ``most``: of ``most_patients``, or no less.
    """
    neck = NECKS.load(study.model.neck.name)
    idle = [arm for arm, patients in most.items() if neck.sums and patients < neck.least]
    if idle:
        raise StudyError(
            f"Expected {neck.least} training patients of one hospital who show a finding, for model.neck "
            f"{study.model.neck.name} to learn what surrounds it; in {', '.join(idle)} there are at most "
            f"{max(most[arm] for arm in idle)}. Choose another neck, or findings that more patients have."
        )


def _cells(model: LocalizingClassifier, study: Study) -> int:
    """Return how many cells the map of an image has."""
    side = study.images.size
    with torch.no_grad():
        return int(model.eval().features(torch.zeros(1, 1, side, side)).shape[2:].numel())


def initial_model(study: Study, seed: int) -> LocalizingClassifier:
    """Return the classifier of ``new_model`` with what its trunk takes from a donor.

    Raises ``StudyError`` for a donor that cannot be read, or that is of another trunk.
    """
    model, spec = new_model(study, seed), study.model.initialization
    if spec.name == "none":
        return model
    try:
        initialize = INITIALIZATIONS.load(spec.name)(**(spec.model_extra or {}))
        state = load_state(Path(initialize.donor))
        trunk = {k.removeprefix("backbone."): tensor for k, tensor in state.items() if k.startswith("backbone.")}
        initialize(model.backbone, trunk, torch_generator(seed, "initialization"))
    except (TypeError, ValueError) as error:
        raise StudyError(f"model.initialization: {error}.") from error
    except RunError:
        raise StudyError(
            f"Expected model.initialization.donor to be weights that a study wrote (model.safetensors); could not read "
            f"{initialize.donor}."
        ) from None
    return model


def train_model(
    study: Study,
    key: ModelKey,
    sites: Sequence[Site],
    run: RunDirectory,
    precision: str,
    watch: Watch,
    shared: Mapping[str, Site] | None = None,
) -> None:
    """Train one model, from its last checkpoint if there is one, and write its final weights; ``watch`` is told.

    'local' is a federation of one site and 'pooled' one participant that holds everybody's images. ``shared``: the
    set that the sites of an arm mix with their own images, by arm.
    """
    model = initial_model(study, key.seed).to(run_device(run))
    names = sorted(participants(key, sites))
    with open_runtime(study, key, sites, model, run, precision, shared or {}, watch.waits) as runtime:
        server = run_rounds(study, key, names, model, runtime, run, watch)
    strategy = build_strategy(federation_spec(study, key.arm), model.state_groups())
    for name in names:
        write_own(run, key, name, strategy, server)
    write_model(run.model(key), key, server)


def run_rounds(
    study: Study,
    key: ModelKey,
    names: Sequence[str],
    model: LocalizingClassifier,
    runtime: Runtime,
    run: RunDirectory,
    watch: Watch,
    on_counts: OnCounts = unchecked,
    run_id: str = "",
) -> ServerState:
    """Run a model's rounds over the participants behind a runtime, from its last checkpoint or from ``model``.

    ``run_id``: of a run between hospitals, in the audit log.
    """
    groups, spec = model.state_groups(), federation_spec(study, key.arm)
    strategy, topology = build_strategy(spec, groups), build_topology(spec, names)
    compression, plan = build_compression(spec, groups), rounds_plan(study, spec, key.seed)
    secure = build_secure_sum(spec, groups)
    audit = AuditLog(run.audit_log, {"run": run_id, "model": key.path.as_posix(), "code_and_study": approval(study)})
    federation = Federation(strategy, topology, compression, runtime, plan, on_counts, secure, audit.add)
    run.forget_rounds(key, last_round(run.rounds(key)))
    watch.begins(key.path.as_posix(), last_round(run.rounds(key)))

    def on_round(record: dict[str, Any]) -> None:
        run.log_round(key, record)
        watch.round_done(record)

    return federation.run(copy_state(model), run.rounds(key), on_round)


def open_runtime(
    study: Study,
    key: ModelKey,
    sites: Sequence[Site],
    model: LocalizingClassifier,
    run: RunDirectory,
    precision: str,
    shared: Mapping[str, Site],
    tell: Tell,
) -> AbstractContextManager[Runtime]:
    """Return the runtime of a model's training: this process, or as many as the study asks for."""
    spec, names = federation_spec(study, key.arm), sorted(participants(key, sites))
    presence = presence_of(spec, names)
    if min(spec.processes, len(names)) == 1:
        return nullcontext(InProcess(workers_of(study, key, sites, model, run, precision, shared), presence, tell))
    crew = Crew(study, key, run, precision, torch.get_num_threads())
    return Processes(crew, names, spec.processes, presence, tell)


@dataclass(frozen=True)
class Crew:
    """Makes the workers of a model anew in another process, from the study, with as many threads as here."""

    study: Study
    key: ModelKey
    run: RunDirectory
    precision: str
    threads: int

    def __call__(self) -> list[Worker]:
        """Return the workers."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        cache = cache_of(self.study)
        sites = load_sites(self.study, cache)
        shared = load_shared(self.study, sites, cache, [self.key.arm])
        model = new_model(self.study, self.key.seed).to(run_device(self.run))
        return workers_of(self.study, self.key, training_sites(sites), model, self.run, self.precision, shared)


def workers_of(
    study: Study,
    key: ModelKey,
    sites: Sequence[Site],
    model: LocalizingClassifier,
    run: RunDirectory,
    precision: str,
    shared: Mapping[str, Site],
) -> list[Worker]:
    """Return the participants of a model at work; they share ``model`` as scratch space."""
    beside = shared_of_sites(study, key.arm, key.seed, sites, shared)
    return [
        build_worker(study, key, name, group, model, precision, memory_of(run, key, name), beside.get(name))
        for name, group in participants(key, sites).items()
    ]


def memory_of(run: RunDirectory, key: ModelKey, name: str) -> Path:
    """Return the folder in which a participant keeps what it remembers."""
    return run.rounds(key) / f"site_{name}"


def write_own(run: RunDirectory, key: ModelKey, name: str, strategy: Strategy, server: ServerState) -> None:
    """Write what a participant lays over the final weights, where it keeps anything of them to itself."""
    kept = SiteMemory(memory_of(run, key, name)).at(server.taken_of(name))
    state = strategy.own_of_model(server.state, kept, server.counts[name]) if kept else {}
    state |= {HOME: kept[HOME]} if HOME in kept else {}
    if state:
        save_state(run.model(key) / own_file(name), state, {OWN_ROWS: own_rows(server.counts[name]).tolist()})


def is_trained(run: RunDirectory, key: ModelKey) -> bool:
    """Tell whether a run holds the final weights of a model, which are written last of it."""
    return (run.model(key) / WEIGHTS).is_file()


def own_file(name: str) -> str:
    """Return the name of the file in which a model holds what a site lays over its weights."""
    return f"site_{name}.safetensors"


def write_model(folder: Path, key: ModelKey, server: ServerState) -> None:
    """Write the final weights of a model, and beside them the heads of the sites where they have their own."""
    heads = {n.removeprefix(HEADS_OF): t for n, t in server.extra.items() if n.startswith(HEADS_OF)}
    if heads:
        save_state(folder / SITE_HEADS, heads)
    beside = sorted({path.name for path in folder.glob("*.safetensors")} - {WEIGHTS})
    save_state(folder / WEIGHTS, server.state, {"model": key.path.as_posix(), "beside": beside})


def participants(key: ModelKey, sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Return who takes part in training a model, and on whose images."""
    if key.arm == "local":
        return {site.name: [site] for site in sites if site.name == key.model}
    if key.arm == "pooled":
        return {"pooled": list(sites)}
    return {site.name: [site] for site in sites}


def load_model(study: Study, run: RunDirectory, key: ModelKey, site: str | None = None) -> LocalizingClassifier:
    """Return a trained model, with what it keeps at ``site``: statistics, head rows.

    Where hospitals have rows of their own, those of the others speak of what ``site`` has no row for. Raises
    ``RunError`` where a file of the model is absent or damaged.
    """
    model, folder = new_model(study, key.seed), run.model(key)
    state: State = load_state(folder / WEIGHTS)
    for name in load_facts(folder / WEIGHTS).get("beside", []):
        if not (folder / name).is_file():
            raise RunError(f"Expected {folder / name} beside the weights; the file is absent. {TRAIN_AGAIN}")
    own = torch.zeros(len(study.findings), dtype=torch.bool)
    try:
        if site is not None and (folder / own_file(site)).is_file():
            state |= load_state(folder / own_file(site))
            own = torch.tensor(load_facts(folder / own_file(site)).get(OWN_ROWS, own.tolist()))
        home = state.pop(HOME, None)
        if (folder / SITE_HEADS).is_file():
            model.site_heads = SiteHeads(load_state(folder / SITE_HEADS), site, {"own": own, **state})
            if home is not None:
                model.site_heads.settle(home)
        model.load_state_dict(state, strict=True)
    except (KeyError, RuntimeError):
        raise RunError(f"Expected weights of the study's model in {folder}; found others. {TRAIN_AGAIN}") from None
    return model.eval()


def trained_findings(key: ModelKey, sites: Sequence[Site]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which findings (C,) the model has seen labels of; it says nothing of the others."""
    groups = participants(key, sites).values()
    targets = [site.targets[site.indices("train")] for group in groups for site in group]
    return np.array((~np.isnan(np.concatenate(targets))).any(0))


def choose_device(study: Study) -> torch.device:
    """Return where the study computes: 'auto' takes a GPU where there is one. Raises ``StudyError``."""
    wanted = study.training.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StudyError("Expected a GPU for training.device 'cuda'; torch finds none. Use 'auto' or 'cpu'.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def run_device(run: RunDirectory) -> torch.device:
    """Return where a run was begun; raises ``RunError`` where it is no longer."""
    device = torch.device(str(run.fact("machine", "device")))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(
            f"Expected a GPU, on which {run.root} was begun; torch finds none. Go on where there is one, or start the "
            "run again with another --out."
        )
    return device


def choose_precision(study: Study) -> str:
    """Return the study's precision; 'auto' times one update each way and takes the faster."""
    if study.training.precision != "auto":
        return study.training.precision
    device = choose_device(study)
    model = new_model(study, study.seeds[0]).to(device).train()
    images = torch.rand(study.training.batch, 1, study.images.size, study.images.size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            with autocast(device, "bfloat16" if enabled else "float32"):
                logits = model(images).logits
            logits.float().sum().backward()
            float(next(model.head.parameters()).sum())
            times.append(time.perf_counter() - started)
        return min(times)

    return "bfloat16" if seconds(True) < 0.9 * seconds(False) else "float32"
