"""The study file: what is compared, on whose radiographs. Unknown keys are refused with a suggestion."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from hilum.databases import DATABASES
from hilum.errors import StudyError
from hilum.findings.taxonomy import Closure
from hilum.findings.vocabulary import require_finding
from hilum.localization.localizers import LOCALIZERS
from hilum.models import BACKBONES, INITIALIZATIONS, NECKS, POOLINGS
from hilum.study.mapping import Repeated, read_yaml
from hilum.study.mistakes import explain, suggestion
from hilum.study.sections import Fraction, NamedOptions, Positive, Section, checked, no_truth, with_options
from hilum.study.spec_federation import FederationSpec, SharedSpec, merged
from hilum.study.spec_sites import OverlapSpec, PolicySpec, SiteSpec
from hilum.training.cell_losses import CELL_LOSSES
from hilum.training.losses import LOSSES

Source = TypeVar("Source", SiteSpec, SharedSpec)
ARMS = ("local", "pooled", "federated")
Adjust = Literal["none", "sites", "images"]


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


class BagSpec(Section):
    """The trunk of the backbone ``patch_bag``, named with its options as a backbone is."""

    trunk: NamedOptions

    @field_validator("trunk")
    @classmethod
    def _known_trunk(cls, value: NamedOptions) -> NamedOptions:
        if value.name == "patch_bag":
            raise ValueError("expected a backbone that sees crops whole; found 'patch_bag', a bag of bags")
        return with_options(BACKBONES, value)


class ModelSpec(Section):
    """The localizing classifier."""

    backbone: NamedOptions = NamedOptions(name="residual")
    neck: NamedOptions = NamedOptions(name="none")
    pooling: NamedOptions = NamedOptions(name="linear_softmax")
    initialization: NamedOptions = NamedOptions(name="none")
    taxonomy: bool = False

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: NamedOptions) -> NamedOptions:
        backbone = with_options(BACKBONES, value)
        if backbone.name != "patch_bag":
            return backbone
        bag = BagSpec(trunk=(backbone.model_extra or {})["trunk"])
        return backbone.model_copy(update=bag.model_dump())

    @field_validator("neck")
    @classmethod
    def _known_neck(cls, value: NamedOptions) -> NamedOptions:
        return with_options(NECKS, value)

    @field_validator("pooling")
    @classmethod
    def _known_pooling(cls, value: NamedOptions) -> NamedOptions:
        return with_options(POOLINGS, value)

    @field_validator("initialization")
    @classmethod
    def _known_initialization(cls, value: NamedOptions) -> NamedOptions:
        return with_options(INITIALIZATIONS, value)


class AugmentationSpec(Section):
    """Strength 0 is none; flip mirrors half of the images."""

    strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    flip: bool = True


class OptimizerSpec(Section):
    """AdamW or SGD, reset each round; the rate follows ``schedule`` over rounds."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    head_lr: Annotated[float, Field(gt=0)] = 3.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    momentum: Fraction = 0.9
    clip: Annotated[float, Field(gt=0)] = 5.0
    warmup: Annotated[int, Field(ge=0)] = 1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"


class TrainingSpec(Section):
    """Local training, the same for every arm. ``updates``: per site and round; null: ``epochs`` passes."""

    rounds: Positive = 20
    updates: Positive | None = 20
    epochs: Positive = 1
    batch: Positive = 16
    optimizer: OptimizerSpec = OptimizerSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    unknown: Literal["masked", "negative"] = "masked"
    loss: NamedOptions = NamedOptions(name="masked_bce")
    cell_loss: NamedOptions = NamedOptions(name="none")
    conditional: Fraction = 0.5
    prior_correction: Literal["none", "relative", "absolute"] = "none"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    validate_every: Positive = 5
    threads: Positive | None = None

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: NamedOptions) -> NamedOptions:
        value = with_options(LOSSES, value)
        LOSSES.load(value.name)(**(value.model_extra or {}))
        return value

    @field_validator("cell_loss")
    @classmethod
    def _known_cell_loss(cls, value: NamedOptions) -> NamedOptions:
        value = with_options(CELL_LOSSES, value)
        CELL_LOSSES.load(value.name)(**(value.model_extra or {}))
        return value


class EvaluationSpec(Section):
    """Bootstrap resamples, mirror averaging, what makes maps, s.d. of the Gaussian that smooths them (cells), cuts.

    ``gallery``: images shown of a finding; ``erased``: films of a site, and of each of its findings with boxes, that
    the model sees again with parts erased; 0: none. ``adjust``: what models adjust to at hospitals outside of training.
    """

    resamples: Annotated[int, Field(ge=100)] = 1000
    flip: bool = True
    smoothing: Annotated[float, Field(ge=0)] = 0.7
    threshold: float | Literal["otsu"] = 0.5
    gallery: Annotated[int, Field(ge=0)] = 4
    erased: Annotated[int, Field(ge=0)] = 200
    localizer: NamedOptions = NamedOptions(name="map")
    adjust: Adjust = "none"

    @field_validator("threshold", mode="before")
    @classmethod
    def _cut(cls, value: Any) -> Any:
        if value == "otsu":
            return value
        try:
            cut = float(no_truth(value))
        except (TypeError, ValueError):
            cut = 0.0
        if not 0 < cut < 1:
            raise ValueError(f"expected a number above 0 and below 1, or otsu; found {value!r}")
        return cut

    @field_validator("localizer")
    @classmethod
    def _known_localizer(cls, value: NamedOptions) -> NamedOptions:
        return with_options(LOCALIZERS, value)


