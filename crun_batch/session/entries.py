"""What becomes of a result: the journal's `read` event, and the unit's final part where the unit is done.

Pure conversions between values of other packages: nothing is sent, written or timed here.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from crun_batch.gateway.protocols.charges import tier_named
from crun_batch.pricing.account import UnitKey, UnitSoFar
from crun_batch.records import (
    Again,
    Cost,
    Decision,
    Failure,
    GiveUp,
    OutcomeClass,
    Reply,
    Status,
    Ticket,
    Tries,
    Unit,
)
from crun_batch.store.events import FinalPart, ReadEvent, StartEvent
from crun_batch.workload.conversation import UnitResult

NO_TRIES = Tries()


class _Absent(Struct, frozen=True):
    """Stands for the reply, the failure or the usage that a result has not."""

    kind: None = None
    message: None = None
    input_tokens: None = None
    cached_input_tokens: None = None
    cache_write_tokens: None = None
    output_tokens: None = None
    reasoning_tokens: None = None
    service_tier: None = None
    cache_write_1h_tokens: None = None
    other_charges: None = None
    text: None = None
    tool_calls: None = None
    finish_reason: None = None
    model: None = None
    response_id: None = None
    assembled: None = None
    note: None = None


class _NoPack(Struct, frozen=True):
    """Stands for the place in a pack of a row that is asked alone."""

    rows: None = None
    place: None = None


_ABSENT = _Absent()
_NO_PACK = _NoPack()


class ConcludedAttempt(Struct, frozen=True, gc=False):
    """An attempt that is over, with all that was made of it."""

    start: StartEvent
    finished_at: int | None
    latency_us: int | None
    http_status: int | None
    result: Reply | Failure
    cost: Cost
    tries: Tries
    """Of the unit, this attempt included."""
    decision: Decision | None = None

    @property
    def outcome(self) -> OutcomeClass:
        return "done" if isinstance(self.result, Reply) else self.result.outcome


def tries_after(before: Tries, result: Reply | Failure, decision: Decision | None) -> Tries:
    """The unit's counters after an attempt. An answer begins them anew: what follows it is another request."""
    if isinstance(result, Reply):
        return NO_TRIES
    return decision.tries if isinstance(decision, Again | GiveUp) else before


def at_asked_tier(result: Reply | Failure, asked: str | None) -> Reply | Failure:
    """The result; its tokens count as served at the tier that was asked for where the reply names none."""
    usage = result.usage
    if asked is None or usage is None or usage.service_tier is not None:
        return result
    return structs.replace(result, usage=structs.replace(usage, service_tier=tier_named(asked)))


def unit_key(unit: Unit, variant: str) -> UnitKey:
    """The unit's name in the account."""
    return str(unit.row_id), variant, unit.repeat


def status_of(result: Reply | Failure) -> Status:
    """The status that a unit has when `result` is its last word."""
    if isinstance(result, Reply):
        return result.status
    return "refused" if result.kind == "content_filter" else "error"


def start_event(ticket: Ticket, serial: int, target: str, started_at: int) -> StartEvent:
    """The record that goes before the request; `target` is the name of the variant or the judge that is asked.

    In the order of the fields: with their names the call would cost three times as much.
    """
    unit, hold = ticket.unit, ticket.hold
    return StartEvent(
        serial,
        str(unit.row_id),
        unit.position,
        ticket.answered_by or target,
        unit.repeat,
        ticket.turn,
        ticket.purpose,
        ticket.attempt,
        started_at,
        ticket.request_hash,
        hold.usd_pico,
        hold.credits_pico,
        ticket.judge,
        ticket.endpoint,
        ticket.service_tier,
        ticket.pack,
    )


