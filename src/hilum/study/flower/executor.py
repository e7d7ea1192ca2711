"""What a hospital's node starts for a message: hilum as it is installed there, never code that came with the run.

Flower unpacks a run's app at the node and imports it. Started in the place of 'flwr-clientapp', this reads the study
from the app and runs nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def installed_app(**_: Any) -> Callable[[str, str, str], Any]:
    """Return what loads the client of this package for the study in an unpacked app."""
    from flwr.common.config import get_project_dir  # type: ignore[import-not-found, unused-ignore]

    from hilum.study.flower.client import client_app

    def load(fab_id: str, fab_version: str, fab_hash: str) -> Any:
        return client_app(get_project_dir(fab_id, fab_version, fab_hash) / "study.yaml")

    return load


def main() -> None:
    """Run 'flwr-clientapp' with the installed client."""
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp  # type: ignore[import-not-found, unused-ignore]
    from flwr.supernode.runtime import run_clientapp  # type: ignore[import-not-found, unused-ignore]

    run_clientapp.get_load_client_app_fn = installed_app  # type: ignore[assignment, unused-ignore]
    flwr_clientapp()


if __name__ == "__main__":
    main()
