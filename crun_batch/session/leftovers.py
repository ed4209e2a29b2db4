"""The journal at the start of a session: opened, and what the last session left in flight brought to an end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.load.job.sections import EndpointSpec
from crun_batch.preflight.prices import Bill
from crun_batch.records import Cost, Decision, Failure, Fault, Reply, Response, Tries
from crun_batch.state.recovery import conclude_leftovers
from crun_batch.state.run_state import RunContext, RunState
from crun_batch.store.events import StartEvent
from crun_batch.store.journal import Journal, create_journal, resume_journal
from crun_batch.workload.workload import Workload


def open_journal(context: RunContext) -> Journal:
    """The run's journal, new or going on where it was recovered. Raises DiskFailed."""
    state, platform = context.state, context.options.platform
    syncer = platform.syncer() if platform.syncer is not None else None
    if state.recovered is None:
        checkpoint = state.account.to_checkpoint()
        return create_journal(state.directory, checkpoint, settings=platform.journal, syncer=syncer)
    return resume_journal(state.directory, state.recovered, settings=platform.journal, syncer=syncer)


def conclude_leftovers_of(context: RunContext, journal: Journal, bill: Bill) -> None:
    """Record the outcome, as far as it is known, of what the last session had in flight when it was killed."""
    workload, state = context.workload, context.state
    if state.recovered is None:
        return
    limits = workload.job.limits
    policy = RetryPolicy(limits.max_attempts, limits.max_unknown_retries)

    def read(
        start: StartEvent, arrival: Response | Fault, before: Tries
    ) -> tuple[Reply | Failure, Cost, Decision | None]:
        asked, endpoint = _asked_by(start, workload, state)
        if isinstance(arrival, Fault):
            result: Reply | Failure = check_fault(arrival)
        else:
            result = check(PROTOCOLS[endpoint.protocol], arrival, stream=endpoint.stream)
        model = asked or (result.model if isinstance(result, Reply) else None)
        decision = None
        if isinstance(result, Failure):
            decision = decide(result, before, policy, lane_has_succeeded=False, lane_was_reached=False, draw=0.0)
        return result, bill.cost(model, result), decision

    conclude_leftovers(state.recovered, journal, state.account, read)


def _asked_by(start: StartEvent, workload: Workload, state: RunState) -> tuple[str | None, EndpointSpec]:
    """The model that was asked, and its endpoint; of a judge as the last session had it."""
    if start.judge is not None:
        job = state.document["job"]
        judge: Mapping[str, Any] = next((spec for spec in job["score"] if spec["name"] == start.judge), {})
        return judge.get("model"), EndpointSpec.model_validate(judge.get("endpoint") or job["endpoint"])
    variants = {variant.name: variant for variant in workload.variants}
    variant = variants.get(start.variant, workload.variants[0])
    return variant.job.model, variant.job.endpoint
