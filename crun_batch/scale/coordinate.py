"""`coordinator JOB --shards N`: what `run --workers N` does, but that others start the workers, wherever they are.

    load     the job and its table, once, to know what all of it is
    plan     what is open in all shards together: estimate, budget, balance, confirmation
    serve    each worker that asks is granted its part, until every shard has ended
    merge    the shards become the run directory of the job

Killed at any moment, the same command takes up what was granted, and its workers go on with it.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.options import RunOptions
from crun_batch.reporting.progress_bar import shown
from crun_batch.scale.begun import begun_context, is_one_run
from crun_batch.scale.coordinating import given_to_workers
from crun_batch.scale.giving import SaidOnce
from crun_batch.scale.orders import shard_places
from crun_batch.scale.outcome import as_it_is, concluded, left_alone, refused
from crun_batch.scale.serving import Listening
from crun_batch.scale.starting import may_start
from crun_batch.scale.steering import taken_up
from crun_batch.scale.unfit import refuse_before_the_merge, refuse_unfit, refuse_unfit_job
from crun_batch.workload.loading import load


async def run_coordinator(
    job: str | Path, count: int, listening: Listening, options: RunOptions
) -> dict[str, Any]:
    """Coordinate a job's workers until they have ended; the summary of the merged run, or of all shards.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    refuse_unfit(job, None, options)
    with ExitStack() as stack:
        words = SaidOnce(options.say)
        options = stack.enter_context(shown(structs.replace(options, say=words.say)))
        workload = load(job, None, options, stack)
        folder = workload.job.output.dir
        if is_one_run(folder):
            options.say(f"{folder} is one run already; there is nothing to coordinate")
            return as_it_is(folder)
        refuse_before_the_merge(options)
        refuse_unfit_job(count, workload, "--shards")
        places = shard_places(folder, count, simulate=options.simulate)
        context = begun_context(workload, options, places)
        kept, context = stack.enter_context(taken_up(context, takes_over=True))
        if not kept.given:
            refusal = await may_start(context, places)
            if refusal is not None:
                return refused(context, places, refusal)
        ends = await given_to_workers(context, places, words, kept, listening)
        if ends is None:
            return left_alone(context, places)
        summary = concluded(context, places, ends)
        kept.end(is_merged=is_one_run(folder))
    return summary
