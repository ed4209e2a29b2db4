"""The rows' hooks between the pool and the journal: what an attempt means to its unit.

Owns the moment at which a unit is done: its result is recorded with the attempt that brought it, in one event.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from crun_batch.pricing.account import Answered, UnitKey, UnitSoFar
from crun_batch.records import Attempt, Failure, Fault, GiveUp, Outcome, Reply, Response, Room, Row, Ticket, Unit
from crun_batch.session.entries import (
    ConcludedAttempt,
    conversation_part,
    final_part,
    read_event,
    status_of,
    stored_part,
    unit_key,
)
from crun_batch.session.sharing import Sharing, shared_part
from crun_batch.session.tools import Tools
from crun_batch.session.warming import Warming
from crun_batch.state.run_state import RunContext
from crun_batch.store.carried import carried_encoder
from crun_batch.store.events import FinalEvent, FinalPart, ReadEvent, whole_final
from crun_batch.workload.conversation import Conversation, UnitResult
from crun_batch.workload.request import Request


class RowRecorder:
    """The pool's hooks for rows, writing to one journal."""

    def __init__(
        self,
        context: RunContext,
        tools: Tools,
        conversations: Sequence[Conversation],
        sharing: Sharing | None,
        warming: Warming | None,
    ) -> None:
        workload, state = context.workload, context.state
        self.attempts = tools.attempts
        self.tally = tools.tally
        self._journal = tools.journal
        self.together = tools.journal.together
        """Records made inside reach the disk when the block ends, in one write."""
        self._conversations = conversations
        self._tickets = tools.tickets
        self._sharing = sharing
        self.warming = warming
        self._done = state.done
        self._slot_of = workload.slots.of
        self._encode_carried = carried_encoder(state.schema.carried, workload.carried)
        self._carries = len(state.schema.carried) > 0
        self._now_us = context.options.clock.epoch_us

    def reserve(self, ticket: Ticket) -> Room:
        """Hold the request's bound under the budget, where there is room."""
        return self.attempts.reserve(ticket)

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """Record that the requests are about to go."""
        return self.attempts.started(tickets)

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Record raw replies, or the ends of waits for them."""
        return self.attempts.arrived(arrivals)

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Price what came, settle its hold, record it; where a unit is done, record its result with it."""
        settled = self.attempts.concluded(outcomes)
        endings = [self._ending(outcome, *one) for outcome, one in zip(outcomes, settled, strict=True)]
        events = [read_event(one, final) for (one, _), (final, _) in zip(settled, endings, strict=True)]
        follow_ups = [follow_up for _, follow_up in endings]
        is_full = self._journal.append_reads(events)
        for outcome, event in zip(outcomes, events, strict=True):
            if event.final is not None:
                self._finish(outcome, event, event.final)
        if self.warming is not None:
            for outcome in outcomes:
                if outcome.attempt.ticket.pack is None:  # what stood in front of several rows was another prefix
                    self.warming.answered(outcome.attempt.ticket)
        if is_full:
            self.attempts.rotate()
        return follow_ups

    def _ending(
        self, outcome: Outcome, settled: ConcludedAttempt, so_far: UnitSoFar
    ) -> tuple[FinalPart | None, Ticket | None]:
        """The unit's result where it is done, or what it asks next; neither: this request is sent again."""
        ticket = outcome.attempt.ticket
        if not (isinstance(outcome.result, Reply) or isinstance(outcome.decision, GiveUp)):
            return None, None
        verdict = self._verdict(ticket, outcome.result, so_far)
        if isinstance(verdict, Request):
            return None, self._tickets.ticket(
                ticket.unit, ticket.row, verdict, so_far=so_far, replaces=ticket.replaces
            )
        return self._final(ticket, settled, so_far, verdict), None

    def _finish(self, outcome: Outcome, event: ReadEvent, final: FinalPart) -> None:
        ticket, result = outcome.attempt.ticket, outcome.result
        kind = result.kind if isinstance(result, Failure) else final.error_kind
        self._count((event.id, event.variant, event.repeat), ticket.unit, final.status, kind, ticket.replaces)
        if self._sharing is not None:
            self._share(ticket.unit, whole_final(event, final))

    def _verdict(self, ticket: Ticket, result: Reply | Failure, so_far: UnitSoFar) -> Request | UnitResult | None:
        """What follows the result; None: it is itself the unit's result."""
        conversation = self._conversations[ticket.unit.variant]
        if conversation.is_one_request:
            return None
        if isinstance(result, Failure):
            return conversation.cut_short(so_far.answers, status_of(result), result.kind, result.message)
        kept = structs.replace(result, assembled=None)
        so_far.answers.append(Answered(ticket.turn, ticket.purpose, ticket.request_hash, kept))
        return conversation.following(ticket.row, so_far.answers)

    def _final(
        self, ticket: Ticket, settled: ConcludedAttempt, so_far: UnitSoFar, verdict: UnitResult | None
    ) -> FinalPart:
        carried = self._carried(ticket.row)
        part = final_part(settled, so_far, carried=carried, replaces=ticket.replaces)
        if verdict is None:
            return part
        conversation = self._conversations[ticket.unit.variant]
        return conversation_part(part, verdict, so_far, conversation.unit_hash(ticket.row, so_far.answers))

    def _carried(self, row: Row) -> dict[str, str | None]:
        """The columns that travel from the row into its results."""
        return self._encode_carried(row.values) if self._carries else {}

    def kept(self, outcomes: Sequence[Outcome]) -> None:
        """Record answers that are not their units' results yet: others are asked for first."""
        settled = self.attempts.concluded(outcomes)
        for outcome, (_, so_far) in zip(outcomes, settled, strict=True):
            ticket, reply = outcome.attempt.ticket, outcome.result
            assert isinstance(reply, Reply)
            kept = structs.replace(reply, assembled=None)
            so_far.answers.append(Answered(ticket.turn, ticket.purpose, ticket.request_hash, kept))
        self._journal.append_reads([read_event(one, None) for one, _ in settled])

    def forget_kept(self, ticket: Ticket) -> None:
        """The unit's result is to be another answer than the one that was kept."""
        self.attempts.account.open_units[
            unit_key(ticket.unit, self.attempts.targets[ticket.unit.variant])
        ].answers = []

    def take_kept(self, ticket: Ticket) -> None:
        """What was asked after the answer that was kept has failed: that answer is the unit's result."""
        first = self._conversations[ticket.unit.variant].first(ticket.row)
        self.resumed(ticket.unit, ticket.row, ticket.replaces, first)

    def rejected(self, unit: Unit, row: Row, replaces: str | None, message: str) -> None:
        """A row without a prompt: its unit fails without an attempt."""
        part = FinalPart(status="error", error_kind="bad_request", error_message=message, attempt_count=0)
        self._finish_unsent(unit, row, part, replaces)

    def resumed(self, unit: Unit, row: Row, replaces: str | None, first: Request) -> Request | None:
        """Go on from what is recorded; what asked otherwise than today is asked anew. None: all is said."""
        conversation = self._conversations[unit.variant]
        so_far = self.attempts.account.open_units[unit_key(unit, self.attempts.targets[unit.variant])]
        so_far.answers = conversation.still_valid(row, first, so_far.answers)
        following = conversation.following(row, so_far.answers) if so_far.answers else first
        failure = so_far.failure
        if isinstance(following, Request):
            if failure is None or so_far.failure_hash != following.request_hash:
                return following
            following = conversation.cut_short(so_far.answers, status_of(failure), failure.kind, failure.message)
        unit_hash = conversation.unit_hash(row, so_far.answers)
        self._finish_unsent(unit, row, stored_part(so_far, following, unit_hash), replaces)
        return None

    def shared(self, unit: Unit, row: Row, replaces: str | None, part: FinalPart) -> None:
        """An identical request was answered: its answer is the unit's, at no cost."""
        self._finish_unsent(unit, row, part, replaces)

    def reused(self, unit: Unit, row: Row, part: FinalPart) -> None:
        """An earlier run was answered: its answer is the unit's, at no cost."""
        output = self._conversations[unit.variant].output_of(part.text)
        self._finish_unsent(unit, row, structs.replace(part, output=output), None)

    def _share(self, unit: Unit, part: FinalPart) -> None:
        """Give a whole result to the units that wait for it."""
        if self._sharing is None or part.attempt_count == 0:
            return
        for follower in self._sharing.answered(unit, part):
            self.shared(follower.unit, follower.row, follower.replaces, shared_part(part))

    def _finish_unsent(self, unit: Unit, row: Row, part: FinalPart, replaces: str | None) -> None:
        variant = self.attempts.targets[unit.variant]
        now = self._now_us()
        part = structs.replace(
            part,
            carried=self._carried(row),
            replaces=replaces,
            supersedes=replaces is not None,
            finished_at=now,
            started_at=part.started_at or now,
        )
        self._journal.append_final(FinalEvent(str(unit.row_id), unit.position, variant, part, unit.repeat))
        self._count(unit_key(unit, variant), unit, part.status, part.error_kind, replaces, unsent=part)
        self._share(unit, part)
        self.attempts.rotate()

    def _count(
        self,
        key: UnitKey,
        unit: Unit,
        status: str,
        kind: str | None,
        replaces: str | None,
        *,
        unsent: FinalPart | None = None,
    ) -> None:
        """`unsent`: a result that came without a request of its own."""
        slot = self._slot_of(unit.position, unit.variant, unit.repeat)
        self.tally.count(unit.variant, is_ok=status == "ok", is_error=status == "error")
        shared, saved = (False, None) if unsent is None else (unsent.is_shared, unsent.saved)
        self.attempts.account.finished(key, status, kind, replaces=replaces, shared=shared, saved=saved)
        self._done.finish(slot, status, kind)
