"""The study file: what is compared, on whose radiographs. Unknown keys are refused with a suggestion."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from hilum.databases import DATABASES
from hilum.errors import HilumError, StudyError
from hilum.federation.strategies import STRATEGIES
from hilum.findings.policy import LABEL_POLICIES, SOFT, LabelPolicy
from hilum.findings.taxonomy import Closure
from hilum.findings.vocabulary import require_finding
from hilum.images.fingerprint import NEAR
from hilum.models import BACKBONES, POOLINGS
from hilum.sites.partitioners import PARTITIONERS
from hilum.sites.site import FRONTAL
from hilum.study.mapping import Repeated, read_yaml
from hilum.study.mistakes import explain, suggestion
from hilum.training.losses import LOSSES

GIVEN = ("channels", "findings", "cls", "root", "labels_only")  # what a pooling or a database gets from hilum
ARMS = ("local", "pooled", "federated")


def _no_truth(value: Any) -> Any:
    """Refuse true and false where a number belongs: Python would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number; found {str(value).lower()}")
    return value


Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1), BeforeValidator(_no_truth)]


class Section(BaseModel):
    """A part of the study file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NamedOptions(BaseModel):
    """A registered name with its options: ``linear_softmax``, or ``{name: top_k, fraction: 0.1}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class PolicySpec(Section):
    """What uncertain and blank labels become: a name, or a name with its options and those of single findings."""

    name: str = "ignore"
    low: Annotated[float, Field(ge=0, le=1)] = SOFT[0]
    high: Annotated[float, Field(ge=0, le=1)] = SOFT[1]
    blank: Literal["unknown", "negative"] | None = None
    findings: dict[str, PolicySpec] = {}

    @model_validator(mode="after")
    def _ordered(self) -> PolicySpec:
        if self.low > self.high:
            raise ValueError(f"expected low at most high; found {self.low} and {self.high}")
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
        return {_checked(require_finding, name): policy for name, policy in findings.items()}

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
    views: Annotated[list[Literal["PA", "AP", "FRONTAL", "LATERAL", "unknown"]], Field(min_length=1)] = list(FRONTAL)  # type: ignore[arg-type]
    closure: Closure | None = None
    partition: NamedOptions | None = None

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: NamedOptions) -> NamedOptions:
        return _with_options(DATABASES, value)

    @field_validator("partition")
    @classmethod
    def _known_partitioner(cls, value: NamedOptions | None) -> NamedOptions | None:
        if value is not None:
            named = PARTITIONERS.load(_with_options(PARTITIONERS, value).name)
            options = signature(named).parameters.items()
            missing = [p for p, o in options if o.default is o.empty and p not in (value.model_extra or {})]
            if missing:
                raise ValueError(
                    f"'{value.name}' needs the option '{missing[0]}', as {{name: {value.name}, {missing[0]}: …}}"
                )
            _checked(lambda _: named(**(value.model_extra or {})), value.name)
        return value


class ImagesSpec(Section):
    """Pixels: side of the network's square input, percentiles of the normalization, the cache."""

    size: Annotated[int, Field(ge=32, le=2048)] = 128
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    high: Annotated[float, Field(gt=0, le=100)] = 99.5
    on_error: Literal["refuse", "leave_out"] = "refuse"
    cache: Path | None = None
    workers: Positive | None = None

    @model_validator(mode="after")
    def _ordered(self) -> ImagesSpec:
        if self.low >= self.high:
            raise ValueError(f"expected low below high; found {self.low} and {self.high}")
        return self


class SplitSpec(Section):
    """Patient split: seed and expected fractions of validation and test patients."""

    seed: int = 0
    val: Fraction = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25

    @model_validator(mode="after")
    def _leaves_training_patients(self) -> SplitSpec:
        if self.val + self.test >= 1:
            raise ValueError(f"expected val + test below 1; found {self.val} + {self.test}")
        return self


