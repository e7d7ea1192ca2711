"""The sections of a study file that say whose radiographs it is about: sites, their labels, what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hilum.databases import DATABASES
from hilum.findings.policy import LABEL_POLICIES, SOFT, LabelPolicy
from hilum.findings.taxonomy import Closure
from hilum.findings.vocabulary import require_finding
from hilum.images.fingerprint import NEAR
from hilum.sites.partitioners import PARTITIONERS
from hilum.sites.site import FRONTAL
from hilum.study.mistakes import suggestion
from hilum.study.sections import NamedOptions, Section, checked, with_options

Share = Annotated[float, Field(ge=0, le=1)]


class PolicySpec(Section):
    """What uncertain and blank labels become: a name, or a name with its options and those of single findings."""

    name: str = "ignore"
    low: Share = SOFT[0]
    high: Share = SOFT[1]
    blank: Literal["unknown", "negative"] | None = None
    findings: dict[str, PolicySpec] = Field(default={})

    @model_validator(mode="after")
    def _ordered(self) -> PolicySpec:
        if self.low > self.high:
            low, high = (
                f"{key} {getattr(self, key):g}{'' if key in self.model_fields_set else ' (the default)'}"
                for key in ("low", "high")
            )
            raise ValueError(f"expected low at most high; found {low} and {high}. Set both, the lesser as low")
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        name = value.get("name", "ignore") if isinstance(value, dict) else value
        if isinstance(name, str) and name not in LABEL_POLICIES:
            known = list(LABEL_POLICIES)
            found = f"expected a label policy among {', '.join(known)}; found '{name}'."
            raise ValueError(found + suggestion(name, known))
        return {"name": value} if isinstance(value, str) else value

    @field_validator("findings")
    @classmethod
    def _vocabulary(cls, findings: dict[str, PolicySpec]) -> dict[str, PolicySpec]:
        return {checked(require_finding, name): policy for name, policy in findings.items()}

    def policy(self) -> LabelPolicy:
        """Return the policy; blanks of a single finding follow the whole unless it speaks of them."""
        single = {name: spec.policy() for name, spec in self.findings.items()}
        return LabelPolicy(self.name, self.low, self.high, self.blank, single)


class OverlapSpec(Section):
    """Patients and images that two sites share: refuse the study, or remove them from the site listed later.

    ``near``: bits in which the perceptual hashes of two copies of an image differ at most; null compares none.
    """

    action: Literal["refuse", "remove"] = "refuse"
    near: Annotated[int, Field(ge=0, le=100)] | None = NEAR

    @model_validator(mode="before")
    @classmethod
    def _from_action(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value


class SiteSpec(Section):
    """One hospital: its database, where that lies (relative to the study file), and its role.

    ``views``: which images take part. ``partition`` cuts the database into several sites, '<name>-<part>'.
    """

    database: NamedOptions
    root: Path
    role: Literal["training", "outside"] = "training"
    label_policy: PolicySpec | None = None
    on_error: Literal["refuse", "leave_out"] | None = None
    views: list[Literal["PA", "AP", "FRONTAL", "LATERAL", "unknown"]] = Field(default=list(FRONTAL), min_length=1)  # type: ignore[arg-type]
    closure: Closure | None = None
    partition: NamedOptions | None = None

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: NamedOptions) -> NamedOptions:
        return with_options(DATABASES, value)

    @field_validator("partition")
    @classmethod
    def _known_partitioner(cls, value: NamedOptions | None) -> NamedOptions | None:
        if value is not None:
            value = with_options(PARTITIONERS, value)
            options = value.model_extra or {}
            checked(lambda name: PARTITIONERS.load(name)(**options), value.name)
        return value
