"""The part of a study file that says how hospitals learn together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hilum.databases import DATABASES
from hilum.federation.compression import COMPRESSIONS
from hilum.federation.strategies import IMPLIED, STRATEGIES
from hilum.federation.topology import TOPOLOGIES
from hilum.study.sections import NamedOptions, Positive, Section, checked, with_options

Share = Annotated[float, Field(gt=0, le=1)]


class PresenceSpec(Section):
    """Rounds in which a site is there; null: to the end."""

    first: Positive = 1
    last: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> PresenceSpec:
        if self.last is not None and self.last < self.first:
            raise ValueError(f"expected last of at least first; found {self.last} and {self.first}")
        return self


class SharedSpec(Section):
    """A public or synthetic set that every site mixes with its own images (Zhao et al. 2018).

    ``share``: β, its size as a share of all training images. ``portion``: α, the part of it that each site gets.
    """

    database: NamedOptions
    root: Path
    share: Share = 0.05
    portion: Share = 1.0

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: NamedOptions) -> NamedOptions:
        return with_options(DATABASES, value)


class FederationSpec(Section):
    """How replies become one model.

    ``tau``: sites weigh n^tau, in the aggregation and in the pooled draw. ``weighting``: n counts known labels,
    or their contrast, positives × negatives / known. ``normalization``: what becomes of batch statistics. ``head``:
    whether hospitals share the rows of the head. ``participation``: share of the sites that train in a round.
    ``quorum``: share of those whose replies are enough. ``patience``: validations without a lower loss before
    training stops. ``presence``: rounds of sites that join late or leave. ``secure_sum``: whether the server learns the
    sum of the updates alone. ``processes``: sites that train at once.
    """

    strategy: NamedOptions = NamedOptions(name="fedavg")
    tau: Annotated[float, Field(ge=0, le=1)] = 0.5
    weighting: Literal["known", "contrast"] = "contrast"
    normalization: Literal["averaged", "site", "local", "recalibrated", "frozen"] = "site"
    head: Literal["shared", "site"] = "site"
    topology: NamedOptions = NamedOptions(name="star")
    compression: NamedOptions = NamedOptions(name="none")
    participation: Share = 1.0
    quorum: Share = 1.0
    patience: Positive | None = None
    presence: dict[str, PresenceSpec] = Field(default={})
    shared: SharedSpec | None = None
    secure_sum: bool = False
    processes: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, value: Any) -> Any:
        """Fill in what the name of the strategy says; refuse another value."""
        if not isinstance(value, dict):
            return value
        name, implied = _name_and_implied(value)
        for key, meant in implied.items():
            if value.get(key, meant) != meant:
                raise ValueError(f"expected {key} '{meant}', which '{name}' means; found '{value[key]}'")
        return value | implied

    @model_validator(mode="after")
    def _fits(self) -> FederationSpec:
        """Refuse what the strategy cannot do."""
        name = self.strategy.name
        if name == "iil" and (self.participation < 1 or self.presence):
            raise ValueError("expected every site in every round with 'iil', which goes once around; found fewer")
        if name == "iil" and self.patience is not None:
            raise ValueError("expected patience as an option of 'iil', as {name: iil, patience: 5}; found a common one")
        if self.secure_sum and (unfit := self._without_sum()):
            raise ValueError(f"expected no {unfit} with secure_sum, which tells a server the sum of all updates alone")
        return self

    def _without_sum(self) -> str | None:
        """Return what does not work where the server knows nothing but the sum of the updates."""
        cannot = {
            f"strategy '{self.strategy.name}'": not STRATEGIES.load(self.strategy.name).sums,
            f"topology '{self.topology.name}'": self.topology.name != "star",
            f"compression '{self.compression.name}'": self.compression.name != "none",
            f"quorum of {self.quorum:g}": self.quorum < 1,
            "normalization 'recalibrated'": self.normalization == "recalibrated",
        }
        return next((what for what, unfit in cannot.items() if unfit), None)

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: NamedOptions) -> NamedOptions:
        value = with_options(STRATEGIES, value)
        checked(lambda name: STRATEGIES.load(name)({}, **(value.model_extra or {})), value.name)
        return value

    @field_validator("topology")
    @classmethod
    def _known_topology(cls, value: NamedOptions) -> NamedOptions:
        value = with_options(TOPOLOGIES, value)
        checked(lambda name: TOPOLOGIES.load(name)(**(value.model_extra or {})), value.name)
        return value

    @field_validator("compression")
    @classmethod
    def _known_compression(cls, value: NamedOptions) -> NamedOptions:
        value = with_options(COMPRESSIONS, value)
        checked(lambda name: COMPRESSIONS.load(name)({}, **(value.model_extra or {})), value.name)
        return value


def merged(common: dict[str, Any], own: Any) -> Any:
    """Return ``own`` settings of a further federation over the ``common`` ones, less those its strategy decides."""
    if not isinstance(own or {}, dict):
        return own
    _, implied = _name_and_implied(own or {})
    return {key: setting for key, setting in common.items() if key not in implied} | (own or {})


def _name_and_implied(value: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    named = value.get("strategy", "fedavg")
    name = named.get("name") if isinstance(named, dict) else getattr(named, "name", named)
    return name, IMPLIED.get(name, {}) if isinstance(name, str) else {}
