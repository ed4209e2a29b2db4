"""`python -m crun_batch.simulator`: the simulated gateway until Ctrl-C, SIGTERM, or its parent's end."""

from __future__ import annotations

import sys

from crun_batch.simulator.command import serve

sys.exit(serve())
