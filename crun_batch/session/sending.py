"""Everything that is open, then its judges, until it is done or something says stop."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from crun_batch.preflight.pilot import conclude_pilot
from crun_batch.preflight.plan import Plan
from crun_batch.records import Halt
from crun_batch.session.judging import judge_answers
from crun_batch.session.outside import recorded_outside
from crun_batch.session.repricing import record_late_prices
from crun_batch.session.resources import open_resources
from crun_batch.session.rows import send_rows
from crun_batch.session.steerers import place_for_figures, steered_session
from crun_batch.state.run_state import RunContext

if TYPE_CHECKING:
    from crun_batch.session.prometheus import FiguresServer


async def send(context: RunContext, plan: Plan) -> Halt | None:
    """Send what the plan says; returns why it stopped early, None when it did not. Raises DiskFailed, InputError.

    From here on job.json says the job as it is run. A pilot is weighed at the end, whatever it came to.
    """
    with ExitStack() as stack:
        server = place_for_figures(context.options)
        if server is not None:
            stack.callback(server.server_close)
        async with recorded_outside(context, plan.prices.to_document()):
            halt = await _send(context, plan, server)
    record_late_prices(context, plan.prices)
    if plan.pilot is None:
        return halt
    return await conclude_pilot(context, plan.gateways, plan.pilot, halt)


async def _send(context: RunContext, plan: Plan, server: FiguresServer | None) -> Halt | None:
    """First the rows, then, unless something stopped them before their end, the judges of their answers."""
    async with open_resources(context, plan) as resources, steered_session(context, resources, server):
        rows = context.open_rows() if plan.pilot is None else plan.pilot.batches()
        halt = await send_rows(context, resources, rows)
        if context.workload.judges and (halt is None or halt.others_are_finished):
            return await judge_answers(context, resources, plan.docket) or halt
        return halt
