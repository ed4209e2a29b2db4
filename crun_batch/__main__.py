"""`crun-batch` and `python -m crun_batch`: the command line."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run one command; the exit code."""
    if sys.argv[1:] == ["--version"] and _has_told_versions():
        return 0
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun: no traceback out of an import
    from crun_batch.cli.commands import main as run_command

    return run_command()


def _has_told_versions() -> bool:
    """Answered here, since loading the commands takes as long again; they say why where this fails."""
    from crun_batch.cli.versions import versions_text

    try:
        os.write(1, versions_text().encode() + b"\n")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
