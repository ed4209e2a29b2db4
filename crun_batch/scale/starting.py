"""May a job by several workers start: one estimate, one check of budget and balance, one question for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from crun_batch.preflight.gateway_facts import ask_gateways, refusal_of, sellers_of
from crun_batch.preflight.plan import confirm
from crun_batch.preflight.prices import Prices
from crun_batch.records import Halt
from crun_batch.scale.whole import in_shard, places_begun
from crun_batch.scoring.docket import Backlog, waiting_now
from crun_batch.state.run_state import RunContext


async def may_start(context: RunContext, places: Sequence[Path]) -> Halt | None:
    """Show the estimate of all that is open and ask; a halt where the gateways refuse the job.

    Where nothing is open, and no judge waits, there is nothing to ask. Raises InputError (2), RefusedToStart (3).
    """
    waiting = waiting_in(context, places)
    if not (context.open_units or waiting.calls):
        return None
    workload, options = context.workload, context.options
    gateways = await ask_gateways(workload, options)
    refusal = refusal_of(workload, gateways, options.say)
    if refusal is None:
        prices = Prices(workload.job, sellers_of(gateways), options.clock.now(), {})
        confirm(context, gateways, prices, waiting)
    return refusal


def waiting_in(context: RunContext, places: Sequence[Path]) -> Backlog:
    """The questions to judges about answers that the shards have."""
    return _together(waiting_now(in_shard(context, place)) for place in places_begun(places))


def _together(backlogs: Iterable[Backlog]) -> Backlog:
    lengths: dict[str, Counter[tuple[int, int]]] = {}
    for backlog in backlogs:
        for judge, counts in backlog.lengths.items():
            lengths.setdefault(judge, Counter()).update(counts)
    return Backlog(lengths)
