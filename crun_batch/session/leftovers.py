"""What the last session left in flight is brought to an end, on disk, before anything new is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crun_batch.pricing.bill import Bill
from crun_batch.records import FREE_OUTCOMES, Cost, Failure
from crun_batch.session.entries import ConcludedAttempt, read_event
from crun_batch.session.packing.leftovers import with_replies_of_packs
from crun_batch.session.recorded_replies import read_recorded, tries_of
from crun_batch.state.recovery import IN_FLIGHT_AT_A_KILL, book
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
    replies, in_flight = with_replies_of_packs(recovered)
    for start, end in replies:
        conclude_reply(context, journal, bill, start, end)
    leave_in_flight(context, journal, in_flight)


def conclude_reply(context: RunContext, journal: Journal, bill: Bill, start: StartEvent, end: EndEvent) -> Cost:
    """Read, price and book a recorded reply without its row: a recorded answer; what it cost."""
    concluded = read_recorded(context, bill, start, end)
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
            left = ConcludedAttempt(start, None, None, None, failure, Cost(), tries_of(context, start))
            _record(context, journal, left)
    if context.state.batches.last_number:
        journal.sync()
        context.state.batches.release_unsent("the process ended before it was submitted")


_LEFT: Mapping[Fate, Failure | None] = {
    "unknown": IN_FLIGHT_AT_A_KILL,
    "never_sent": Failure(
        outcome="not_sent",
        kind="connection",
        action="retry",
        message="the process ended before the batch was submitted that it was to go in",
    ),
    "submitted": None,
}
"""What is recorded of a request without a reply, by what is known of it; None: its batch will tell."""


def _record(context: RunContext, journal: Journal, concluded: ConcludedAttempt) -> None:
    event = read_event(concluded, None)
    journal.append_reads([event])
    book(context.state.account, event)
