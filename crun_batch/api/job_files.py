"""The public functions that read a job file, and say what one may hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.load.arguments import arguments_told

if TYPE_CHECKING:
    from crun_batch.load.job.job import Job


def job_schema() -> dict[str, object]:
    """The JSON Schema of a job file, for editors."""
    from crun_batch.load.job import json_schema

    return json_schema.job_schema()


@arguments_told
def load_job(path: str | Path, **overrides: Any) -> Job:
    """A job file as a `Job`; `overrides` are sections (`budget={...}`) or short names (`limit=10`), as of `run`.

    Raises InputError with every mistake: file, line, key, what was found and what is allowed.
    """
    from crun_batch.load.job.job import load_job as read_job_file
    from crun_batch.options import options_of

    options = options_of(overrides)
    return read_job_file(Path(path), options.overrides, environ=options.environ, allow_paths=options.allow_paths)
