"""What the last session left in flight is brought to an end, on disk, before anything new is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.pricing.bill import FREE_OUTCOMES, Bill
from crun_batch.records import Cost, Failure, Fault, Reply, Response, Tries
from crun_batch.session.entries import NO_TRIES, ConcludedAttempt, at_asked_tier, read_event, tries_after
from crun_batch.state.recovery import book
from crun_batch.state.run_state import RunContext
from crun_batch.store.batches import Fate
from crun_batch.store.events import EndEvent, StartEvent
from crun_batch.store.journal import Journal


def conclude_leftovers(context: RunContext, journal: Journal, bill: Bill) -> None:
    """Record what a kill left open: replies that nobody read yet, and requests whose outcome is unknown.

    1. A recorded reply is read, priced and booked as the session that got it would have done: it was paid.
    2. A request without a recorded reply may have been billed: unknown, and its hold stays.
    3. One that was to go in a batch which was never submitted was not sent; one that is in a batch stays there.
    """
    recovered = context.state.recovered
    if recovered is None:
        return
    for start, end in recovered.unread:
        conclude_reply(context, journal, bill, start, end)
    leave_in_flight(context, journal, recovered.in_flight)


def conclude_reply(context: RunContext, journal: Journal, bill: Bill, start: StartEvent, end: EndEvent) -> Cost:
    """Read, price and book a recorded reply without its row: a recorded answer; what it cost."""
    concluded = _read(context, bill, start, end)
    _record(context, journal, concluded)
    is_free = concluded.outcome in FREE_OUTCOMES
    return Cost(0, 0) if is_free else concluded.cost


def leave_in_flight(context: RunContext, journal: Journal, starts: Iterable[StartEvent]) -> None:
    """Record that the process ended, or is to end now, with these requests in flight; those in batches stay.

    A simulator ends with its session: what was in its batches is in flight for ever.
    """
    if context.options.simulate:
        context.state.batches.lose_all("the simulator ended with its session")
    for start in starts:
        failure = _LEFT[context.state.batches.fate(start.n)]
        if failure is not None:
            left = ConcludedAttempt(start, None, None, None, failure, Cost(), _tries(context, start))
            _record(context, journal, left)
    if context.state.batches.last_number:
        journal.sync()
        context.state.batches.release_unsent("the process ended before it was submitted")


_LEFT: Mapping[Fate, Failure | None] = {
    "unknown": Failure(
        outcome="unknown",
        kind="unknown_outcome",
        action="retry",
        message="in flight when the process ended: the gateway may have billed it",
    ),
    "never_sent": Failure(
        outcome="not_sent",
        kind="connection",
        action="retry",
        message="the process ended before the batch was submitted that it was to go in",
    ),
    "submitted": None,
}
"""What is recorded of a request without a reply, by what is known of it; None: its batch will tell."""


def _read(context: RunContext, bill: Bill, start: StartEvent, end: EndEvent) -> ConcludedAttempt:
    """What was made of a reply that nobody had read."""
    limits, before, arrival = context.workload.job.limits, _tries(context, start), arrival_of(end)
    model, endpoint = _asked_by(context, start)
    if isinstance(arrival, Fault):
        result: Reply | Failure = check_fault(arrival)
    else:
        result = check(PROTOCOLS[endpoint.protocol], arrival, stream=endpoint.stream)
    result = at_asked_tier(result, start.service_tier)
    decision = None
    if isinstance(result, Failure):
        policy = RetryPolicy(limits.max_attempts, limits.max_unknown_retries)
        so_far = context.state.account.totals()
        was_reached = so_far.done + so_far.rejected > 0
        decision = decide(result, before, policy, lane_has_succeeded=False, lane_was_reached=was_reached, draw=0.0)
    named = model or (result.model if isinstance(result, Reply) else None)
    return ConcludedAttempt(
        start=start,
        finished_at=end.finished_at,
        latency_us=end.latency_us,
        http_status=end.http_status,
        result=result,
        cost=bill.cost(named, result, start.endpoint),
        tries=tries_after(before, result, decision),
        decision=decision,
    )


def _asked_by(context: RunContext, start: StartEvent) -> tuple[str | None, EndpointSpec]:
    """The model that was asked, and its endpoint; of a judge as the last session had it."""
    if start.judge is not None:
        job = context.state.document["job"]
        judge: Mapping[str, Any] = next((spec for spec in job["score"] if spec["name"] == start.judge), {})
        return judge.get("model"), EndpointSpec.model_validate(one_of(judge.get("endpoint") or job["endpoint"]))
    variants = {variant.name: variant for variant in context.workload.variants}
    variant = variants.get(start.variant, context.workload.variants[0])
    return variant.job.model, variant.job.endpoint


def one_of(endpoint: Any) -> Any:
    """An endpoint of job.json, or one of its list: they are asked and read in the same way."""
    return endpoint[0] if isinstance(endpoint, list) else endpoint


def arrival_of(end: EndEvent) -> Response | Fault:
    """What the wire brought, as it was recorded."""
    fault = end.fault
    if fault is None:
        return Response(end.http_status or 0, end.headers or {}, end.raw_body())
    return Fault(fault.stage, fault.kind, fault.message, end.http_status, end.raw_body())  # type: ignore[arg-type]


def _tries(context: RunContext, start: StartEvent) -> Tries:
    """What is counted of the unit; a judge's attempts are counted anew in each session."""
    if start.judge is not None:
        return NO_TRIES
    unit = context.state.account.open_units.get((start.id, start.variant, start.repeat))
    return NO_TRIES if unit is None else unit.tries


def _record(context: RunContext, journal: Journal, concluded: ConcludedAttempt) -> None:
    event = read_event(concluded, None)
    journal.append_reads([event])
    book(context.state.account, event)
