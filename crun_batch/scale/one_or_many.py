"""A run by this process alone, or by several workers: what the workers need is loaded only for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crun_batch.options import AnyJob, RunOptions


async def run_by(job: AnyJob, table: object | None, workers: int | None, options: RunOptions) -> dict[str, Any]:
    """Run a job, or go on with it; its summary. `workers`: None is one process, without shards.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    if workers is None:
        from crun_batch.pipeline import run_job

        return await run_job(job, table, options)
    from crun_batch.scale.workers import run_with_workers

    return await run_with_workers(job, table, workers, options)
