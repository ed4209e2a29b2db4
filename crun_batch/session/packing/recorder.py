"""The hooks of a job that packs: between a pool, which sends requests, and rows, each with a record of its own.

To the pool a request of several rows is one ticket: reserved, retried and limited as one. To the recorder of rows
it is as many attempts as it has rows, which start, arrive and end together. Owns that translation, and which of
the rows are asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from crun_batch.pricing.bill import Bill
from crun_batch.records import (
    Again,
    Attempt,
    Cost,
    Failure,
    Fault,
    GiveUp,
    Outcome,
    Reply,
    Response,
    Room,
    Ticket,
)
from crun_batch.session.entries import at_asked_tier
from crun_batch.session.packing.pack import (
    ASKED_ANEW,
    Pack,
    after_failure,
    answer_stretches,
    answers_of,
    next_tickets,
    row_failure,
    row_reply,
    rows_arrivals,
)
from crun_batch.session.packing.packs import Packs
from crun_batch.session.recorder import RowRecorder
from crun_batch.workload.conversation import Conversation
from crun_batch.workload.packed_reply import PackedAnswer, PackedReply


def _nothing() -> None:
    """Of a row alone, and of a request that is sent again."""


class _Spread(Struct):
    """What one outcome is for the rows of its request."""

    rows: list[Outcome]
    then: Callable[[], None] = _nothing


class PackRecorder:
    """The pool's hooks for rows of which several may stand in one request."""

    def __init__(
        self, rows: RowRecorder, packs: Packs, conversations: Sequence[Conversation], bill: Bill, *, compares: bool
    ) -> None:
        """`compares`: each row that has an answer from a pack is asked alone as well, as a pilot does."""
        self.attempts = rows.attempts
        self.tally = rows.tally
        self.together = rows.together
        self._rows = rows
        self._packs = packs
        self._conversations = conversations
        self._bill = bill
        self._compares = compares
        self._sent: dict[int, list[Attempt]] = {}

    def reserve(self, ticket: Ticket) -> Room:
        """Hold the request's bound under the budget, where there is room."""
        return self._rows.reserve(ticket)

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """Record that the requests are about to go: of a pack the attempts of all its rows."""
        spread = [ticket.rows if isinstance(ticket, Pack) else [ticket] for ticket in tickets]
        attempts = iter(self._rows.started([row for rows in spread for row in rows]))
        started = []
        for ticket, rows in zip(tickets, spread, strict=True):
            own = [next(attempts) for _ in rows]
            if isinstance(ticket, Pack):
                self._sent[own[0].serial] = own
                own = [Attempt(ticket, own[0].serial)]
            started += own
        return started

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Record raw replies, or the ends of waits for them: of a pack with its first row."""
        spread: list[tuple[Attempt, Response | Fault]] = []
        firsts = []
        for attempt, arrival in arrivals:
            firsts.append(len(spread))
            own = self._sent[attempt.serial] if isinstance(attempt.ticket, Pack) else [attempt]
            spread += zip(own, rows_arrivals(arrival, len(own)), strict=True)
        kept = self._rows.arrived(spread)
        return [kept[first] for first in firsts]

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Price what came, settle its hold, record it for each row; where a unit is done, its result with it."""
        spread = [self._spread(outcome) for outcome in outcomes]
        follow_ups = iter(self._recorded([row for one in spread for row in one.rows]))
        told = []
        for outcome, one in zip(outcomes, spread, strict=True):
            own = [next(follow_ups) for _ in one.rows]
            one.then()
            told.append(None if isinstance(outcome.attempt.ticket, Pack) else own[0])
            if isinstance(outcome.attempt.ticket, Pack) and self._rows.warming is not None:
                self._rows.warming.answered(outcome.attempt.ticket)
        return told

    def _spread(self, outcome: Outcome) -> _Spread:
        """One outcome for each row of a request, and what is done once they are recorded."""
        pack = outcome.attempt.ticket
        if not isinstance(pack, Pack):
            return _Spread([outcome]) if pack.purpose != "alone" else self._asked_alone(outcome)
        own = self._sent.pop(outcome.attempt.serial)
        result = at_asked_tier(outcome.result, pack.service_tier)
        cost = self._bill.cost(pack.model, result, pack.endpoint)
        if isinstance(result, Failure):
            return self._failed(pack, own, structs.replace(outcome, result=result, cost=cost))
        said = self._checked(pack, answers_of(result, len(own), pack.form))
        rows = []
        for one, place, answer, along in zip(own, pack.places, said.answers, answer_stretches(said), strict=True):
            part, part_cost = row_reply(result, cost, place, answer, along)
            decision = ASKED_ANEW if isinstance(part, Failure) else None
            rows.append(Outcome(one, part, decision, part_cost))
        return _Spread(rows, lambda: self._packs.answered(pack, said, self._asked_next(pack, own, said)))

    def _failed(self, pack: Pack, own: Sequence[Attempt], outcome: Outcome) -> _Spread:
        """The same of a failed request. One that is given up may still have its rows asked alone."""
        failure = outcome.result
        assert isinstance(failure, Failure)
        decision = after_failure(failure, outcome.decision)
        rows = []
        for one, place in zip(own, pack.places, strict=True):
            part, part_cost = row_failure(failure, outcome.cost or Cost(), place)
            rows.append(Outcome(one, part, decision, part_cost))
        if isinstance(outcome.decision, Again):  # the pool sends the request itself again
            return _Spread(rows)
        if isinstance(decision, Again):
            alone = next_tickets(pack, own, decision.tries)
            return _Spread(rows, lambda: self._packs.refused(pack, alone, failure))
        return _Spread(rows, lambda: self._packs.ended(pack))

    def _checked(self, pack: Pack, said: PackedReply) -> PackedReply:
        """The answers, each held against the output schema where there is one."""
        complaint_of = self._conversations[pack.unit.variant].complaint_of
        return structs.replace(said, answers=tuple(_held_against(complaint_of, one) for one in said.answers))

    def _asked_next(self, pack: Pack, own: Sequence[Attempt], said: PackedReply) -> list[Ticket]:
        """Each row as it is asked next; in a pilot also where it has its answer."""
        tickets = next_tickets(pack, own)
        if self._compares:
            answered = [one for one, answer in zip(tickets, said.answers, strict=True) if answer.complaint is None]
            self._packs.alone.extend(structs.replace(one, purpose="alone") for one in answered)
        return tickets

    def _recorded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Recorded as the rows' own; what a pilot compares is kept without being a result yet."""
        if not self._compares:
            return self._rows.concluded(outcomes)
        compared = {
            index
            for index, one in enumerate(outcomes)
            if isinstance(one.result, Reply) and one.attempt.ticket.pack is not None
        }
        self._rows.kept([outcomes[index] for index in sorted(compared)])
        others = iter(self._rows.concluded([one for index, one in enumerate(outcomes) if index not in compared]))
        return [None if index in compared else next(others) for index in range(len(outcomes))]

    def _asked_alone(self, outcome: Outcome) -> _Spread:
        """Of a row that a pilot asks alone as well: its answer is the result; where that fails, the pack's is."""
        ticket = outcome.attempt.ticket
        if isinstance(outcome.result, Reply):
            self._rows.forget_kept(ticket)
        if not isinstance(outcome.decision, GiveUp):
            return _Spread([outcome])
        return _Spread([structs.replace(outcome, decision=ASKED_ANEW)], lambda: self._rows.take_kept(ticket))


def _held_against(complaint_of: Callable[[str | None], str | None], answer: PackedAnswer) -> PackedAnswer:
    complaint = None if answer.complaint is not None else complaint_of(answer.text)
    return answer if complaint is None else PackedAnswer(complaint=f"the answer is not valid: {complaint}")
