"""May the open units be sent: the estimate, the budget, the balance, the confirmation."""

from __future__ import annotations

from msgspec import Struct, structs

from crun_batch.errors import RefusedToStart
from crun_batch.preflight.affordability import estimate_document, judge, refuse_rejected, reservations_of
from crun_batch.preflight.assessment import assess, enough, with_measured
from crun_batch.preflight.gateway_facts import GatewayFacts
from crun_batch.preflight.pilot import Pilot
from crun_batch.preflight.prices import Prices
from crun_batch.scoring.docket import Docket
from crun_batch.state.run_state import RunContext


class Plan(Struct, frozen=True):
    """What a session sends under: the gateways, the prices, a pilot's rows, the questions that wait for judges."""

    gateways: tuple[GatewayFacts, ...]
    prices: Prices
    pilot: Pilot | None
    """None: all open rows are sent."""
    docket: Docket


def confirm(context: RunContext, plan: Plan) -> None:
    """Refuse what the budget or the balance cannot bear, then ask. Raises InputError (2), RefusedToStart (3)."""
    workload, options, state = context.workload, context.options, context.state
    reading = enough(workload, state.done, options.say) if plan.pilot is None else plan.pilot.reading
    assessment = assess(workload, state, plan.prices, reading, options.tick, plan.docket.waiting)
    assessment = with_measured(assessment, state.pilot)
    if plan.pilot is not None:
        assessment = structs.replace(assessment, limit_of=int, limit_option="--pilot")
    refuse_rejected(workload, assessment)
    reservations = reservations_of(workload, state.account.totals())
    verdict = judge(workload, assessment, plan.gateways, reservations, until_budget=options.until_budget)
    if not verdict.may_start:
        raise RefusedToStart(verdict.sentence)
    document = estimate_document(workload, assessment, plan.gateways, verdict)
    if options.confirm is not None and not options.confirm(document):
        raise RefusedToStart("not confirmed; nothing was sent")
