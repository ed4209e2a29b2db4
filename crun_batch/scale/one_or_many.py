"""A run by this process alone, or by several workers: what the workers need is loaded only for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from crun_batch.errors import InputError

if TYPE_CHECKING:
    from crun_batch.options import AnyJob, RunOptions


class Workers(Struct, frozen=True):
    """Who runs a job: this process alone, unless something here is given."""

    count: int | None = None
    """So many processes on this machine."""
    coordinator: str | None = None
    """The address of who grants this process, the worker of one shard, its part."""
    ray: str | None = None
    """The address of a Ray cluster whose actors they are; `local`: one that is started here."""


def job_file(job: AnyJob, table: object | None, by: Workers) -> str | Path:
    """The path of the job, for those who read it themselves. Raises InputError."""
    if by.coordinator is not None and (by.count is not None or by.ray is not None):
        raise InputError("--coordinator does not go with --workers or --ray: each process asks for itself")
    if not isinstance(job, str | Path) or table is not None:
        raise InputError("workers read the job file: give its path and no table")
    return job


async def run_by(job: AnyJob, table: object | None, by: Workers, options: RunOptions) -> dict[str, Any]:
    """Run a job, or go on with it; its summary.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    if by.coordinator is not None:
        from crun_batch.scale.coordinated import run_coordinated

        return await run_coordinated(job_file(job, table, by), by.coordinator, options)
    if by.ray is not None:
        from crun_batch.scale.on_ray import run_on_ray

        summary = await run_on_ray(job_file(job, table, by), table, by.ray, by.count, options)
        if summary is not None:
            return summary
    workers = None if by.ray is not None else by.count
    if workers is None:
        from crun_batch.pipeline import run_job

        return await run_job(job, table, options)
    from crun_batch.scale.workers import run_with_workers

    return await run_with_workers(job, table, workers, options)
