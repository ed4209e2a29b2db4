"""What people told a job by several workers before this process took it up, and what of it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import structs

from crun_batch.scale.kept_leases import KeptLeases, kept_for
from crun_batch.state.run_state import RunContext
from crun_batch.state.steered import (
    as_set,
    by_whom,
    steering_begun,
    tell_what_no_longer_holds,
    value_of,
    what_holds,
    written,
)


@contextmanager
def taken_up(context: RunContext, *, takes_over: bool) -> Iterator[tuple[KeptLeases, RunContext]]:
    """What was granted of a job, for this process alone, and the job as people have set it, which is said.

    `takes_over`: from a coordinator that was killed, whose workers have gone on with what it was told; else what
    was set is over. Raises RunInUse, RunDamaged, DiskFailed.
    """
    with kept_for(context.workload.job.output.dir, context.options) as kept:
        yield kept, _as_it_was_set(context, kept, takes_over=takes_over)


def _as_it_was_set(context: RunContext, kept: KeptLeases, *, takes_over: bool) -> RunContext:
    former, workload, say = kept.steering, context.workload, context.options.say
    if not former["log"]:
        return context
    if takes_over and former["goes_on"]:
        now, today = former["now"], partial(value_of, workload.job)
        holds = what_holds(workload.job, former)
        for key, one in holds.items():
            say(f"{key} was set to {written(one['value'])} ({by_whom(one)}); that holds, as this job goes on")
        if now["paused"] is not None:
            say(f"the job is paused ({by_whom(now['paused'])}); `crun-batch resume` lets it go on")
        others = {key: one for key, one in now["values"].items() if key not in holds}
        tell_what_no_longer_holds({"steering": {"now": {"values": others}}}, today, say)
        steering = {**former, "now": {**now, "values": holds}}
    else:
        tell_what_no_longer_holds({"steering": former}, partial(value_of, workload.job), say)
        steering = {**steering_begun({"steering": former}), "goes_on": takes_over}
    kept.keep_steering(steering)
    job = as_set(workload.job, steering)
    return structs.replace(context, workload=structs.replace(workload, job=job))
