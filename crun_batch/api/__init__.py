"""The public functions: one for each command."""

from crun_batch.api.directories import export, follow, runs, show
from crun_batch.api.jobs import (
    aestimate,
    arun,
    check,
    compare,
    credits,
    estimate,
    load_job,
    models,
    open_run,
    report,
    run,
    status,
    verify,
)

__all__ = [
    "aestimate",
    "arun",
    "check",
    "compare",
    "credits",
    "estimate",
    "export",
    "follow",
    "load_job",
    "models",
    "open_run",
    "report",
    "run",
    "runs",
    "show",
    "status",
    "verify",
]
