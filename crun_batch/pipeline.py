"""One run from its job file to its results. The file to read first.

    load     the job, its table, its prompts                    what is to be done
    open     the run directory: locked, recovered               what of it is done
    ask      the gateways: models, credits                      what they offer
    price    what the models cost, now and since                what is on the bill
    confirm  estimate, budget, balance, confirmation            may we start
    send     pool and journal, until all is done or it stops    every event on disk
             first the rows, then the judges of their answers
    close    seal, score, publish, summarise                    what people read

Each step is one call on the `RunContext`, in this order.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from crun_batch.load.job.job import Job
from crun_batch.options import RunOptions
from crun_batch.preflight.gateway_facts import ask_gateways, refusal_of
from crun_batch.preflight.pilot import begin_pilot, conclude_pilot
from crun_batch.preflight.plan import Plan, confirm
from crun_batch.records import Halt
from crun_batch.scoring.computed import Graders, graders_of
from crun_batch.scoring.docket import Docket, open_docket
from crun_batch.session.closing import close
from crun_batch.session.repricing import choose_prices, record_late_prices, reprice_finished
from crun_batch.session.sending import send
from crun_batch.state.job_document import record_job
from crun_batch.state.opening import open_state
from crun_batch.state.run_state import RunContext
from crun_batch.workload.loading import load


async def run_job(job: Job | str | Path, table: object | None, options: RunOptions) -> dict[str, Any]:
    """Run a job to its end, or to where it stops; the summary of its run directory, as written.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    with ExitStack() as stack:
        workload = load(job, table, options, stack)
        graders = graders_of(workload)
        context = RunContext(workload, options, open_state(workload, options, stack))
        docket, halt = await _session(context, graders)
        return close(context, graders, docket, halt)


async def _session(context: RunContext, graders: Graders) -> tuple[Docket, Halt | None]:
    """Ask, price, confirm, send; what waits for judges, and why the session stopped early."""
    docket = open_docket(context, graders, None)
    if not context.open_units and not docket.waiting.calls:
        context.options.say(f"nothing to send: all {context.workload.selected_units:,} results are there")
        reprice_finished(context)
        return docket, None
    gateways = await ask_gateways(context.workload, context.options)
    refusal = refusal_of(gateways, context.options.say)
    if refusal is not None:
        return docket, refusal
    prices = choose_prices(context, gateways)
    pilot = await begin_pilot(context, gateways)
    if pilot is not None:
        docket = open_docket(context, graders, pilot.rows)
    plan = Plan(gateways, prices, pilot, docket)
    confirm(context, plan)
    record_job(context, prices.to_document())
    halt = await send(context, plan)
    record_late_prices(context, prices)
    if pilot is not None:
        halt = await conclude_pilot(context, gateways, pilot, halt)
    return docket, halt
