"""A recorded reply that nobody has read, read as the session that got it would have done, without its row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.load.job.endpoint_sections import EndpointSpec
from crun_batch.pricing.bill import Bill
from crun_batch.records import Failure, Fault, Reply, Response, Tries
from crun_batch.session.entries import NO_TRIES, ConcludedAttempt, at_asked_tier, tries_after
from crun_batch.session.packing.pack import row_of_recorded
from crun_batch.state.run_state import RunContext
from crun_batch.store.events import EndEvent, StartEvent


def read_recorded(context: RunContext, bill: Bill, start: StartEvent, end: EndEvent) -> ConcludedAttempt:
    """What was made of a reply that nobody had read."""
    limits, before, arrival = context.workload.job.limits, tries_of(context, start), arrival_of(end)
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
    cost = bill.cost(named, result, start.endpoint)
    if start.pack is not None:
        result, cost, decision = row_of_recorded(start.pack, result, cost, decision)
    return ConcludedAttempt(
        start=start,
        finished_at=end.finished_at,
        latency_us=end.latency_us,
        http_status=end.http_status,
        result=result,
        cost=cost,
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


def tries_of(context: RunContext, start: StartEvent) -> Tries:
    """What is counted of the unit; a judge's attempts are counted anew in each session."""
    if start.judge is not None:
        return NO_TRIES
    unit = context.state.account.open_units.get((start.id, start.variant, start.repeat))
    return NO_TRIES if unit is None else unit.tries
