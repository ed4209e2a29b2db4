"""The job of a run directory, opened again as job.json has it: to render what was asked, never to send it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import InputError
from crun_batch.load.job.job import Job
from crun_batch.load.job.places import Document


def recorded_job(document: Mapping[str, Any], allow_paths: Sequence[str | Path] = ()) -> Job:
    """The job as it was run; its relative paths start where they did then. Raises InputError."""
    written = Document(
        source=str(document["source"]),
        base_dir=Path(document["base_dir"]),
        tree=document["job"],
        needs_table=False,
    )
    return Job(written).allowing(allow_paths)


def check_has_table(job: Job, frame: object | None) -> None:
    """Raises InputError where the table was given from Python, and is not given again."""
    if frame is None and job.input.table is None and job.input.query is None:
        raise InputError("the table was given from Python: give it again as `table`")
