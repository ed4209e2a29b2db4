"""Batch runs of large prompt tables against a model gateway.

import crun_batch

run = crun_batch.run("label-reviews.yaml")
frame = run.results().collect()
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crun_batch.errors import (
        CrunBatchError,
        DiskFailed,
        InputError,
        Mistake,
        RefusedToStart,
        RequestsChanged,
        RunDamaged,
        RunDirectoryError,
        RunInUse,
    )
    from crun_batch.mapping import map
    from crun_batch.pipeline import Job, Run, arun, estimate, load_job, open_run, run

__all__ = [
    "CrunBatchError",
    "DiskFailed",
    "InputError",
    "Job",
    "Mistake",
    "RefusedToStart",
    "RequestsChanged",
    "Run",
    "RunDamaged",
    "RunDirectoryError",
    "RunInUse",
    "arun",
    "estimate",
    "load_job",
    "map",
    "open_run",
    "run",
]


if sys.platform == "linux" and "pyarrow" not in sys.modules:
    # Arrow reads this once, when it is loaded; its own choice returns memory at once and takes it again in pages
    # that the system must zero (see corridor/runtime.py, for a process that has loaded it already).
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")


def __getattr__(name: str) -> Any:
    """Load on first use: the simulator and `--help` need none of the heavy libraries."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    errors = import_module("crun_batch.errors")
    if hasattr(errors, name):
        return getattr(errors, name)
    return getattr(import_module("crun_batch.mapping" if name == "map" else "crun_batch.pipeline"), name)