def read_event(settled: ConcludedAttempt, final: FinalPart | None) -> ReadEvent:
    """What was made of the reply or fault, with the final part where the unit is done.

    The arguments stand in the order of the fields: a call with so many names would cost fifteen times as much.
    """
    start, result, cost = settled.start, settled.result, settled.cost
    pack = start.pack or _NO_PACK
    usage = result.usage or _ABSENT
    held_usd, held_credits = start.held_usd, start.held_credits
    if cost.beyond_hold is not None:  # they bounded tokens at known prices
        held_usd = held_credits = None
    reply, failure = (result, _ABSENT) if isinstance(result, Reply) else (_ABSENT, result)
    return ReadEvent(
        start.n,
        start.id,
        start.position,
        start.variant,
        settled.outcome,
        start.repeat,
        start.turn,
        start.purpose,
        start.attempt,
        start.started_at,
        settled.finished_at,
        settled.latency_us,
        start.request_hash,
        held_usd,
        held_credits,
        settled.http_status,
        failure.kind,
        reply.note or failure.message,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        cost.usd_pico,
        cost.credits_pico,
        cost.source,
        result.reported_usd,
        reply.text,
        reply.tool_calls,
        reply.finish_reason,
        reply.model,
        reply.response_id,
        reply.assembled.decode(errors="replace") if reply.assembled else None,
        settled.tries.counted,
        settled.tries.unknown,
        final is None and start.judge is None and isinstance(settled.decision, GiveUp),
        final,
        start.judge,
        start.endpoint,
        usage.service_tier or start.service_tier,
        pack.rows,
        pack.place,
        usage.cache_write_1h_tokens or None,
        usage.other_charges,
    )


def final_part(
    settled: ConcludedAttempt, so_far: UnitSoFar, *, carried: Mapping[str, str | None], replaces: str | None
) -> FinalPart:
    """The unit's result where every reply is one: the last attempt's answer, the sums of all its attempts."""
    part = FinalPart(
        status=status_of(settled.result),
        as_read=True,
        unknown_attempts=so_far.unknown,
        carried=carried,
        supersedes=replaces is not None,
        replaces=replaces,
    )
    if so_far.attempts == 1:  # its sums are those of its read event, from which a final takes what it leaves out
        return part
    return _with_sums(part, so_far)


def conversation_part(part: FinalPart, verdict: UnitResult, so_far: UnitSoFar, unit_hash: str | None) -> FinalPart:
    """`part` with what the whole dialogue says. An answer that no repair made valid stays the unit's text."""
    part = structs.replace(
        part,
        status=verdict.status,
        output=verdict.output,
        outputs=verdict.outputs,
        error_kind=verdict.error_kind,
        error_message=verdict.error_message,
        request_hash=unit_hash,
    )
    return _with_answer(part, so_far.answers[-1].reply) if verdict.status == "invalid" else part


def stored_part(so_far: UnitSoFar, verdict: UnitResult, unit_hash: str | None) -> FinalPart:
    """The result of a unit whose last answer, or failure for good, was recorded by an earlier session."""
    part = _with_sums(FinalPart(status=verdict.status), so_far)
    asked = so_far.failure_hash
    if so_far.failure is None:
        part = _with_answer(part, so_far.answers[-1].reply)
        asked = so_far.answers[-1].request_hash
    return conversation_part(part, verdict, so_far, unit_hash or asked)


def _with_sums(part: FinalPart, so_far: UnitSoFar) -> FinalPart:
    """`part` with the sums of all attempts of its unit; tokens stay null where no reply told any."""
    usage = so_far.usage or _ABSENT
    return structs.replace(
        part,
        cost_source=so_far.cost_source,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=so_far.cost_usd,
        cost_credits=so_far.cost_credits,
        attempt_count=so_far.attempts,
        unknown_attempts=so_far.unknown,
        started_at=so_far.started_at,
    )


def _with_answer(part: FinalPart, reply: Reply) -> FinalPart:
    return structs.replace(
        part,
        text=reply.text,
        tool_calls=reply.tool_calls,
        finish_reason=reply.finish_reason,
        model=reply.model,
        response_id=reply.response_id,
    )
