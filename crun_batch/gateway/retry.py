"""What follows a failed attempt: again, give the row up, or halt the run. A table's worth of decisions, no I/O.

Attempts that ended in a refusal for lack of room are never counted against the row. It waits for itself, at least
as long as its own refusal said; whether its lane waits too is the lane's to say.
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct, structs

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.records import FREE_OUTCOMES, Again, Decision, Failure, GiveUp, Halt, Ticket, Tries

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 60.0
GROWTH, GROWTH_UNREACHED = 2.0, 4.0
"""How much longer a row waits after each attempt. A gateway that was there and is gone is not back within seconds:
six attempts span a minute or more, in which one is started again, or a network comes back."""
LONGEST_JITTER_SECONDS = 0.25
REFUSALS_BEFORE_DOUBLING = 3


class RetryPolicy(Struct, frozen=True):
    """`limits` of the job file: counted attempts per row, and retries after one that may have been billed."""

    max_attempts: int = 6
    max_unknown_retries: int = 1


def decide(
    failure: Failure,
    tries: Tries,
    policy: RetryPolicy,
    *,
    lane_has_succeeded: bool,
    lane_was_reached: bool,
    draw: float,
    key: str = "the key",
) -> Decision:
    """What follows `failure`, the row's earlier `tries` given; `draw` in [0, 1) spreads the delays.

    `lane_was_reached`: something at the gateway has answered a request, whatever it said. Until then no row is
    given up for want of a connection: that says nothing of the row. `key`: which one was sent, in words.
    """
    match failure.action:
        case "stop_credits":
            return Halt(EXIT_OUT_OF_MONEY, f"the gateway has no credit left: {failure.message}")
        case "stop_key":
            more = "any more " if lane_has_succeeded else ""
            refusal = f"it does not accept {key} {more}({failure.message})"
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {refusal}")
        case "stop_refused":
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {failure.message}")
        case "stop_model":
            if lane_has_succeeded:
                return GiveUp(tries)
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway refuses this job: {failure.message}")
        case "stop_unreached":
            if lane_was_reached:
                return _retry(failure, tries, policy, draw, is_gone=True)
            return Halt(EXIT_GATEWAY_REFUSED, f"the gateway cannot be reached: {failure.message}")
        case "fail_row":
            return GiveUp(tries)
        case "cool_down":
            refused = structs.replace(tries, refused=tries.refused + 1)
            return Again(_refused_wait_seconds(failure.retry_after_seconds, tries.refused, draw), refused)
        case "retry":
            is_gone = lane_was_reached and failure.outcome == "not_sent"
            decision = _retry(failure, tries, policy, draw, is_gone=is_gone)
            if isinstance(decision, GiveUp) and not lane_was_reached and _is_about_the_way(failure):
                attempts = (
                    f"{decision.tries.counted} attempts" if decision.tries.counted > 1 else "the only attempt"
                )
                return Halt(EXIT_GATEWAY_REFUSED, f"the gateway was not reached ({attempts}): {failure.message}")
            return decision
        case _:
            assert_never(failure.action)


def retried(ticket: Ticket, decision: Again, now: float) -> Ticket:
    """The same request, one attempt later; of several endpoints it avoids those that failed, each for its time."""
    avoids = ticket.avoids
    if ticket.endpoint is not None:
        others = [one for one in avoids if one[0] != ticket.endpoint and one[1] > now]
        avoids = (*others, (ticket.endpoint, now + decision.not_there_seconds))
    return structs.replace(ticket, attempt=ticket.attempt + 1, tries=decision.tries, avoids=avoids)


def _is_about_the_way(failure: Failure) -> bool:
    """Whether no reply of a gateway is behind it; one that takes too long to answer may well have been reached."""
    return failure.outcome == "not_sent" or failure.kind in ("connection", "bad_reply")


def _refused_wait_seconds(told_seconds: float | None, refused_before: int, draw: float) -> float:
    """As told and a little more; else half a second, and from the fourth refusal on twice as long each time."""
    if told_seconds is not None:
        return told_seconds + LONGEST_JITTER_SECONDS * draw
    doublings = min(max(0, refused_before - REFUSALS_BEFORE_DOUBLING), 16)
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**doublings) * (0.5 + draw / 2)


def _retry(failure: Failure, tries: Tries, policy: RetryPolicy, draw: float, *, is_gone: bool) -> Decision:
    may_be_billed = failure.outcome not in FREE_OUTCOMES
    after = Tries(tries.counted + 1, tries.unknown + may_be_billed, tries.refused)
    if after.counted >= policy.max_attempts or (may_be_billed and after.unknown > policy.max_unknown_retries):
        return GiveUp(after)
    growth = GROWTH_UNREACHED if is_gone else GROWTH
    backoff = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * growth**tries.counted) * (0.5 + draw / 2)
    return Again(max(backoff, failure.retry_after_seconds or 0.0), after)
