"""The arms of a study: local, pooled and federated, all by the same round loop at the same budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hilum.errors import RunError, StudyError
from hilum.federation.rounds import RoundsPlan, last_round, run_rounds
from hilum.federation.runtimes.in_process import InProcess
from hilum.federation.strategies import STRATEGIES
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, build_model
from hilum.models.site_heads import SiteHeads
from hilum.randomness import derive_seed
from hilum.sites.examples import Examples
from hilum.sites.site import Site
from hilum.study.directory import ModelKey, RunDirectory
from hilum.study.spec import Study
from hilum.training.loop import LocalTrainer, TrainingPlan
from hilum.training.optimizers import OptimizerPlan
from hilum.training.state import State, copy_state, load_facts, load_state, save_state

WEIGHTS = "model.safetensors"
SITE_HEADS = "site_heads.safetensors"
TRAIN_AGAIN = "Remove the folder and run the study again with --resume."


def model_keys(study: Study, sites: Sequence[Site]) -> Iterator[ModelKey]:
    """Yield every model of a study, seed by seed; ``sites`` are those that train."""
    for seed in study.seeds:
        for arm in study.arms:
            for name in [site.name for site in sites] if arm == "local" else [arm]:
                yield ModelKey(seed, arm, name)


def new_model(study: Study, seed: int) -> LocalizingClassifier:
    """Return the classifier of a study with the initial weights of a seed, the same in every arm.

    Raises ``StudyError`` where backbone or pooling cannot be made with the options of the study.
    """
    spec = study.model
    backbone, pooling = spec.backbone.model_dump(), spec.pooling.model_dump()
    try:
        model = build_model(backbone, pooling, len(study.findings), derive_seed(seed, "weights"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"Expected values that the backbone {backbone} and the pooling {pooling} take; it says: {error}."
        ) from error
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def train_model(
    study: Study,
    key: ModelKey,
    sites: Sequence[Site],
    run: RunDirectory,
    precision: str,
    advance: Callable[[], None],
) -> None:
    """Train one model, from its last checkpoint if there is one, and write its final weights.

    'local' is a federation of one site and 'pooled' one participant that holds everybody's images.
    """
    if (run.model(key) / WEIGHTS).is_file():
        return
    model = new_model(study, key.seed)
    initial = copy_state(model)
    options = study.federation.model_dump(exclude={"strategy"})
    strategy = STRATEGIES.load(study.federation.strategy)(model.state_groups(), **options)
    trainers = [
        LocalTrainer(
            name,
            model,
            Examples.of(group, "train"),
            Examples.of(group, "val"),
            training_plan(study, len(group), precision),
            key.seed,
        )
        for name, group in participants(key, sites).items()
    ]
    runtime = InProcess(strategy, trainers)

    run.forget_rounds(key, last_round(run.rounds(key)))

    def on_round(record: dict[str, Any]) -> None:
        run.log_round(key, record)
        advance()

    plan = RoundsPlan(study.training.rounds, study.training.validate_every)
    server = run_rounds(strategy, runtime, initial, plan, run.rounds(key), on_round)
    for name, state in runtime.site_states.items():
        if state:
            save_state(run.model(key) / f"site_{name}.safetensors", state)
    if server.extra:
        save_state(run.model(key) / SITE_HEADS, server.extra)
    beside = sorted(path.name for path in run.model(key).glob("*.safetensors"))
    save_state(run.model(key) / WEIGHTS, server.state, {"model": key.path.as_posix(), "beside": beside})


def participants(key: ModelKey, sites: Sequence[Site]) -> dict[str, list[Site]]:
    """Return who takes part in training a model, and on whose images."""
    if key.arm == "local":
        return {site.name: [site] for site in sites if site.name == key.model}
    if key.arm == "pooled":
        return {"pooled": list(sites)}
    return {site.name: [site] for site in sites}


def training_plan(study: Study, group: int, precision: str) -> TrainingPlan:
    """Return the plan of a participant that holds the images of ``group`` sites: as many updates as they all."""
    spec = study.training
    return TrainingPlan(
        rounds=spec.rounds,
        updates=spec.updates * group if spec.updates else None,
        batch=spec.batch,
        optimizer=OptimizerPlan(**spec.optimizer.model_dump()),
        augmentation=Augmentation(spec.augmentation.strength, spec.augmentation.flip),
        loss=spec.loss,
        prior_correction=spec.prior_correction,
        precision=precision,
        freeze_norm=study.federation.normalization == "frozen",
        tau=study.federation.tau,
        weighting=study.federation.weighting,
    )


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
    try:
        if site is not None and (folder / f"site_{site}.safetensors").is_file():
            state |= load_state(folder / f"site_{site}.safetensors")
        if (folder / SITE_HEADS).is_file():
            model.site_heads = SiteHeads(load_state(folder / SITE_HEADS), site)
        model.load_state_dict(state, strict=True)
    except (KeyError, RuntimeError):
        raise RunError(f"Expected weights of the study's model in {folder}; found others. {TRAIN_AGAIN}") from None
    return model.eval()


def trained_findings(key: ModelKey, sites: Sequence[Site]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which findings (C,) the model has seen labels of; it says nothing of the others."""
    groups = participants(key, sites).values()
    targets = [site.targets[site.indices("train")] for group in groups for site in group]
    return np.array((~np.isnan(np.concatenate(targets))).any(0))


def choose_precision(study: Study) -> str:
    """Return the study's precision; 'auto' times one update each way and takes the faster."""
    if study.training.precision != "auto":
        return study.training.precision
    model = new_model(study, study.seeds[0]).train()
    images = torch.rand(study.training.batch, 1, study.images.size, study.images.size)
    images = images.contiguous(memory_format=torch.channels_last)

    def seconds(enabled: bool) -> float:
        times = []
        for _ in range(3):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(images).logits
            logits.float().sum().backward()
            times.append(time.perf_counter() - started)
        return min(times)

    return "bfloat16" if seconds(True) < 0.9 * seconds(False) else "float32"
