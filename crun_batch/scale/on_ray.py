"""`run JOB --ray ADDRESS`: the shards of a job as actors of a Ray cluster, over a folder that all nodes see.

    load     the job and its table, once, to know what all of it is
    plan     what is open in all shards together: estimate, budget, balance, confirmation
    send     one actor gives leases, one for each shard works; all outlive the process that started them
    merge    the shards become the run directory of the job

Killed here, the actors go on; the same command finds them, shows how far they are, and merges in the end.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.options import RunOptions
from crun_batch.reporting.progress_bar import shown
from crun_batch.scale.begun import begun_context, is_one_run
from crun_batch.scale.kept_leases import forget_grants
from crun_batch.scale.orders import arguments_of, orders_for, shard_places, texts_of
from crun_batch.scale.outcome import concluded, refused
from crun_batch.scale.ray_cluster import as_long_as_it_is_there, connected
from crun_batch.scale.signals import signals_to
from crun_batch.scale.starting import may_start
from crun_batch.scale.unfit import refuse_before_the_merge, refuse_unfit, refuse_unfit_job
from crun_batch.workload.loading import load


async def run_on_ray(
    job: str | Path, table: object | None, address: str, count: int | None, options: RunOptions
) -> dict[str, Any] | None:
    """Run a job file by actors; the summary of the merged run, or of all shards where one stopped.

    None: it is one run already, which goes on in one process. `count`: of shards; None: as many as the cluster has
    CPUs, and no more than limits.concurrency. Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed.
    """
    file = refuse_unfit(job, table, options)
    with ExitStack() as stack:
        options = stack.enter_context(shown(options))
        workload = load(job, None, options, stack)
        folder, limits = workload.job.output.dir, workload.job.limits
        if is_one_run(folder):
            options.say(f"{folder} is one run already: it goes on in one process, without workers")
            return None
        refuse_before_the_merge(options)
        ray = stack.enter_context(connected(address, simulate=options.simulate))
        count = count or max(1, min(int(ray.cluster_resources().get("CPU", 1)), limits.concurrency))
        refuse_unfit_job(count, workload)
        places = shard_places(folder, count, simulate=options.simulate)
        context = begun_context(workload, options, places)
        from crun_batch.scale.ray_crew import RayCrew

        crew = RayCrew(ray, workload.job, options)
        if not crew.is_there():
            refusal = await may_start(context, places)
            if refusal is not None:
                return refused(context, places, refusal)
        orders = orders_for(file, workload, places, options)
        own = options.overrides
        giver = structs.replace(
            orders[0], overrides=texts_of(own), arguments=arguments_of(own), deadline=options.deadline
        )
        with signals_to(crew, options, limits.attempt_timeout_seconds):
            head = ray.get_runtime_context().gcs_address
            ends = await as_long_as_it_is_there(head, crew.run(giver, orders), len(orders))
    summary = concluded(context, places, ends)
    if is_one_run(folder):
        forget_grants(folder)
    return summary
