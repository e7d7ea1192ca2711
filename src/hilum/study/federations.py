"""From a study to a federation: strategy, topology, compression, and the sites at work. The same in every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hilum.errors import StudyError
from hilum.federation.compression import COMPRESSIONS
from hilum.federation.compression.base import Compression
from hilum.federation.memory import SiteMemory
from hilum.federation.messages import share_of
from hilum.federation.rounds import RoundsPlan
from hilum.federation.runtimes.in_process import Presence
from hilum.federation.secure_sum import SecureSum
from hilum.federation.strategies import STRATEGIES
from hilum.federation.strategies.base import Strategy
from hilum.federation.topology import TOPOLOGIES
from hilum.federation.topology.star import Star
from hilum.federation.worker import Worker
from hilum.images.augmentation import Augmentation
from hilum.models.classifier import LocalizingClassifier, StateGroup
from hilum.sites.examples import Examples
from hilum.sites.site import Site
from hilum.study.directory import ModelKey
from hilum.study.sections import NamedOptions
from hilum.study.spec import Study
from hilum.study.spec_federation import FederationSpec
from hilum.training.cell_losses import CELL_LOSSES
from hilum.training.loop import LocalTrainer, TrainingPlan
from hilum.training.optimizers import OptimizerPlan

ALONE = ("local", "pooled")  # arms of one participant


def federation_spec(study: Study, arm: str) -> FederationSpec:
    """Return how an arm learns; one participant alone is plain training, whatever the strategy of the others."""
    spec = study.federation_of(arm)
    if arm not in ALONE:
        return spec
    kept = {"tau", "weighting", "normalization", "head", "patience"}
    return FederationSpec(**spec.model_dump(include=kept))


def build_strategy(spec: FederationSpec, groups: Mapping[str, StateGroup]) -> Strategy:
    """Return the strategy of a federation over the tensors of ``groups``."""
    common = spec.model_dump(include={"tau", "normalization", "weighting", "head"})
    strategy: Strategy = STRATEGIES.load(spec.strategy.name)(groups, **common, **_options(spec.strategy))
    return strategy


def build_topology(spec: FederationSpec, sites: Sequence[str]) -> Star:
    """Return the topology of a federation; raises ``StudyError`` where it does not fit the strategy or the sites."""
    topology: Star = TOPOLOGIES.load(spec.topology.name)(**_options(spec.topology))
    topology.check(spec.strategy.name, sites)
    return topology


def check_federations(study: Study, sites: Sequence[str]) -> None:
    """Refuse, before anything is trained, an arm whose topology or presence names other sites (``StudyError``)."""
    for arm in study.arms:
        spec = federation_spec(study, arm)
        if arm not in ALONE:
            build_topology(spec, sites)
        if spec.secure_sum:
            _require_sums(study, spec, arm, sites)
        strangers = sorted(set(spec.presence) - set(sites))
        if strangers:
            raise StudyError(
                f"Expected sites among {', '.join(sites)} in the presence of '{arm}'; found {', '.join(strangers)}."
            )


def _require_sums(study: Study, spec: FederationSpec, arm: str, sites: Sequence[str]) -> None:
    """Refuse rounds of one site, whose update the sum would be, and sums of masks that few images show."""
    presence = presence_of(spec, sites)
    for round_ in range(1, study.training.rounds + 1):
        present = sum(round_ in presence[site] for site in sites)
        if share_of(spec.participation, present) < 2:
            raise StudyError(
                f"Expected two sites or more in every round of '{arm}', whose secure sum is of one update otherwise; "
                f"round {round_} has {present}, of which {spec.participation:g} take part. Change "
                "federation.participation or federation.presence."
            )
    if study.model.neck.name == "conta":
        raise StudyError(
            f"Expected no neck 'conta' in '{arm}', whose secure sum would tell the sums of masks of a hospital that "
            "alone has a finding. Choose another neck, or leave federation.secure_sum out."
        )


def build_compression(spec: FederationSpec, groups: Mapping[str, StateGroup]) -> Compression:
    """Return what makes updates smaller; what a site trains from values of its own is no update of the server's."""
    whole = build_strategy(spec, groups).private
    compression: Compression = COMPRESSIONS.load(spec.compression.name)(groups, whole, **_options(spec.compression))
    return compression


def build_secure_sum(spec: FederationSpec, groups: Mapping[str, StateGroup]) -> SecureSum | None:
    """Return what hides the updates from the server; None where the study does not ask for it."""
    return SecureSum(groups, spec.head == "site") if spec.secure_sum else None


def rounds_plan(study: Study, spec: FederationSpec, seed: int) -> RoundsPlan:
    """Return how the rounds of a federation go."""
    training = study.training
    return RoundsPlan(training.rounds, training.validate_every, spec.patience, spec.participation, spec.quorum, seed)


def presence_of(spec: FederationSpec, names: Sequence[str]) -> dict[str, Presence]:
    """Return in which rounds each participant is there."""
    known = {name: Presence(p.first, p.last) for name, p in spec.presence.items()}
    return {name: known.get(name, Presence()) for name in names}


def training_plan(study: Study, spec: FederationSpec, group: int, precision: str) -> TrainingPlan:
    """Return the plan of a participant that holds the images of ``group`` sites: as many updates as they all."""
    training = study.training
    return TrainingPlan(
        rounds=training.rounds,
        updates=training.updates * group if training.updates else None,
        epochs=training.epochs,
        batch=training.batch,
        optimizer=OptimizerPlan(**training.optimizer.model_dump()),
        augmentation=Augmentation(training.augmentation.strength, training.augmentation.flip),
        loss=training.loss.name,
        loss_options=_options(training.loss),
        conditional=training.conditional,
        cell_loss=CELL_LOSSES.load(training.cell_loss.name)(**_options(training.cell_loss)),
        prior_correction=training.prior_correction,
        precision=precision,
        freeze_norm=spec.normalization == "frozen",
        tau=spec.tau,
        weighting=spec.weighting,
    )


def build_worker(
    study: Study,
    key: ModelKey,
    name: str,
    group: Sequence[Site],
    model: LocalizingClassifier,
    precision: str,
    memory: Path,
    shared: Examples | None = None,
) -> Worker:
    """Return a participant at work: ``group``, the sites whose images it holds; ``memory``, the folder it keeps.

    ``shared``: what it trains on beside its own images, in proportion to their numbers.
    """
    spec, groups = federation_spec(study, key.arm), model.state_groups()
    plan = training_plan(study, spec, len(group), precision)
    if shared is not None:
        plan = replace(plan, tau=1.0, weighting="known")
    train, validation = Examples.of(group, "train"), Examples.of(group, "val")
    if study.training.unknown == "negative":
        train, shared = train.unknown_negative(), shared and shared.unknown_negative()
    trainer = LocalTrainer(name, model, train, validation, plan, key.seed, shared)
    strategy, compression = build_strategy(spec, groups), build_compression(spec, groups)
    return Worker(trainer, SiteMemory(memory), strategy, compression, build_secure_sum(spec, groups))


def _options(value: NamedOptions) -> dict[str, Any]:
    return dict(value.model_extra or {})
