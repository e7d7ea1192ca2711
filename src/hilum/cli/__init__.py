"""The command line: one verb a file. Errors that hilum raises on purpose are printed without a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    from hilum.cli.app import app
    from hilum.errors import HilumError

    try:
        app()
    except HilumError as error:
        print(f"hilum: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(
            "\nhilum: interrupted. What was computed is kept; repeat the command (hilum study: with --resume).",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
