"""Before the start: what the gateways offer, and whether what is open may be sent at its cost. Arithmetic only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from msgspec import structs

from crun_batch.errors import EXIT_OUT_OF_MONEY
from crun_batch.gateway.pool_seams import NO_ROOM
from crun_batch.load.job.secrets import secrets_sent
from crun_batch.preflight.assessment import Assessment
from crun_batch.preflight.gateway_facts import GatewayFacts, GatewayOffer, beside, refusals_in, remarks_on
from crun_batch.preflight.judge_costs import STORED
from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.pricing.estimate import combine
from crun_batch.pricing.figures import Estimate, Limits
from crun_batch.pricing.may_start import Needs, Preflight, may_start, used_up
from crun_batch.records import Halt, Hold, decimal_text, pico_of
from crun_batch.state.run_state import RunContext


def reservations_of(context: RunContext) -> Reservations:
    """The budget of the run directory, with what its sessions so far spent and hold."""
    budget, totals = context.workload.job.budget, context.state.account.totals()
    return Reservations(
        context.state.caps or caps_of(budget.max_cost_usd, budget.max_cost_credits, context.workload.part_of),
        spent=Hold(totals.cost_usd, totals.cost_credits),
        unknown=Hold(totals.held_usd, totals.held_credits),
    )


def caps_of(
    max_cost_usd: Decimal | None, max_cost_credits: Decimal | None, part_of: Callable[[int], int]
) -> Budget:
    """What may be spent here, in pico: `part_of` what a job's budget says, which is that of all its shards."""
    caps = (max_cost_usd, max_cost_credits)
    return Budget(*(None if cap is None else part_of(pico_of(cap)) for cap in caps))


def judge(context: RunContext, assessment: Assessment, gateways: Sequence[GatewayFacts]) -> Preflight:
    """May the open units be sent, as far as caps and balances go? A gateway's balance is for its own variants."""
    reservations, keep = reservations_of(context), context.workload.job.budget.keep_credits
    lists = _lists(gateways)
    if len(lists) == 1:
        return _judged(context, assessment, _offer_of(lists[0], keep), reservations)
    verdict = _judged(context, assessment, None, reservations)
    notes = list(verdict.notes)
    for one in lists if verdict.may_start else ():
        own = structs.replace(assessment, estimate=_estimate_of(assessment.estimate, one))
        uncapped = Reservations(Budget())
        verdict = _judged(context, own, _offer_of(one, keep), uncapped)
        notes += verdict.notes
        if not verdict.may_start:
            where = " and ".join(dict.fromkeys(facts.job.endpoint.base_url for facts in one))
            sentence = f"{where}: {verdict.sentence}"
            return structs.replace(verdict, sentence=sentence, notes=tuple(dict.fromkeys(notes)))
    return structs.replace(verdict, notes=tuple(dict.fromkeys(notes)))


def _lists(gateways: Sequence[GatewayFacts]) -> list[list[GatewayFacts]]:
    """The gateways, together where the same rows may go to them."""
    found: list[list[GatewayFacts]] = []
    for facts in gateways:
        related = [one for one in found if any(other in beside(facts, gateways) for other in one)]
        found = [one for one in found if one not in related]
        found.append([*(facts for one in related for facts in one), facts])
    return found


def _offer_of(gateways: Sequence[GatewayFacts], keep: Decimal) -> GatewayOffer:
    """What a list of gateways offers together: a row may be paid from each balance, and of each some must stay."""
    if len(gateways) == 1:
        return gateways[0].offer
    not_asked = [facts.offer for facts in gateways if facts.offer.not_asked is not None]
    if not_asked:
        return not_asked[0]
    asked = [facts.offer for facts in gateways if facts.offer.refusal is None]
    balances = [offer.balance for offer in asked if offer.balance is not None]
    amounts = [balance.amount for balance in balances if balance.amount is not None]
    if len({balance.unit for balance in balances}) > 1 or len(amounts) < len(balances):
        return GatewayOffer(balance_fault="these balances do not add up")
    if len(amounts) < len(asked) or not amounts:
        return GatewayOffer(
            balance_fault=next((offer.balance_fault for offer in asked if offer.balance_fault), None)
        )
    return GatewayOffer(balance=structs.replace(balances[0], amount=sum(amounts) - keep * (len(amounts) - 1)))


def _estimate_of(estimate: Estimate, gateways: Sequence[GatewayFacts]) -> Estimate:
    """The part of the estimate about some gateways' variants and judges: their entries are named after them."""
    names = {variant.name for facts in gateways for variant in facts.targets}
    own = [
        entry
        for entry in estimate.variants
        if names & {entry.name, entry.name.rpartition(", turn ")[0], entry.name.removesuffix(STORED)}
    ]
    return combine(own, Limits(1))


