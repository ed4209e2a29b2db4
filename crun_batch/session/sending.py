"""Everything that is open, then its judges, until it is done or something says stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from crun_batch.gateway.http.wire import Wire, open_wire
from crun_batch.preflight.balance import balance_keeper
from crun_batch.preflight.gateway_facts import endpoints_by_target
from crun_batch.preflight.plan import Plan
from crun_batch.preflight.prices import Bill
from crun_batch.records import Halt
from crun_batch.session.judging import judge_answers
from crun_batch.session.resources import Resources
from crun_batch.session.rows import send_rows
from crun_batch.session.summaries import extent_of, running_summary
from crun_batch.state.run_state import RunContext


async def send(context: RunContext, plan: Plan) -> Halt | None:
    """Send what the plan says; returns why it stopped early, None when it did not. Raises DiskFailed."""
    workload, options = context.workload, context.options
    wire = options.wire(workload.job) if options.wire is not None else _wire(context)
    threads = nullcontext() if options.platform.in_place else ThreadPoolExecutor(1, thread_name_prefix="table")
    with threads as executor:
        endpoints = endpoints_by_target(plan.gateways)
        resources = Resources(
            wire=wire,
            bill=Bill(plan.prices.price, workload.job.prices.credits_per_usd),
            endpoints=endpoints,
            redact=endpoints[0].redact,
            executor=executor,
            extent=extent_of(context, plan.pilot),
            summary=running_summary(context),
            keep_balance=balance_keeper(plan.gateways, options.platform),
        )
        rows = context.open_rows() if plan.pilot is None else plan.pilot.batches()
        try:
            halt = await send_rows(context, resources, rows)
            if halt is None and workload.judges:
                halt = await judge_answers(context, resources, plan.docket)
            return halt
        finally:
            await wire.close()


def _wire(context: RunContext) -> Wire:
    urls = [target.url for target in context.workload.targets]
    return open_wire("direct", connections=context.workload.job.limits.concurrency, urls=urls)