class ModelSpec(Section):
    """The localizing classifier."""

    backbone: NamedOptions = NamedOptions(name="residual")
    pooling: NamedOptions = NamedOptions(name="linear_softmax")

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: NamedOptions) -> NamedOptions:
        return _with_options(BACKBONES, value)

    @field_validator("pooling")
    @classmethod
    def _known_pooling(cls, value: NamedOptions) -> NamedOptions:
        return _with_options(POOLINGS, value)


class AugmentationSpec(Section):
    """Strength 0 is none; flip mirrors half of the images."""

    strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    flip: bool = True


class OptimizerSpec(Section):
    """AdamW or SGD, reset each round; the rate follows a cosine over rounds."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    head_lr: Annotated[float, Field(gt=0)] = 3.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    momentum: Fraction = 0.9
    clip: Annotated[float, Field(gt=0)] = 5.0


class TrainingSpec(Section):
    """Local training, the same for every arm. ``updates``: per site and round; null is one pass over the site."""

    rounds: Positive = 20
    updates: Positive | None = 20
    batch: Positive = 16
    optimizer: OptimizerSpec = OptimizerSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    loss: str = "masked_bce"
    prior_correction: Literal["none", "relative"] = "none"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_every: Positive = 5
    threads: Positive | None = None

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        return _named(LOSSES, name)


class FederationSpec(Section):
    """How replies become one model.

    ``tau``: sites weigh n^tau, in the aggregation and in the pooled draw. ``weighting``: n counts known labels,
    or their contrast, positives × negatives / known. ``normalization``: what becomes of batch statistics. ``head``:
    whether hospitals share the rows of the head.
    """

    strategy: str = "fedavg"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.5
    weighting: Literal["known", "contrast"] = "known"
    normalization: Literal["averaged", "site", "recalibrated", "frozen"] = "averaged"
    head: Literal["shared", "site"] = "shared"

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str) -> str:
        return _named(STRATEGIES, name)


class EvaluationSpec(Section):
    """Bootstrap resamples, mirror averaging, s.d. of the Gaussian that smooths maps (cells), IoU threshold."""

    resamples: Annotated[int, Field(ge=100)] = 1000
    flip: bool = True
    smoothing: Annotated[float, Field(ge=0)] = 0.7
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    gallery: Annotated[int, Field(ge=0)] = 4


class Study(Section):
    """A study: sites × arms × seeds → one run directory."""

    name: str
    findings: Annotated[list[str], Field(min_length=1)]
    sites: Annotated[dict[str, SiteSpec], Field(min_length=1)]
    arms: Annotated[list[Literal["local", "pooled", "federated"]], Field(min_length=1)] = list(ARMS)  # type: ignore[arg-type]
    seeds: Annotated[list[Annotated[int, BeforeValidator(_no_truth)]], Field(min_length=1)] = [0]
    label_policy: PolicySpec = PolicySpec()
    closure: Closure = "none"
    overlap: OverlapSpec = OverlapSpec()
    images: ImagesSpec = ImagesSpec()
    split: SplitSpec = SplitSpec()
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
    federation: FederationSpec = FederationSpec()
    evaluation: EvaluationSpec = EvaluationSpec()

    @field_validator("findings", "arms", "seeds")
    @classmethod
    def _once(cls, names: list[Any]) -> list[Any]:
        twice = [str(name) for k, name in enumerate(names) if name in names[:k]]
        if twice:
            raise ValueError(f"expected every entry once; found {', '.join(twice)} twice")
        return names

    @field_validator("findings")
    @classmethod
    def _vocabulary(cls, names: list[str]) -> list[str]:
        return [_checked(require_finding, name) for name in names]

    @field_validator("sites")
    @classmethod
    def _site_names(cls, sites: dict[str, SiteSpec]) -> dict[str, SiteSpec]:
        for name in sites:
            if not name.replace("-", "").replace("_", "").isalnum() or name in (
                "pooled",
                "federated",
                "macro",
            ):
                raise ValueError(
                    "expected a name of letters, digits, '-' and '_' that is not 'pooled', 'federated' or 'macro'; "
                    f"found '{name}'"
                )
        if all(site.role == "outside" for site in sites.values()):
            raise ValueError("expected at least one site with the role 'training'; found none")
        return sites

    @field_validator("name")
    @classmethod
    def _usable_name(cls, name: str) -> str:
        """The name is the run's folder where no other is given."""
        if not name.strip() or name in (".", "..") or set(name) & set('/\\:*?"<>|'):
            raise ValueError(f"expected a name that a folder can have; found '{name}'")
        return name


