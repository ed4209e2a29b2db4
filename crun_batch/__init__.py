"""Batch runs of large prompt tables against a model gateway.

import crun_batch

run = crun_batch.run("label-reviews.yaml")
frame = run.results().collect()
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crun_batch.corridor.mapping import map
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
    from crun_batch.run import Job, Run, arun, estimate, load_job, open_run, run

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


def __getattr__(name: str) -> Any:
    """Load on first use: the simulator and `--help` need none of the heavy libraries."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    errors = import_module("crun_batch.errors")
    if hasattr(errors, name):
        return getattr(errors, name)
    return getattr(import_module("crun_batch.corridor.mapping" if name == "map" else "crun_batch.run"), name)
