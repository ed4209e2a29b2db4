"""`python -m crun_batch`: the command line."""

from __future__ import annotations

import sys

from crun_batch.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
