"""The judges' hooks between pool and journal: attempts are booked by judge, and nothing follows from them."""

from __future__ import annotations

from collections.abc import Sequence

from crun_batch.records import Attempt, Failure, Fault, GiveUp, Outcome, Response, Room, Ticket
from crun_batch.session.entries import read_event
from crun_batch.session.tools import Tools


class JudgeRecorder:
    """The pool's hooks for questions, writing to one journal."""

    def __init__(self, tools: Tools) -> None:
        self.attempts = tools.attempts
        self.tally = tools.tally
        self._journal = tools.journal
        self.together = tools.journal.together
        """Records made inside reach the disk when the block ends, in one write."""

    def reserve(self, ticket: Ticket) -> Room:
        """Hold the question's bound under the budget, where there is room."""
        return self.attempts.reserve(ticket)

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """Record that the questions are about to go."""
        return self.attempts.started(tickets)

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Record raw replies, or the ends of waits for them."""
        return self.attempts.arrived(arrivals)

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Price what came, settle its hold, record it."""
        concluded = self.attempts.concluded(outcomes)
        is_full = self._journal.append_reads([read_event(one, None) for one, _ in concluded])
        for outcome in outcomes:
            is_failure = isinstance(outcome.result, Failure)
            if not is_failure or isinstance(outcome.decision, GiveUp):
                self.tally.count(outcome.attempt.ticket.unit.variant, is_ok=not is_failure, is_error=is_failure)
        if is_full:
            self.attempts.rotate()
        return [None for _ in outcomes]