def _judged(
    context: RunContext, assessment: Assessment, offer: GatewayOffer | None, reservations: Reservations
) -> Preflight:
    """Against the caps, and against the balance of this gateway; None: against the caps alone."""
    workload = context.workload
    finished_rows = workload.table.selected_rows - assessment.open_rows
    estimate = assessment.estimate
    needs = {
        unit: Needs(
            assessment.open_rows,
            finished_rows,
            span.low,
            span.expected,
            assessment.limit_of,
            assessment.limit_option,
            assessment.open_units,
            _unpriced(estimate, unit),
            span.high if span.at_most is None else span.at_most,
        )
        for unit, span in (("usd", estimate.cost_usd), ("credits", estimate.cost_credits))
    }
    budget = workload.job.budget
    balance = offer.balance if offer is not None else None
    has_no_amount = (
        offer is None
        or offer.refusal is not None
        or offer.not_asked is not None
        or offer.balance_fault is not None
        or (balance is not None and balance.amount is None)
    )
    return may_start(
        needs,  # type: ignore[arg-type]
        reservations,
        balance=None if balance is None or balance.amount is None else (balance.amount, balance.unit),
        credits_mode="off" if has_no_amount else budget.credits,
        keep=budget.keep_credits,
        until_budget=context.options.until_budget,
    )


def _unpriced(estimate: Estimate, unit: str) -> list[str]:
    """The models, each once, of which it is unknown what they cost in the unit."""
    spans = {one.model: one.cost_usd if unit == "usd" else one.cost_credits for one in estimate.variants}
    return [model for model, span in spans.items() if span.low is None]


def how_to_go_on(halt: Halt | None, context: RunContext) -> Halt | None:
    """The halt, with what to do next where money is what is missing."""
    if halt is None or halt.exit_code != EXIT_OUT_OF_MONEY:
        return halt
    if halt.reason == NO_ROOM:
        shard = context.workload.shard
        how = [
            used_up(reservations_of(context), context.state.reservations),
            *(() if shard is None else shard.caps),
        ]
        return structs.replace(halt, reason=f"{halt.reason}: {'; '.join(how)}")
    return structs.replace(halt, reason=f"{halt.reason}; top it up and start again, what is finished stays")


def bill_at_most(context: RunContext, assessment: Assessment, pilot_units: int | None) -> Hold:
    """What all sessions together will have cost once all is done.

    `pilot_units`: the open units of a pilot's rows, which stand for all open ones; None: all rows were estimated.
    """
    totals, units = context.state.account.totals(), pilot_units or 1
    times = units if pilot_units is None else context.open_units

    def at_most(spent_pico: int, high_pico: int | None) -> int | None:
        return None if high_pico is None else spent_pico - (-high_pico * times // units)

    estimate = assessment.estimate
    return Hold(
        at_most(totals.cost_usd, estimate.cost_usd.high),
        at_most(totals.cost_credits, estimate.cost_credits.high),
    )


def caps_to_go_on(halt: Halt | None, context: RunContext) -> dict[str, int]:
    """Unit -> the cap under which what is open fits, where a cap has stopped the run that is too low for it."""
    reservations, bill = context.state.reservations, context.state.bill_at_most
    if halt is None or halt.reason != NO_ROOM or reservations is None:
        return {}
    purses = (("usd", reservations.usd, bill.usd_pico), ("credits", reservations.credits, bill.credits_pico))
    needed = {
        unit: purse.cap_to_finish_pico(bill_pico, context.open_units)
        for unit, purse, bill_pico in purses
        if purse.cap_pico is not None
    }
    shard = context.workload.shard
    times = 1 if shard is None else shard.which.count
    return {
        unit: pico * times for unit, pico in needed.items() if pico > (getattr(reservations, unit).cap_pico or 0)
    }


def estimate_document(
    context: RunContext, assessment: Assessment, gateways: Sequence[GatewayFacts], verdict: Preflight
) -> dict[str, Any]:
    """The estimate for --json: everything that the words say, amounts as decimal text.

    `balance` is that of the only gateway; null where several are asked, whose balances are not one.
    """
    balance = gateways[0].offer.balance if len(gateways) == 1 else None
    refusals = refusals_in(context.workload, gateways)
    refused = [] if refusals.sentence is None else [refusals.sentence]
    refused += [f"{name} would be set aside: {why}" for name, why in refusals.set_aside.items()]
    left_out = {(name, halt.reason) for (_, name), halt in refusals.left_out.items()}
    refused += [f"endpoint {name} would be left out: {why}" for name, why in sorted(left_out)]
    remarks = [remark for facts in gateways for remark in remarks_on(facts, gateways)]
    shard = context.workload.shard
    remarks += [] if shard is None else [*shard.caps, *shard.remarks]
    checks = [*refused, *([verdict.sentence] if verdict.sentence else []), *remarks, *verdict.notes]
    return {
        "name": context.workload.job.name,
        "shard": None if shard is None else str(shard.which),
        "open_rows": assessment.open_rows,
        **assessment.estimate.to_dict(),
        "reused": assessment.reused.to_dict(),
        "balance": None
        if balance is None
        else {"amount": _text(balance.amount), "unit": balance.unit, "source": balance.source},
        "secrets": secrets_sent(target.job for target in context.workload.targets),
        "may_start": verdict.may_start and refusals.sentence is None,
        "checks": list(dict.fromkeys(checks)),
    }


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else decimal_text(pico_of(amount))
