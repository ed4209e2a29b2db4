"""The judges' stretch of a session: after the answers have been sent for, their judges are asked about them.

Each stored answer and each judge make one question. It goes the way of every other request: reserved under the
same budget, recorded before and after, retried by the same rules, under the limits of its endpoint and model. It
belongs to no unit's result: what came of it is read back from the attempts when scores are computed. A question
whose verdict is recorded is not asked again; one that failed for good is asked by the next session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Literal

from msgspec import structs

from crun_batch.gateway.pool import Outcome, Pool
from crun_batch.gateway.retry import GiveUp, Halt
from crun_batch.preflight.affordability import reservations_of
from crun_batch.preflight.judge_costs import Docket
from crun_batch.records import Failure, Ticket, Unit
from crun_batch.scoring.unjudged import Answered, Asker, stored_answers
from crun_batch.session.recorder import Session, Work
from crun_batch.session.sending import Outfit, in_session, pool_of, routes_of
from crun_batch.session.source import Batches
from crun_batch.session.watching import Extent
from crun_batch.state.entries import read_event, start_event
from crun_batch.state.opening import Standing
from crun_batch.store.events import StartEvent
from crun_batch.store.journal import Journal
from crun_batch.store.recover import recover
from crun_batch.workload.workload import Tickets, Workload


class JudgeTicket(Ticket, frozen=True):
    """A question, its unit's variant being the place of the judge among the judges."""

    answered_by: str = ""
    """The variant whose answer is judged."""
    judge: str = ""


async def judge_all(workload: Workload, standing: Standing, outfit: Outfit, docket: Docket) -> Halt | None:
    """Ask for every verdict that is missing; returns why it stopped early. Raises DiskFailed."""
    questions, record = docket.questions, docket.record
    if docket.may_be_late:
        record.forget()
    standing.recovered = recover(standing.directory)
    outfit = _for_judges(outfit, docket.waiting.calls + outfit.extent.to_do * len(workload.judges))
    with closing(stored_answers(workload, questions, docket.shelf)) as stored:
        batches = Batches(stored, outfit.executor)
        sessions: list[Session] = []

        def begin(journal: Journal) -> tuple[Session, Pool]:
            sessions.append(_session(workload, standing, outfit, journal))
            asker = Asker(workload, record, questions)
            return sessions[0], _pool(workload, outfit, sessions[0], batches, asker)

        try:
            return await in_session(workload, standing, outfit, begin)
        finally:
            standing.failed_verdicts = sum(session.failed_units for session in sessions)
            if any(session.finished_units for session in sessions):
                record.forget()
            batches.settle()


def _for_judges(outfit: Outfit, calls: int) -> Outfit:
    """The same, its progress in questions, of which there are at most so many: no row is finished any more."""
    of_rows = outfit.summary
    return structs.replace(
        outfit, extent=Extent(0, calls), summary=lambda finished, seconds: of_rows(outfit.extent.to_do, seconds)
    )


def _session(workload: Workload, standing: Standing, outfit: Outfit, journal: Journal) -> JudgeSession:
    work = Work(
        variants=tuple(judge.name for judge in workload.judges),
        dialogues=(),
        price=outfit.bill.cost,
        encode_carried=lambda row: {},
        redact=outfit.redact,
        mark_done=lambda unit, status, kind: None,
        stop_at_error_rate=workload.job.limits.stop_at_error_rate,
    )
    return JudgeSession(
        work=work,
        journal=journal,
        account=standing.account,
        reservations=reservations_of(workload, standing.account.totals()),
        clock=outfit.clock,
    )


def _pool(workload: Workload, outfit: Outfit, session: Session, batches: Batches[Answered], asker: Asker) -> Pool:
    loop = asyncio.get_running_loop()

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: pool.wake())

    tickets = Tickets(outfit.bill.price_of, outfit.bill.credits_per_usd, session.tokens_per_byte)
    source = QuestionSource(workload, batches, asker, tickets, wake)
    routes = routes_of(workload.judges, outfit.endpoints[len(workload.variants) :], outfit)
    pool = pool_of(workload, outfit, routes, source, session)
    return pool


class QuestionSource:
    """Tickets of all open questions, in the order of the answers."""

    def __init__(
        self,
        workload: Workload,
        batches: Batches[Answered],
        asker: Asker,
        tickets: Tickets,
        wake: Callable[[], None],
    ) -> None:
        self._places = {judge.name: place for place, judge in enumerate(workload.judges)}
        self._batches = batches
        self._asker = asker
        self._tickets = tickets
        self._wake = wake
        self._waiting: Iterator[JudgeTicket] = iter(())
        self._is_fresh = False

    def next(self) -> JudgeTicket | Literal["wait", "end"]:
        """The next ticket; "wait": `wake` will be called."""
        while True:
            ticket = next(self._waiting, None)
            if ticket is not None:
                self._is_fresh = False
                return ticket
            if self._is_fresh:  # a batch without an open question: let others have the loop
                self._is_fresh = False
                self._wake()
                return "wait"
            batch = self._batches.take(self._wake)
            if batch == "wait" or batch == "end":
                return batch
            self._is_fresh = True
            self._waiting = self._tickets_of(batch)

    def _tickets_of(self, batch: list[Answered]) -> Iterator[JudgeTicket]:
        for answer, row in batch:
            for judge, request in self._asker.open(answer, row):
                yield JudgeTicket(
                    unit=Unit(row.position, row.row_id, self._places[judge.name], answer.repeat),
                    row=row,
                    body=request.body,
                    request_hash=request.request_hash,
                    hold=self._tickets.hold(request),
                    bound_tokens=self._tickets.bound_tokens(request),
                    purpose="judge",
                    model=request.model,
                    answered_by=answer.variant,
                    judge=judge.spec.name,
                )


class JudgeSession(Session):
    """The pool's hooks for questions: their attempts are booked by judge, and nothing follows from them."""

    def _start_of(self, ticket: Ticket, serial: int, now: int) -> StartEvent:
        assert isinstance(ticket, JudgeTicket)
        return structs.replace(start_event(ticket, serial, ticket.answered_by, now), judge=ticket.judge)

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Price what came, settle its hold, record it."""
        settled = [self._settled(outcome) for outcome in outcomes]
        for outcome, one in zip(outcomes, settled, strict=True):
            assert one.start.judge is not None
            self.account.judged(one.start.judge, self._ended(outcome.attempt.ticket, one))
        self._journal.append_reads([read_event(one, None) for one in settled])
        for outcome in outcomes:
            is_failure = isinstance(outcome.result, Failure)
            if not is_failure or isinstance(outcome.decision, GiveUp):
                self.finished_units += 1
                self.failed_units += is_failure
                self._watch_error_rate(outcome.attempt.ticket.unit.variant, is_failure)
        self._rotate()
        return [None for _ in outcomes]
