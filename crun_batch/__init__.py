"""Batch runs of large prompt tables against a model gateway.

import crun_batch

run = crun_batch.run("label-reviews.yaml")
frame = run.results().collect()
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crun_batch.api import (
        View,
        aestimate,
        annotate,
        arun,
        cancel,
        check,
        compare,
        coordinator,
        credits,
        doctor,
        estimate,
        export,
        export_annotations,
        follow,
        import_annotations,
        job_schema,
        load_job,
        merge,
        models,
        open_run,
        pause,
        report,
        resume,
        run,
        runs,
        set,
        show,
        status,
        stop,
        verify,
        view,
    )
    from crun_batch.api.run_handle import Run
    from crun_batch.console.progress import Progress, VariantProgress
    from crun_batch.errors import (
        CrunBatchError,
        DiskFailed,
        InputError,
        Mistake,
        NotRunning,
        RefusedToStart,
        RequestsChanged,
        RunDamaged,
        RunDirectoryError,
        RunInUse,
    )
    from crun_batch.gateway.http.wire import Wire, open_wire
    from crun_batch.load.job.job import Job
    from crun_batch.mapping import map
    from crun_batch.options import RunOptions
    from crun_batch.records import Fault, Response
    from crun_batch.reporting.comparing import RunComparison
    from crun_batch.reporting.read import Report
    from crun_batch.store.verify import Finding

_HOMES = {
    "api": (
        *("View", "aestimate", "annotate", "arun", "cancel", "check", "compare", "coordinator", "credits"),
        *("doctor", "estimate", "export", "export_annotations", "follow", "import_annotations"),
        *("job_schema", "load_job", "merge", "models", "open_run", "pause", "report", "resume", "run", "runs"),
        *("set", "show", "status", "stop", "verify", "view"),
    ),
    "errors": (
        *("CrunBatchError", "DiskFailed", "InputError", "Mistake", "NotRunning", "RefusedToStart"),
        *("RequestsChanged", "RunDamaged", "RunDirectoryError", "RunInUse"),
    ),
    "console.progress": ("Progress", "VariantProgress"),
    "gateway.http.wire": ("Wire", "open_wire"),
    "load.job.job": ("Job",),
    "mapping": ("map",),
    "options": ("RunOptions",),
    "records": ("Fault", "Response"),
    "reporting.comparing": ("RunComparison",),
    "reporting.read": ("Report",),
    "api.run_handle": ("Run",),
    "store.verify": ("Finding",),
}
"""Module -> the public names that live there."""

__all__ = [
    "CrunBatchError",
    "DiskFailed",
    "Fault",
    "Finding",
    "InputError",
    "Job",
    "Mistake",
    "NotRunning",
    "Progress",
    "RefusedToStart",
    "Report",
    "RequestsChanged",
    "Response",
    "Run",
    "RunComparison",
    "RunDamaged",
    "RunDirectoryError",
    "RunInUse",
    "RunOptions",
    "VariantProgress",
    "View",
    "Wire",
    "aestimate",
    "annotate",
    "arun",
    "cancel",
    "check",
    "compare",
    "coordinator",
    "credits",
    "doctor",
    "estimate",
    "export",
    "export_annotations",
    "follow",
    "import_annotations",
    "job_schema",
    "load_job",
    "map",
    "merge",
    "models",
    "open_run",
    "open_wire",
    "pause",
    "report",
    "resume",
    "run",
    "runs",
    "set",
    "show",
    "status",
    "stop",
    "verify",
    "view",
]


if sys.platform == "linux" and "pyarrow" not in sys.modules:
    # Arrow reads this once, when it is loaded; its own choice returns memory at once and takes it again in pages
    # that the system must zero (see session/runtime.py, for a process that has loaded it already).
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")


def __getattr__(name: str) -> Any:
    """Load on first use: the simulator and `--help` need none of the heavy libraries."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"crun_batch.{module}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
