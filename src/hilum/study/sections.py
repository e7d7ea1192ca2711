"""What the sections of a study file are made of: strict models, names with options, checks against registries."""

from __future__ import annotations

from inspect import Parameter
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from hilum.errors import HilumError
from hilum.study.mistakes import suggestion

# What a pooling, a loss, a database or a strategy gets from hilum or from other keys of the study.
GIVEN = (
    "channels",
    "findings",
    "counts",
    "positive",
    "known",
    "cls",
    "root",
    "labels_only",
    "groups",
    "whole",
    "tau",
    "normalization",
    "weighting",
    "head",
)


# What an option without a default may look like, in messages.
EXAMPLES = {"donor": "model.safetensors", "regions": "{north: [a, b], …}"}


def no_truth(value: Any) -> Any:
    """Refuse true and false where a number belongs: Python would take them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number; found {str(value).lower()}")
    return value


Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the study file; unknown keys are refused, and true and false where a number belongs.

    Defaults are checked as what is given, so that a default name gets the defaults of its options.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        return no_truth(value) if _numeric(cls.model_fields[str(info.field_name)].annotation) else value


def _numeric(annotation: Any) -> bool:
    """Tell whether a key takes a number, perhaps beside something else."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_numeric(part) for part in get_args(annotation))
    return annotation is int or annotation is float


class NamedOptions(BaseModel):
    """A registered name with its options: ``linear_softmax``, or ``{name: top_k, fraction: 0.1}``."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def checked(check: Any, name: str) -> str:
    """Return what ``check`` makes of a name; its ``HilumError`` becomes a mistake in the study file."""
    try:
        return str(check(name))
    except HilumError as error:
        raise ValueError(str(error)) from None


def with_options(registry: Any, value: NamedOptions) -> NamedOptions:
    """Check the name, that what it names takes the options and lacks none, and the types of their values.

    Return it with the defaults of all other options, as YAML can hold them.
    """
    registered(registry, value.name)
    options = value.model_extra or {}
    known = options_of(registry, value.name)
    for name in options:
        if name not in known:
            raise ValueError(f"'{value.name}' has no option '{name}'.{suggestion(name, list(known))}")
    for name, option in known.items():
        if option.default is option.empty and name not in options:
            example = f"{{name: {value.name}, {name}: {EXAMPLES.get(name, '…')}}}"
            raise ValueError(f"'{value.name}' needs the option '{name}', as {example}")
    registry.check(value.name, options)
    defaults = {name: _plain(option.default) for name, option in known.items() if option.default is not option.empty}
    return NamedOptions(name=value.name, **defaults | options)


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default


def options_of(registry: Any, name: str) -> dict[str, Parameter]:
    """Return the options of what a name stands for: the parameters that a study may set."""
    return {option: known for option, known in registry.parameters(name).items() if option not in GIVEN}


def registered(registry: Any, name: str) -> str:
    """Return ``name`` if the registry holds it."""
    checked(registry.__getitem__, name)
    return name
