"""One run from its job file to its results. The file to read first.

    load     the job, its table, its prompts                    what is to be done
    open     the run directory: locked, recovered               what of it is done
    ask      the gateways: models, credits                      what they offer
    price    what the models cost, now and since                what is on the bill
    plan     estimate, budget, balance, confirmation            may we start
    send     pool and journal, until all is done or it stops    every event on disk
             first the rows, then the judges of their answers
    close    seal, score, publish, summarise, tell              what people read

Each step is one call on the `RunContext`, in this order.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from crun_batch.options import AnyJob, RunOptions
from crun_batch.reporting.progress_bar import shown
from crun_batch.scoring.computed import graders_of
from crun_batch.scoring.docket import open_docket
from crun_batch.session.ending import close_and_tell, keeping_what_came, refused
from crun_batch.session.finished import close_finished
from crun_batch.state.opening import open_context
from crun_batch.workload.loading import load


async def run_job(job: AnyJob, table: object | None, options: RunOptions) -> dict[str, Any]:
    """Run a job to its end, or to where it stops; the summary of its run directory, as written.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    with ExitStack() as stack:
        options = stack.enter_context(shown(options))
        workload = load(job, table, options, stack)
        graders = graders_of(workload)
        context = open_context(workload, options, stack)
        docket = open_docket(context, graders, None)
        if not (context.open_units or docket.waiting.calls or context.awaits_batches):
            options.say(f"nothing to send: all {workload.selected_units:,} results are there")
            return close_finished(context, graders, docket)
        from crun_batch.preflight.gateway_facts import ask_gateways, refusal_of  # not loaded by a finished run
        from crun_batch.preflight.plan import make_plan
        from crun_batch.session.repricing import choose_prices, record_prices
        from crun_batch.session.sending import send

        gateways = await ask_gateways(workload, options)
        refusal = refusal_of(workload, gateways, options.say)
        if refusal is not None:
            return refused(context, refusal)
        prices, repricing = choose_prices(context, gateways)
        plan = await make_plan(context, graders, gateways, prices, docket)
        record_prices(context, prices, repricing)
        with keeping_what_came(context):
            halt = await send(context, plan)
            return close_and_tell(context, graders, plan.docket, halt)