class Study(Section):
    """A study: sites × arms × seeds → one run directory.

    ``federations``: further arms, each by name with what differs from ``federation``.
    """

    name: str
    findings: Annotated[list[str], Field(min_length=1)]
    sites: Annotated[dict[str, SiteSpec], Field(min_length=1)]
    arms: list[str] = Field(default=list(ARMS), min_length=1)
    seeds: list[Annotated[int, BeforeValidator(no_truth)]] = Field(default=[0], min_length=1)
    label_policy: PolicySpec = PolicySpec()
    closure: Closure = "none"
    overlap: OverlapSpec = OverlapSpec()
    images: ImagesSpec = ImagesSpec()
    split: SplitSpec = SplitSpec()
    model: ModelSpec = Field(default_factory=ModelSpec)
    training: TrainingSpec = Field(default_factory=TrainingSpec)
    federation: FederationSpec = Field(default_factory=FederationSpec)
    federations: dict[str, FederationSpec] = Field(default={})
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)

    @model_validator(mode="before")
    @classmethod
    def _further_arms(cls, value: Any) -> Any:
        """Give every further federation the settings of ``federation`` that it does not set itself."""
        if not isinstance(value, dict) or not isinstance(value.get("federations"), dict):
            return value
        common = value.get("federation") or {}
        if not isinstance(common, dict):
            return value
        return value | {"federations": {n: merged(common, own) for n, own in value["federations"].items()}}

    @model_validator(mode="after")
    def _known_arms(self) -> Study:
        known = [*ARMS, *self.federations]
        for arm in self.arms:
            if arm not in known:
                raise ValueError(f"expected known arms; found '{arm}'.{suggestion(arm, known)}")
        return self

    @model_validator(mode="after")
    def _masks_are_made(self) -> Study:
        if self.evaluation.localizer.name == "masks" and not NECKS.load(self.model.neck.name).segments:
            raise ValueError(
                "expected a model.neck that segments, such as conta, for evaluation.localizer masks; "
                f"found {self.model.neck.name}"
            )
        return self

    @field_validator("federations")
    @classmethod
    def _arm_names(cls, federations: dict[str, FederationSpec]) -> dict[str, FederationSpec]:
        for name in federations:
            if not name.replace("-", "").replace("_", "").isalnum() or name in (*ARMS, "macro"):
                raise ValueError(
                    f"expected a name of letters, digits, '-' and '_' that is none of {', '.join(ARMS)}; found '{name}'"
                )
        return federations

    def federation_of(self, arm: str) -> FederationSpec:
        """Return how the hospitals of an arm learn together."""
        return self.federations.get(arm, self.federation)

    def source_of(self, site: str) -> str:
        """Return the key of ``sites`` that becomes ``site``, whole or by its ``partition`` (``StudyError``)."""
        fits = [n for n, spec in self.sites.items() if (site.startswith(f"{n}-") if spec.partition else site == n)]
        if not fits:
            known = ", ".join(f"{name}-…" if spec.partition else name for name, spec in self.sites.items())
            raise StudyError(f"Expected a site of the study ({known}); found '{site}'.")
        return max(fits, key=len)

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
        return [checked(require_finding, name) for name in names]

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
    sites = {name: resolve_site(folder, site) for name, site in study.sites.items()}
    images = study.images
    if images.cache is not None:
        images = images.model_copy(update={"cache": _resolved(folder, images.cache)})
    federation = _shared_resolved(folder, study.federation)
    federations = {name: _shared_resolved(folder, spec) for name, spec in study.federations.items()}
    model = study.model.model_copy(update={"initialization": _donor_resolved(folder, study.model.initialization)})
    found = {"sites": sites, "images": images, "model": model, "federation": federation, "federations": federations}
    return study.model_copy(update=found)


def _shared_resolved(folder: Path, spec: FederationSpec) -> FederationSpec:
    return spec.model_copy(update={"shared": resolve_site(folder, spec.shared)}) if spec.shared else spec


def _donor_resolved(folder: Path, spec: NamedOptions) -> NamedOptions:
    donor = (spec.model_extra or {}).get("donor")
    return spec.model_copy(update={"donor": str(_resolved(folder, Path(donor)))}) if isinstance(donor, str) else spec


def resolve_site(folder: Path, site: Source) -> Source:
    """Resolve the root of a site, and the options of its database that are paths, as their annotation says."""
    given = site.database.model_extra or {}
    options = signature(DATABASES.load(site.database.name).read).parameters if given else {}
    named = [name for name in given if isinstance(given[name], str) and "Path" in str(options[name].annotation)]
    database = site.database.model_copy(update={name: str(_resolved(folder, Path(given[name]))) for name in named})
    return site.model_copy(update={"root": _resolved(folder, site.root), "database": database})


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
