"""What came of the requests of a batch: recorded, read and concluded as replies to single requests are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from msgspec import structs

from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.pool_seams import Hooks
from crun_batch.gateway.protocols.protocol import Protocol
from crun_batch.gateway.retry import RetryPolicy, decide, retried
from crun_batch.records import Again, Attempt, Decision, Failure, Fault, Halt, Outcome, Reply, Response, Ticket
from crun_batch.store.undone import left_undone

AT_ONCE = 256
"""Replies that are recorded and read in one go."""


class Conclusions:
    """Reads what batches bring."""

    def __init__(
        self, hooks: Hooks, protocols: Sequence[Protocol], retry: RetryPolicy, *, is_followed_live: bool
    ) -> None:
        """`is_followed_live`: what a batch has left undone goes live."""
        self.has_succeeded = False
        self._is_followed_live = is_followed_live
        self._hooks = hooks
        self._protocols = protocols
        self._retry = retry
        self._random = random.Random(0)

    def conclude(
        self, arrivals: Sequence[tuple[Attempt, Response | Fault]], *, uncounted: bool = False, halts: bool = True
    ) -> Iterator[tuple[Outcome, Ticket | None]]:
        """Record and read some replies after others; each with what its unit asks next, or asks again.

        `uncounted`: a failure is none of the row's, and does not count against it. Not `halts`: nor is one that
        would end the session, which was not there when the gateway said so. Raises DiskFailed.
        """
        for first in range(0, len(arrivals), AT_ONCE):
            part = arrivals[first : first + AT_ONCE]
            kept = self._hooks.arrived(part)
            with self._hooks.together():
                pairs = zip(part, kept, strict=True)
                outcomes = [self._outcome(attempt, arrival, uncounted, halts) for (attempt, _), arrival in pairs]
                follow_ups = self._hooks.concluded(outcomes)
            for outcome, follow_up in zip(outcomes, follow_ups, strict=True):
                decision = outcome.decision
                yield outcome, self._again(outcome, decision) if isinstance(decision, Again) else follow_up

    def _again(self, outcome: Outcome, decision: Again) -> Ticket:
        """The same request once more, in a batch or live."""
        result, ticket = outcome.result, retried(outcome.attempt.ticket, decision, 0.0)
        is_left = isinstance(result, Failure) and left_undone(ticket.endpoint, result.outcome, result.kind)
        if not (self._is_followed_live and is_left and ticket.if_left is not None):
            return ticket
        return structs.replace(ticket, hold=ticket.if_left, if_left=None, endpoint=None, avoids=())

    def _outcome(self, attempt: Attempt, arrival: Response | Fault, uncounted: bool, halts: bool) -> Outcome:
        result = self._read(attempt, arrival)
        if isinstance(result, Reply):
            self.has_succeeded = True
            return Outcome(attempt, result, None)
        once_more = Again(0.0, attempt.ticket.tries)
        if uncounted or (self._is_followed_live and result.outcome == "not_sent"):
            return Outcome(attempt, result, once_more)
        decision = self._decision(attempt, result)
        return Outcome(attempt, result, once_more if isinstance(decision, Halt) and not halts else decision)

    def _read(self, attempt: Attempt, arrival: Response | Fault) -> Reply | Failure:
        if isinstance(arrival, Fault):
            return check_fault(arrival)
        return check(self._protocols[attempt.ticket.unit.variant], arrival, stream=False)

    def _decision(self, attempt: Attempt, failure: Failure) -> Decision:
        if failure.action == "cool_down":  # its next batch waits for no lane: uncounted, this would go on for ever
            failure = structs.replace(failure, action="retry")
        return decide(
            failure,
            attempt.ticket.tries,
            self._retry,
            lane_has_succeeded=self.has_succeeded,
            lane_was_reached=True,
            draw=self._random.random(),
        )
