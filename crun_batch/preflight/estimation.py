"""`estimate`: what the open rows of a job will cost, read without a lock. Nothing is sent."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from crun_batch.options import AnyJob, RunOptions
from crun_batch.preflight.affordability import estimate_document, judge
from crun_batch.preflight.assessment import assess, everything, with_measured
from crun_batch.preflight.caching import with_write_prices
from crun_batch.preflight.gateway_facts import ask_gateways, refusals_in, sellers_of
from crun_batch.preflight.pack_agreement import unmeasured_notes
from crun_batch.preflight.prices import Prices, frozen_prices
from crun_batch.preflight.ways import cache_notes, ways_document
from crun_batch.scoring.docket import waiting_now
from crun_batch.state.reading import read_state
from crun_batch.state.run_state import RunContext
from crun_batch.workload.loading import load


async def estimate_job(job: AnyJob, table: object | None, options: RunOptions) -> dict[str, Any]:
    """The estimate as plain data. Raises InputError (2), RefusedToStart (3)."""
    with ExitStack() as stack:
        workload = load(job, table, options, stack)
        context = RunContext(workload, options, read_state(workload))
        gateways = await ask_gateways(workload, options, may_lack_keys=options.may_lack_keys)
        former = frozen_prices(context.state.document).models
        prices = Prices(workload.job, sellers_of(gateways), options.clock.now(), former)
        left_out = refusals_in(workload, gateways).set_aside
        assessment = assess(context, prices, everything(context), waiting_now(context), left_out)
        assessment = with_measured(assessment, context.state.pilot)
        assessment.refuse_rejected(context.workload.job.source)
        verdict = with_write_prices(judge(context, assessment, gateways), workload.variants, prices)
        document = estimate_document(context, assessment, gateways, verdict)
        document["notes"] = [*document["notes"], *cache_notes(context), *unmeasured_notes(context)]
        return {**document, "ways": ways_document(context, prices, assessment.estimate)}
