"""The public functions for one job in several parts: who grants its workers theirs, and one run of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crun_batch.api.jobs import finished
from crun_batch.load.arguments import arguments_told, at_least_one

if TYPE_CHECKING:
    from decimal import Decimal

    from crun_batch.api.run_handle import Run

    AnyRun = Run | str | Path


@arguments_told
def coordinator(
    job: str | Path,
    *,
    shards: int,
    host: str = "127.0.0.1",
    port: int = 0,
    max_cost_usd: Decimal | float | str | None = None,
    max_cost_credits: Decimal | float | str | None = None,
    output_dir: str | Path | None = None,
    simulate: bool = False,
    until_budget: bool = False,
    progress: bool = False,
    metrics_port: int | None = None,
    **overrides: Any,
) -> Run:
    """Grant the workers of a job their parts until all have ended; the merged `Run`, or why there is none yet.

    Each worker is `crun_batch.run(job, shard="I/N", coordinator=URL)`, on any machine that sees the same folder.

    Args:
        job: the path of a job file.
        shards: how many workers there are to be.
        host: where to listen. Beyond the loopback a token must be in `CRUN_BATCH_COORDINATOR_TOKEN`, here and at
            the workers.
        port: at which port; 0: a free one. The address is said (`say`).
        max_cost_usd: the budget of all shards together in dollars.
        max_cost_credits: the same in credits.
        output_dir: the run directory that is to be; the shards stand beside it.
        simulate: workers with `simulate` too: into `<output_dir>-simulated`.
        until_budget: start although budget or credits will not last; stop there.
        progress: show a bar on standard error.
        metrics_port: serve figures of the whole job, and of each worker, for Prometheus on this port of 127.0.0.1.
        overrides: sections of the job, or fields of `RunOptions`; `until` and `max_minutes`, as `run` takes them.

    Raises:
        InputError: the job, the table or an argument is wrong; a place that others reach, without a token.
        RefusedToStart: credits, budget, or an unknown price. Nothing was granted.
        RunDirectoryError: the job has another coordinator, or its shards are another job's.
        DiskFailed: what is granted could not be written, so nothing more is.

    """
    from crun_batch.api.run_handle import Run
    from crun_batch.options import options_of
    from crun_batch.scale.coordinate import run_coordinator
    from crun_batch.scale.exchange import TOKEN_NAME
    from crun_batch.scale.serving import listening_at

    options = options_of(
        overrides,
        max_cost_usd=max_cost_usd,
        max_cost_credits=max_cost_credits,
        output_dir=output_dir,
        simulate=simulate,
        until_budget=until_budget,
        progress=progress,
        metrics_port=metrics_port,
    )
    listening = listening_at(host, port, options.environ.get(TOKEN_NAME))
    summary = finished(run_coordinator(job, shards, listening, options))
    return Run(Path(summary["output_dir"]), summary)


@arguments_told
def merge(*runs: AnyRun, output_dir: str | Path, unfinished: bool = False) -> Run:
    """Make one run of all shards of a job: one results.parquet, attempts, summary and job.json, verified.

    Args:
        runs: the run directories of the shards (`run(..., shard="1/4")`), or `Run` objects; a job file means all
            shards beside its run directory.
        output_dir: where the new run is to be: no such directory yet, or an empty one.
        unfinished: also of shards with open rows, or that were killed; the new run then goes on with them.

    The new run is like one that a single machine has made, and `run(job, output_dir=...)` goes on with it. Nothing
    is sent, the shards stay as they are, and a kill leaves a whole new run or none. Raises InputError (no run, a
    shard named twice), RunDirectoryError with all that is wrong (other jobs, missing, overlapping, unfinished),
    RunInUse, RunDamaged, DiskFailed.

    """
    from crun_batch.api.run_handle import Run
    from crun_batch.scale.merge import merge_shards
    from crun_batch.state.finding import find_shards

    places = [
        run
        for one in at_least_one(runs)
        for run in (find_shards(Path(one)) if isinstance(one, str | Path) else [one.directory])
    ]
    summary = merge_shards(places, Path(output_dir), unfinished=unfinished)
    return Run(Path(output_dir), summary)
