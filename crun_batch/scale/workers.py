"""`run --workers N`: one job by N processes over N shards, under one set of limits and one budget, to one run.

    load     the job and its table, once, to know what all of it is
    plan     what is open in all shards together: estimate, budget, balance, confirmation
    send     a process for each shard; each may use what it is granted
    merge    the shards become the run directory of the job

A kill of any process loses no recorded reply: each shard is a run of its own. The same command goes on; so does
`run --shard` on each, anywhere. Once there is the merged run, it goes on as the run of one machine.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from msgspec import structs

from crun_batch.options import AnyJob, RunOptions
from crun_batch.pipeline import run_job
from crun_batch.reporting.progress_bar import shown
from crun_batch.scale.at_work import sent_by_workers
from crun_batch.scale.begun import begun_context, is_one_run
from crun_batch.scale.giving import SaidOnce
from crun_batch.scale.orders import shard_places
from crun_batch.scale.outcome import concluded, refused
from crun_batch.scale.starting import may_start
from crun_batch.scale.steering import taken_up
from crun_batch.scale.unfit import refuse_before_the_merge, refuse_in_use, refuse_unfit, refuse_unfit_job
from crun_batch.workload.loading import load


async def run_with_workers(job: AnyJob, table: object | None, count: int, options: RunOptions) -> dict[str, Any]:
    """Run a job file by so many processes; the summary of the merged run, or of all shards where one stopped.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    file = refuse_unfit(job, table, options)
    if count == 1:
        return await run_job(job, None, options)
    with ExitStack() as stack:
        words = SaidOnce(options.say)
        options = stack.enter_context(shown(structs.replace(options, say=words.say)))
        workload = load(job, None, options, stack)
        folder = workload.job.output.dir
        if is_one_run(folder):
            options.say(f"{folder} is one run already: it goes on in one process, without workers")
            return await run_job(job, None, options)
        refuse_before_the_merge(options)
        refuse_unfit_job(count, workload)
        places = shard_places(folder, count, simulate=options.simulate)
        refuse_in_use(places)
        context = begun_context(workload, options, places)
        refusal = await may_start(context, places)
        if refusal is not None:
            return refused(context, places, refusal)
        kept, context = stack.enter_context(taken_up(context, takes_over=False))
        sent = await sent_by_workers(context, file, places, words, kept)
        summary = concluded(context, places, sent)
        if is_one_run(folder):
            kept.take_away()
    return summary
