"""May a job by several workers start: one estimate, one check of budget and balance, one question for all."""

from __future__ import annotations

from crun_batch.preflight.gateway_facts import ask_gateways, refusal_of, sellers_of
from crun_batch.preflight.plan import confirm
from crun_batch.preflight.prices import Prices
from crun_batch.records import Halt
from crun_batch.scoring.docket import Backlog
from crun_batch.state.run_state import RunContext


async def may_start(context: RunContext, waiting: Backlog) -> Halt | None:
    """Show the estimate of all that is open and ask; a halt where the gateways refuse the job.

    `waiting`: the questions to judges about answers that are there. Raises InputError (2), RefusedToStart (3).
    """
    workload, options = context.workload, context.options
    gateways = await ask_gateways(workload, options)
    refusal = refusal_of(workload, gateways, options.say)
    if refusal is None:
        prices = Prices(workload.job, sellers_of(gateways), options.clock.now(), {})
        confirm(context, gateways, prices, waiting)
    return refusal
