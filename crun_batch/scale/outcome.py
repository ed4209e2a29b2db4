"""How a job by several workers ended: merged where every shard is done, else told as one, with what stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crun_batch.errors import (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_GATEWAY_REFUSED,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OUT_OF_MONEY,
    EXIT_REFUSED_TO_START,
    EXIT_ROWS_FAILED,
    EXIT_RUN_DIRECTORY,
    EXIT_TERMINATED,
)
from crun_batch.gateway.pool_seams import NO_ROOM
from crun_batch.options import RunOptions
from crun_batch.preflight.affordability import reservations_of
from crun_batch.pricing.budget import used_up
from crun_batch.records import Halt
from crun_batch.scale.crew import WorkerEnd
from crun_batch.scale.merge import merge_shards
from crun_batch.scale.whole import places_begun, shards_context
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import RunEnding, RunFacts, ending_of, summary_of
from crun_batch.workload.workload import Workload

GRAVEST_FIRST = (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_RUN_DIRECTORY,
    EXIT_INPUT,
    EXIT_REFUSED_TO_START,
    EXIT_GATEWAY_REFUSED,
    EXIT_OUT_OF_MONEY,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_ROWS_FAILED,
    EXIT_OK,
)
"""Of several workers' exit codes the first in this order is that of the run."""


def concluded(
    workload: Workload, places: Sequence[Path], ends: Sequence[WorkerEnd], options: RunOptions
) -> dict[str, Any]:
    """The summary of the merged run; where a worker stopped early, of all shards as they are.

    Raises what `merge_shards` raises.
    """
    context = shards_context(workload, options, places)
    is_done = all(end.exit_code in (EXIT_OK, EXIT_ROWS_FAILED) for end in ends) and not context.open_units
    if is_done:
        summary = merge_shards(places, workload.job.output.dir, clock=options.clock)
        kept = f"{places[0]} to {places[-1].name}"
        options.say(f"merged; the shards are still there, and no longer needed: {kept}")
        return summary
    code = min((end.exit_code for end in ends), key=GRAVEST_FIRST.index)
    return _told(context, places, _ending(context, ends, code))


def refused(context: RunContext, places: Sequence[Path], halt: Halt) -> dict[str, Any]:
    """The summary where the gateway refuses the job before the first request."""
    totals = context.state.account.totals()
    return _told(context, places, ending_of(halt, totals, context.open_units, is_pilot=False))


def _ending(context: RunContext, ends: Sequence[WorkerEnd], code: int) -> RunEnding:
    """In the words of those that it is about; of the budget, which is that of all, in those of all together."""
    said = list(dict.fromkeys(end.message or "rows are still open" for end in ends if end.exit_code == code))
    if code == EXIT_OUT_OF_MONEY and all(one.startswith(NO_ROOM) for one in said):
        said = [f"{NO_ROOM}: {used_up(reservations_of(context))}"]
    status = "interrupted" if code in (EXIT_INTERRUPTED, EXIT_TERMINATED) else "stopped"
    return RunEnding(status, code, "; ".join(said))


def _told(context: RunContext, places: Sequence[Path], ending: RunEnding) -> dict[str, Any]:
    """`shards`: where results are as long as there is no merged run; `output_dir` is where that is to be."""
    account, job = context.state.account, context.workload.job
    place = RunFacts(job.name, job.output.dir, context.options.resume_command)
    summary = summary_of(account, place, ending, open_count=context.open_units, seconds=account.seconds)
    return {**summary, "shards": [str(one) for one in places_begun(places)]}
