"""The command line: one verb a file. Errors that hilum raises on purpose are printed without a traceback."""

from __future__ import annotations

import errno
import sys

STOPPED = "Stopped. What was computed is kept: repeat the command to go on (hilum study: with --resume)."


def main() -> None:
    """Run the command line and exit with its status: 0 done, 1 an error, 2 wrong usage, 130 interrupted."""
    from hilum.errors import HilumError

    try:
        from hilum.cli.app import Interrupted, app

        try:
            app()
        except Interrupted as stop:
            raise KeyboardInterrupt(*stop.args) from None
    except HilumError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt as stop:
        _fail(str(stop) or STOPPED, 130)
    except OSError as error:
        _fail(_system(error), 1)


def _fail(message: str, status: int) -> None:
    print(f"hilum: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def _system(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{place}. What was computed is kept: free some space and repeat the command."
    return f"The system says: {error.strerror or error}{place}. Correct that and repeat the command."
