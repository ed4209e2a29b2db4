"""May the open units be sent: the estimate, the budget, the balance, the confirmation."""

from __future__ import annotations

from msgspec import Struct, structs

from crun_batch.errors import RefusedToStart
from crun_batch.preflight.affordability import estimate_document, judge, refuse_rejected
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
    reading = enough(context) if plan.pilot is None else plan.pilot.reading
    assessment = assess(context, plan.prices, reading, plan.docket.waiting)
    assessment = with_measured(assessment, context.state.pilot)
    if plan.pilot is not None:
        assessment = structs.replace(assessment, limit_of=int, limit_option="--pilot")
    refuse_rejected(context, assessment)
    verdict = judge(context, assessment, plan.gateways)
    if not verdict.may_start:
        raise RefusedToStart(verdict.sentence)
    document = estimate_document(context, assessment, plan.gateways, verdict)
    confirm_start = context.options.confirm
    if confirm_start is not None and not confirm_start(document):
        raise RefusedToStart("not confirmed; nothing was sent")
