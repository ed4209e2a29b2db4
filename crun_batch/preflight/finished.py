"""What finished requests did, at today's prices: the ground of what the open ones are expected to cost.

What was sent under an earlier price keeps it; what is still to be sent will not cost that.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from crun_batch.preflight.prices import Prices, changes, frozen_prices
from crun_batch.pricing.bill import Bill
from crun_batch.pricing.finished import Finished, FinishedRequests
from crun_batch.records import PICO, Cost, Failure
from crun_batch.state.run_state import RunContext
from crun_batch.store.recorded_usage import USAGE_COLUMNS, recorded_usage
from crun_batch.store.requests import REQUESTS
from crun_batch.store.views import connect

Of = tuple[str, bool, bool]
"""Name of a variant or judge, whether it is a judge, whether rows stood among others."""


def finished_requests(context: RunContext, prices: Prices) -> FinishedRequests:
    """As the account has it. Where earlier prices are in the sums, stored tokens are priced for this alone."""
    recorded = context.state.account.finished_requests()
    if not context.state.document.get("earlier_prices") and not _has_changed(context, prices):
        return recorded
    costs = _costs_at(context, prices)

    def at_prices(by_name: Mapping[str, Finished], *, is_judge: bool, is_packed: bool) -> dict[str, Finished]:
        return {name: _with_cost(one, costs.get((name, is_judge, is_packed))) for name, one in by_name.items()}

    return FinishedRequests(
        at_prices(recorded.alone, is_judge=False, is_packed=False),
        at_prices(recorded.packed, is_judge=False, is_packed=True),
        at_prices(recorded.judges, is_judge=True, is_packed=False),
    )


def _has_changed(context: RunContext, prices: Prices) -> bool:
    """Whether today's prices are not those of the session before."""
    frozen = frozen_prices(context.state.document)
    return bool(changes(frozen, prices, context.workload.job, corrected=False))


def _costs_at(context: RunContext, prices: Prices) -> dict[Of, tuple[int, Cost]]:
    """How many rows and questions that were answered have a price today, and their sum.

    Equal requests are counted together: what the gateway states itself stays as it is.
    """
    workload, told = context.workload, ", ".join(USAGE_COLUMNS)
    bill = Bill(prices.price, workload.job.prices.credits_per_usd)
    models = {(variant.name, False): variant.job.model for variant in workload.variants}
    models |= {(judge.spec.name, True): judge.job.model for judge in workload.judges}
    with connect(context.state.directory.path) as connection:
        rows = connection.execute(
            f"select coalesce(judge, variant), judge is not null, rows, endpoint, model, {told}, "
            f"case when cost_source = 'reply' then (cost_usd * {PICO})::hugeint end, "
            f"case when cost_source = 'reply' then (cost_credits * {PICO})::hugeint end, count(*) "
            f"from {REQUESTS} where outcome = 'done' group by all"
        ).fetchall()
    found: dict[Of, tuple[int, Cost]] = {}
    for name, is_judge, together, endpoint, answered_by, *usage, usd, credits_, number in rows:
        cost = Cost(usd, credits_, "reply")
        if usd is None and credits_ is None:
            done = Failure("done", "bad_reply", "fail_row", "", usage=recorded_usage(usage))
            cost = bill.cost(models.get((name, is_judge)) or answered_by, done, endpoint)
        priced = number * together if cost.usd_pico is not None or cost.credits_pico is not None else 0
        key = name, is_judge, together > 1
        before = found.get(key, (0, Cost()))
        found[key] = before[0] + priced, _plus(before[1], _times(cost, number))
    return found


def _times(cost: Cost, number: int) -> Cost:
    usd, credits_ = (None if pico is None else pico * number for pico in (cost.usd_pico, cost.credits_pico))
    return Cost(usd, credits_)


def _plus(left: Cost, right: Cost) -> Cost:
    pairs = ((left.usd_pico, right.usd_pico), (left.credits_pico, right.credits_pico))
    usd, credits_ = (one if other is None else (one or 0) + other for one, other in pairs)
    return Cost(usd, credits_)


def _with_cost(one: Finished, priced: tuple[int, Cost] | None) -> Finished:
    number, cost = priced or (0, Cost())
    return structs.replace(
        one, priced_requests=number, cost_usd_pico=cost.usd_pico, cost_credits_pico=cost.credits_pico
    )
