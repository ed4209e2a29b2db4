"""May the open units be sent: the estimate, the budget, the balance, the confirmation."""

from __future__ import annotations

from msgspec import Struct, structs

from crun_batch.console.amounts import duration
from crun_batch.errors import RefusedToStart
from crun_batch.preflight.affordability import bill_at_most, estimate_document, judge
from crun_batch.preflight.assessment import Assessment, assess, enough, with_measured
from crun_batch.preflight.caching import with_write_prices
from crun_batch.preflight.gateway_facts import GatewayFacts, refusals_in
from crun_batch.preflight.pack_agreement import refuse_disagreement, unmeasured_notes
from crun_batch.preflight.pilot import Pilot, begin_pilot
from crun_batch.preflight.prices import Prices
from crun_batch.scoring.computed import Graders
from crun_batch.scoring.docket import Backlog, Docket, open_docket
from crun_batch.state.run_state import RunContext


class Plan(Struct, frozen=True):
    """What a session sends under: the gateways, the prices, a pilot's rows, the questions that wait for judges."""

    gateways: tuple[GatewayFacts, ...]
    prices: Prices
    pilot: Pilot | None
    """None: all open rows are sent."""
    docket: Docket


async def make_plan(
    context: RunContext, graders: Graders, gateways: tuple[GatewayFacts, ...], prices: Prices, docket: Docket
) -> Plan:
    """Choose the rows of a pilot, where one is asked for, and see that what is to be sent may be sent.

    Raises InputError (2), RefusedToStart (3).
    """
    pilot = await begin_pilot(context, gateways)
    if pilot is not None:
        docket = open_docket(context, graders, pilot.rows)
    confirm(context, gateways, prices, docket.waiting, pilot)
    return Plan(gateways, prices, pilot, docket)


def confirm(
    context: RunContext,
    gateways: tuple[GatewayFacts, ...],
    prices: Prices,
    waiting: Backlog,
    pilot: Pilot | None = None,
) -> None:
    """Refuse what the budget or the balance cannot bear, then ask. Raises InputError (2), RefusedToStart (3)."""
    if pilot is None:
        refuse_disagreement(context)
    reading = enough(context) if pilot is None else pilot.reading
    left_out = refusals_in(context.workload, gateways).set_aside
    assessment = assess(context, prices, reading, waiting, left_out)
    assessment = with_measured(assessment, context.state.pilot)
    if pilot is not None:
        assessment = structs.replace(assessment, limit_of=int, limit_option="--pilot")
    assessment.refuse_rejected(context.workload.job.source)
    pilot_units = None if pilot is None else sum(map(context.open_units_of, pilot.rows))
    context.state.bill_at_most = bill_at_most(context, assessment, pilot_units)
    verdict = judge(context, assessment, gateways)
    verdict = with_write_prices(verdict, context.workload.variants, prices)
    if not verdict.may_start:
        shard = context.workload.shard
        raise RefusedToStart(verdict.sentence, advice="" if shard is None else "; ".join(shard.caps))
    notes = (*verdict.notes, *_stop_notes(context, assessment), *unmeasured_notes(context))
    verdict = structs.replace(verdict, notes=notes)
    document = estimate_document(context, assessment, gateways, verdict)
    confirm_start = context.options.confirm
    if confirm_start is not None and not confirm_start(document):
        raise RefusedToStart("not confirmed; nothing was sent")


def _stop_notes(context: RunContext, assessment: Assessment) -> list[str]:
    """When the run was told to stop, and whether that is before it can be through."""
    deadline = context.options.deadline
    if deadline is None:
        return []
    left = deadline.seconds_left(context.options.clock.epoch_seconds())
    needed = assessment.estimate.time_low.seconds or 0.0
    said = f"it stops {deadline.words}, in {duration(left)}"
    return [f"{said}: the limits alone take {duration(needed)}, so some rows stay open" if needed > left else said]
