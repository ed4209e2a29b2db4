"""The public functions: one for each command."""

from crun_batch.api.annotations import annotate, export_annotations, import_annotations
from crun_batch.api.coordinating import coordinator, merge
from crun_batch.api.directories import cancel, export, follow, runs, show, status, verify
from crun_batch.api.job_files import job_schema, load_job
from crun_batch.api.jobs import (
    aestimate,
    arun,
    check,
    compare,
    credits,
    estimate,
    models,
    open_run,
    report,
    run,
)
from crun_batch.api.machine import doctor
from crun_batch.api.pages import View, view
from crun_batch.api.steering import pause, resume, set, stop

__all__ = [
    "View",
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
    "merge",
    "models",
    "open_run",
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
