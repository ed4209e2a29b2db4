"""Batch runs of large prompt tables against a model gateway.

    import crun_batch

    run = crun_batch.run("label-reviews.yaml")
    frame = run.results().collect()
"""

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
    "open_run",
    "run",
]
