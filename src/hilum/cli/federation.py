"""hilum federation: the same study between hospitals, on Flower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Run a study between hospitals, over TLS.", no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.", show_default=False)]


@app.command(short_help="Write keys, configuration and instructions for server and hospitals.")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.", show_default=False)],
    sites: Annotated[str, typer.Option(metavar="A,B,C", help="Names of the hospitals.", show_default=False)],
    host: Annotated[str, typer.Option(help="Name by which hospitals reach the server.", show_default=False)],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that hospitals connect to.")] = 443,
    link_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of Flower's link, on the server's own loopback.")
    ] = 8000,
    study: Annotated[
        Path | None, typer.Option(metavar="STUDY.yaml", help="The study that they run.", show_default=False)
    ] = None,
) -> None:
    """Write DIR/server and DIR/hospitals/<site>: certificates, keys, scripts, and a README for each administrator.

    The server's folder holds the Flower app of the study and an nginx configuration that lets hospitals reach what
    nodes need, and nothing else. Called again with another --study, keys stay. Needs the extra 'flower'.
    """
    _require_flower()
    from hilum.study.flower.commands import Address
    from hilum.study.flower.init import init_federation
    from hilum.study.spec import load_study

    spec = load_study(study) if study else None
    layout = init_federation(folder, spec, sites.split(","), Address(host, port), link_port)
    typer.echo(f"server: {layout.server}")
    for site in layout.sites:
        typer.echo(f"{site}: {layout.hospital(site)}")


@app.command(short_help="Run it on this machine, over link and nodes on loopback.")
def local(
    file: File,
    out: Annotated[
        Path | None, typer.Option(help="Run directory. [default: runs/<name of the study>]", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override, such as --set training.rounds=10. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")] = False,
) -> None:
    """Train the federated arms of a study through Flower on this machine: a link, and a node for every hospital.

    Everything is as it is between hospitals: TLS, a key for every node, one process for every message. RUN and its
    report are those of 'hilum study', the weights to the bit. Ctrl-C ends all processes. Needs the extra 'flower'.
    """
    _require_flower()
    from hilum.report import write_report
    from hilum.study.evaluation.evaluate import evaluate_run
    from hilum.study.flower.local import run_local
    from hilum.study.spec import load_study

    study = load_study(file, set_)
    run = run_local(study, out or Path("runs") / study.name, resume, typer.echo)
    evaluate_run(run.root)
    typer.echo(f"report: {write_report(run.root)}")


@app.command("hash", short_help="Tell the hash of code and study that a hospital approves.")
def hash_(
    file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="study.yaml of the app.", show_default=False)],
) -> None:
    """Tell the hash of the hilum that is installed here and of a study, for 'approved' in hospital.yaml."""
    from hilum.study.approval import approval
    from hilum.study.spec import parse_study, read_mapping

    typer.echo(approval(parse_study(read_mapping(file), str(file))))


@app.command(short_help="Verify the audit log of a run, and what hospitals have logged.")
def audit(
    log: Annotated[Path, typer.Argument(metavar="RUN|LOG", help="Run directory, or an audit log.", show_default=False)],
    hospitals: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[LOG]...", help="Logs of hospitals, to compare with.", show_default=False),
    ] = None,
    last: Annotated[
        str | None, typer.Option(metavar="HASH", help="Last hash of an earlier time.", show_default=False)
    ] = None,
) -> None:
    """Tell whether the lines of an audit log follow from each other, and its last hash.

    A line that was changed, removed or put in breaks the chain, unless all that follow were written anew: that, and
    lines cut off at the end, show with --last, a hash told before. With logs of hospitals, tell whether every reply
    that the server took is one that the hospital has logged.
    """
    from hilum.errors import RunError
    from hilum.federation.audit import agreed, verified

    server = verified(log)
    if last is not None and not server.holds(last):
        raise RunError(
            f"Expected a line with the hash {last} in {log}; found none. Lines were cut off or written anew."
        )
    typer.echo(f"{log}: {len(server.entries)} entries, whole; last hash {server.last}")
    for path in hospitals or []:
        site = verified(path)
        typer.echo(f"{path}: {len(site.entries)} entries, whole; last hash {site.last}")
        typer.echo(f"{agreed(server, site)} replies that the server took are those that were sent")


def _require_flower() -> None:
    from importlib.util import find_spec

    from hilum.errors import MissingExtra

    if find_spec("flwr") is None:
        raise MissingExtra("flower", "flwr")
