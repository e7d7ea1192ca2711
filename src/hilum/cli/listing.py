"""hilum list: the names that a study file may use."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hilum.errors import UnknownName
from hilum.registry import Registry

KINDS = {
    "databases": "hilum.databases:DATABASES",
    "backbones": "hilum.models:BACKBONES",
    "necks": "hilum.models:NECKS",
    "poolings": "hilum.models:POOLINGS",
    "initializations": "hilum.models:INITIALIZATIONS",
    "localizers": "hilum.localization.localizers:LOCALIZERS",
    "cell_losses": "hilum.training.cell_losses:CELL_LOSSES",
    "losses": "hilum.training.losses:LOSSES",
    "strategies": "hilum.federation.strategies:STRATEGIES",
    "topologies": "hilum.federation.topology:TOPOLOGIES",
    "compressions": "hilum.federation.compression:COMPRESSIONS",
    "normalizations": "hilum.federation.strategies:NORMALIZATION_POLICIES",
    "heads": "hilum.federation.strategies:HEADS",
    "weightings": "hilum.federation.strategies:WEIGHTINGS",
    "policies": "hilum.findings.policy:LABEL_POLICIES",
    "partitioners": "hilum.sites.partitioners:PARTITIONERS",
    "findings": "hilum.findings.vocabulary:FINDINGS",
}
WIDEST = 44  # names with more options stand out


def list_names(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="One of: " + ", ".join(KINDS) + ".", show_default=False)
    ] = None,
) -> None:
    """List the names that a study file may use: databases, poolings, backbones, strategies, …

    With KIND, each name has its options and their defaults, as top_k(fraction=0.1, bottom=0.0), which a study gives
    as {name: top_k, fraction: 0.2}. Without KIND, lists all kinds.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    table = Registry("kind", KINDS)
    for name in [kind] if kind else KINDS:
        if kind is None:
            typer.echo(f"{name}:")
        entries = table.load(name)
        if isinstance(entries, Registry):
            lines = [(_with_options(entries, one) if kind else one, entries.summary(one)) for one in entries]
        else:
            lines = [(one, entries[one] if isinstance(entries, dict) else "") for one in entries]
        width = max([22, *(len(one) for one, _ in lines if len(one) <= WIDEST)])
        for one, summary in lines:
            typer.echo(f"  {one:<{width}} {summary.replace('``', '')}".rstrip())


def _with_options(registry: Registry, name: str) -> str:
    from hilum.study.sections import options_of

    options = [
        option if known.default is known.empty else f"{option}={json.dumps(known.default).strip(chr(34))}"
        for option, known in options_of(registry, name).items()
    ]
    return f"{name}({', '.join(options)})" if options else name