def load_study(path: Path, overrides: list[str] | None = None, folder: Path | None = None) -> Study:
    """Read a study file, apply ``a.b=c`` overrides, resolve paths against ``folder`` or, without one, its own.

    Raises ``StudyError``.
    """
    content = read_mapping(path)
    for override in overrides or []:
        _override(content, override)
    study = parse_study(content, str(path))
    folder = folder.resolve() if folder else path.resolve().parent
    sites = {n: s.model_copy(update={"root": _resolved(folder, s.root)}) for n, s in study.sites.items()}
    images = study.images
    if images.cache is not None:
        images = images.model_copy(update={"cache": _resolved(folder, images.cache)})
    return study.model_copy(update={"sites": sites, "images": images})


def _resolved(folder: Path, path: Path) -> Path:
    return (folder / path.expanduser()).resolve()


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the YAML mapping of a study file; raises ``StudyError``."""
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"Expected a study file at {path}; there is none.") from None
    except OSError as error:
        raise StudyError(f"Expected a study file at {path}; the system says: {error.strerror}.") from None
    except Repeated as error:
        raise StudyError(f"Expected every key once in {path}; found {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"Expected YAML in {path}; found: {error}") from None
    if not isinstance(content, dict) or not content:
        raise StudyError(f"Expected a study (name, findings, sites, …) in {path}; the file is empty or no mapping.")
    return content


def parse_study(content: dict[str, Any], source: str) -> Study:
    """Check the content of a study file; raises ``StudyError`` that names every wrong key."""
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        lines = "\n".join(f"  {explain(e, Study)}" for e in error.errors())
        raise StudyError(f"{source} cannot be run as written:\n{lines}") from None


def dump_study(study: Study) -> str:
    """Return the resolved study as YAML, every default filled in."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise StudyError(f"Expected --set KEY=VALUE, such as training.rounds=10; found '{override}'.")
    *parents, last = key.split(".")
    for parent in parents:
        child = content.setdefault(parent, {})
        if isinstance(child, str):
            child = content[parent] = {"name": child}
        if not isinstance(child, dict):
            raise StudyError(f"Expected a section at '{parent}' of --set {override}; found {child!r}.")
        content = child
    try:
        content[last] = read_yaml(value)
    except Repeated as error:
        raise StudyError(f"Expected every key once in --set {override}; found {error}") from None
    except yaml.YAMLError:
        raise StudyError(f"Expected a YAML value in --set {override}; found {value!r}.") from None


def _checked(check: Any, name: str) -> str:
    try:
        return str(check(name))
    except HilumError as error:
        raise ValueError(str(error)) from None


def _with_options(registry: Any, value: NamedOptions) -> NamedOptions:
    """Check the name, and that what it names takes the options."""
    _named(registry, value.name)
    known: list[str] = []
    for option in value.model_extra or {}:
        named = registry.load(value.name)
        known = known or [p for p in signature(getattr(named, "read", named)).parameters if p not in GIVEN]
        if option not in known:
            raise ValueError(f"'{value.name}' has no option '{option}'.{suggestion(option, known)}")
    return value


def _named(registry: Any, name: str) -> str:
    _checked(registry.__getitem__, name)
    return name
