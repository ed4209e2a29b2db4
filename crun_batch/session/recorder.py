"""One session of sending: the hooks between the pool and the journal.

Owns the order of things: reserve, record the start, send, record the raw reply, read it, price it, record what was
made of it, settle. Every event is written before the next one happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from msgspec import Struct, structs

from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.gateway.pool import Attempt, Outcome
from crun_batch.gateway.retry import GiveUp, Halt
from crun_batch.pricing.account import Account, Answered, Ended, UnitKey, UnitSoFar
from crun_batch.pricing.budget import FREE, Reservations
from crun_batch.records import Cost, Failure, Fault, Reply, Response, Row, Ticket, Unit
from crun_batch.session.sharing import Sharing, shared_part
from crun_batch.state.entries import (
    Settled,
    dialogue_part,
    final_part,
    read_event,
    start_event,
    status_of,
    stored_part,
    tries_after,
    unit_key,
)
from crun_batch.store.events import (
    EndEvent,
    EndFault,
    FinalEvent,
    FinalPart,
    ReadEvent,
    StartEvent,
    end_event,
    whole_final,
)
from crun_batch.store.journal import Journal
from crun_batch.workload.conversation import Dialogue, Verdict
from crun_batch.workload.workload import Request, Tickets

ERROR_RATE_WINDOW_ROWS = 200
ERROR_RATE_FROM_ROWS = 20
FIRST_TOKENS_PER_BYTE = 0.3
BYTES_SEARCHED_TOGETHER = 2**20
KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "request-id", "x-litellm-response-cost")


class Clock(Struct, frozen=True):
    """Time, passed in: the day's clock in microseconds, and monotonic seconds."""

    epoch_us: Callable[[], int]
    monotonic: Callable[[], float]


class Work(Struct, frozen=True):
    """What the session must know of the job: names, prices, limits, and what no file may hold."""

    variants: tuple[str, ...]
    dialogues: tuple[Dialogue, ...]
    price: Callable[[str | None, Reply | Failure], Cost]
    """What a result of this model costs."""
    encode_carried: Callable[[Row], Mapping[str, str | None]]
    redact: Callable[[bytes], bytes]
    mark_done: Callable[[Unit, str, str | None], None]
    stop_at_error_rate: float


class InFlight(Struct, gc=False):
    """What the session remembers of a request that has gone."""

    start: StartEvent
    sent_at: float
    finished_at: int = 0
    latency_us: int = 0
    http_status: int | None = None


class Session:
    """The pool's hooks, writing to one journal."""

    def __init__(
        self, *, work: Work, journal: Journal, account: Account, reservations: Reservations, clock: Clock
    ) -> None:
        self.account = account
        self.reservations = reservations
        self.finished_units = 0
        self.failed_units = 0
        self.tickets: Tickets
        """Makes the tickets of follow-ups; set before the first request is sent."""
        self.sharing: Sharing | None = None
        """Where identical requests are sent once."""
        self.halt: Callable[[Halt], None] = _ignore
        self.segment_closed: Callable[[int], None] = _ignore
        self._work = work
        self._journal = journal
        self._clock = clock
        self._in_flight: dict[int, InFlight] = {}
        self._recent_errors: dict[int, deque[bool]] = {}
        self._tokens_seen = 0
        self._bytes_seen = 0

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of those who are asked."""
        return self._work.variants

    def together(self) -> AbstractContextManager[None]:
        """Records made inside reach the disk when the block ends, in one write."""
        return self._journal.together()

    def reserve(self, ticket: Ticket) -> bool:
        """Hold the request's bound under the budget; False: no room now."""
        return self.reservations.reserve(ticket.hold)

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """Record that the requests are about to go."""
        started_at, sent_at = self._clock.epoch_us(), self._clock.monotonic()
        attempts = [Attempt(ticket, self._journal.next_serial()) for ticket in tickets]
        starts = [self._start_of(one.ticket, one.serial, started_at) for one in attempts]
        self._journal.append_starts(starts)
        self._in_flight.update({start.n: InFlight(start, sent_at) for start in starts})
        return attempts

    def _start_of(self, ticket: Ticket, serial: int, now: int) -> StartEvent:
        return start_event(ticket, serial, self._work.variants[ticket.unit.variant], now)

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Record raw replies, or the ends of waits for them, without the secrets that a gateway may echo.

        What fails on one of them is raised when the others are recorded: they are paid.
        """
        now = self._clock.monotonic()
        kept: list[Response | Fault] = []
        ends: list[EndEvent] = []
        bug: Exception | None = None
        are_clean = self._are_clean([arrival.body for _, arrival in arrivals])
        for attempt, arrival in arrivals:
            try:
                clean = arrival if are_clean else self._without_secrets(arrival)
                ends.append(self._end_of(attempt, clean, now))
                kept.append(clean)
            except Exception as error:  # noqa: BLE001 - raised below
                bug = bug or error
        self._journal.append_ends(ends)
        if bug is not None:
            raise bug
        return kept

    def _are_clean(self, bodies: Sequence[bytes]) -> bool:
        """Whether none holds a secret, as far as looking at them together is cheap. No secret has a zero byte."""
        if sum(map(len, bodies)) > BYTES_SEARCHED_TOGETHER:
            return False
        together = b"\0".join(bodies)
        return self._work.redact(together) is together

    def _without_secrets(self, arrival: Response | Fault) -> Response | Fault:
        body = self._work.redact(arrival.body)
        return arrival if body is arrival.body else structs.replace(arrival, body=body)

    def _end_of(self, attempt: Attempt, arrival: Response | Fault, now: float) -> EndEvent:
        sent = self._in_flight[attempt.serial]
        sent.latency_us = round((now - sent.sent_at) * 1e6)
        sent.finished_at = sent.start.started_at + sent.latency_us
        sent.http_status = arrival.status
        headers, fault = None, None
        if isinstance(arrival, Response):
            headers = {}
            for name in KEPT_HEADERS:
                value = arrival.headers.get(name)
                if value is not None:
                    headers[name] = value
        else:
            fault = EndFault(arrival.stage, arrival.kind, arrival.message)
        return end_event(
            attempt.serial,
            finished_at=sent.finished_at,
            latency_us=sent.latency_us,
            status=arrival.status,
            headers=headers,
            body=arrival.body,
            fault=fault,
        )

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """Price what came, settle its hold, record it; where a unit is done, record its result with it."""
        settled = [self._settled(outcome) for outcome in outcomes]
        sums = [self._book(outcome.attempt.ticket, one) for outcome, one in zip(outcomes, settled, strict=True)]
        endings = [self._ending(*each) for each in zip(outcomes, settled, sums, strict=True)]
        events = [read_event(one, final) for one, (final, _) in zip(settled, endings, strict=True)]
        self._journal.append_reads(events)
        for outcome, event in zip(outcomes, events, strict=True):
            if event.final is not None:
                self._finish(outcome, event, event.final)
        self._rotate()
        return [follow_up for _, follow_up in endings]

    def _settled(self, outcome: Outcome) -> Settled:
        """The attempt that is over, with its cost."""
        ticket, result = outcome.attempt.ticket, outcome.result
        sent = self._in_flight.pop(outcome.attempt.serial)
        return Settled(
            start=sent.start,
            finished_at=sent.finished_at,
            latency_us=sent.latency_us,
            http_status=sent.http_status,
            result=result,
            cost=self._work.price(ticket.model, result),
            tries=tries_after(ticket.tries, result, outcome.decision),
            decision=outcome.decision,
        )

    def _ending(
        self, outcome: Outcome, settled: Settled, so_far: UnitSoFar
    ) -> tuple[FinalPart | None, Ticket | None]:
        """The unit's result where it is done, or what it asks next; neither: this request is sent again."""
        ticket = outcome.attempt.ticket
        if not (isinstance(outcome.result, Reply) or isinstance(outcome.decision, GiveUp)):
            return None, None
        verdict = self._verdict(ticket, outcome.result, so_far)
        if isinstance(verdict, Request):
            return None, self.tickets.ticket(
                ticket.unit, ticket.row, verdict, so_far=so_far, replaces=ticket.replaces
            )
        return self._final(ticket, settled, so_far, verdict), None

    def _finish(self, outcome: Outcome, event: ReadEvent, final: FinalPart) -> None:
        ticket, result = outcome.attempt.ticket, outcome.result
        kind = result.kind if isinstance(result, Failure) else final.error_kind
        self._count((event.id, event.variant, event.repeat), ticket.unit, final.status, kind, ticket.replaces)
        if self.sharing is not None:
            self._share(ticket.unit, whole_final(event, final))

    def _verdict(self, ticket: Ticket, result: Reply | Failure, so_far: UnitSoFar) -> Request | Verdict | None:
        """What follows the result; None: it is itself the unit's result."""
        dialogue = self._work.dialogues[ticket.unit.variant]
        if dialogue.is_one_request:
            return None
        if isinstance(result, Failure):
            return dialogue.cut_short(so_far.answers, status_of(result), result.kind, result.message)
        kept = structs.replace(result, assembled=None)
        so_far.answers.append(Answered(ticket.turn, ticket.purpose, ticket.request_hash, kept))
        return dialogue.following(ticket.row, so_far.answers)

    def _final(self, ticket: Ticket, settled: Settled, so_far: UnitSoFar, verdict: Verdict | None) -> FinalPart:
        carried = self._work.encode_carried(ticket.row)
        part = final_part(settled, so_far, carried=carried, replaces=ticket.replaces)
        if verdict is None:
            return part
        dialogue = self._work.dialogues[ticket.unit.variant]
        return dialogue_part(part, verdict, so_far, dialogue.unit_hash(ticket.row, so_far.answers))

    def _rotate(self) -> None:
        closed = self._journal.maybe_rotate(self.account.to_checkpoint)
        if closed is not None:
            self.segment_closed(closed)

    @property
    def in_flight(self) -> tuple[StartEvent, ...]:
        """The requests that were sent and have not been concluded."""
        return tuple(sent.start for sent in self._in_flight.values())

    def tokens_per_byte(self) -> float:
        """Input tokens per byte of request body, as learned from the replies so far; a careful guess before."""
        return self._tokens_seen / self._bytes_seen if self._tokens_seen else FIRST_TOKENS_PER_BYTE

    def rejected(self, unit: Unit, row: Row, replaces: str | None, message: str) -> None:
        """A row without a prompt: its unit fails without an attempt."""
        part = FinalPart(status="error", error_kind="bad_request", error_message=message, attempt_count=0)
        self._finish_unsent(unit, row, part, replaces)

    def resumed(self, unit: Unit, row: Row, replaces: str | None, first: Request) -> Request | None:
        """Go on from what is recorded; what asked otherwise than today is asked anew. None: all is said."""
        dialogue = self._work.dialogues[unit.variant]
        so_far = self.account.open_units[unit_key(unit, self._work.variants[unit.variant])]
        so_far.answers = dialogue.still_valid(row, first, so_far.answers)
        following = dialogue.following(row, so_far.answers) if so_far.answers else first
        failure = so_far.failure
        if isinstance(following, Request):
            if failure is None or so_far.failure_hash != following.request_hash:
                return following
            following = dialogue.cut_short(so_far.answers, status_of(failure), failure.kind, failure.message)
        unit_hash = dialogue.unit_hash(row, so_far.answers)
        self._finish_unsent(unit, row, stored_part(so_far, following, unit_hash), replaces)
        return None

    def shared(self, unit: Unit, row: Row, replaces: str | None, part: FinalPart) -> None:
        """An identical request was answered: its answer is the unit's, at no cost."""
        self._finish_unsent(unit, row, part, replaces)

    def _share(self, unit: Unit, part: FinalPart) -> None:
        """Give a whole result to the units that wait for it."""
        if self.sharing is None or part.attempt_count == 0:
            return
        for follower in self.sharing.answered(unit, part):
            self.shared(follower.unit, follower.row, follower.replaces, shared_part(part))

    def _finish_unsent(self, unit: Unit, row: Row, part: FinalPart, replaces: str | None) -> None:
        variant = self._work.variants[unit.variant]
        now = self._clock.epoch_us()
        part = structs.replace(
            part,
            carried=self._work.encode_carried(row),
            replaces=replaces,
            supersedes=replaces is not None,
            finished_at=now,
            started_at=part.started_at or now,
        )
        self._journal.append_final(FinalEvent(str(unit.row_id), unit.position, variant, part, unit.repeat))
        is_shared = part.attempt_count == 0 and part.request_hash is not None
        self._count(unit_key(unit, variant), unit, part.status, part.error_kind, replaces, shared=is_shared)
        self._share(unit, part)
        self._rotate()

    def _book(self, ticket: Ticket, settled: Settled) -> UnitSoFar:
        start = settled.start
        key = start.id, start.variant, start.repeat
        return self.account.ended(key, start.started_at, self._ended(ticket, settled))

    def _ended(self, ticket: Ticket, settled: Settled) -> Ended:
        """Settle the hold, and learn how long texts are in tokens."""
        outcome, usage = settled.outcome, settled.result.usage
        self.reservations.settle(ticket.hold, FREE if outcome in ("rejected", "not_sent") else settled.cost)
        if usage is not None:
            self._tokens_seen += usage.input_tokens
            self._bytes_seen += len(ticket.body)
        return Ended(outcome, usage, settled.cost, ticket.hold, settled.tries, settled.latency_us or 0)

    def _count(
        self,
        key: UnitKey,
        unit: Unit,
        status: str,
        kind: str | None,
        replaces: str | None,
        *,
        shared: bool = False,
    ) -> None:
        self.account.finished(key, status, kind, replaces=replaces, shared=shared)
        self._work.mark_done(unit, status, kind)
        self.finished_units += 1
        self.failed_units += status != "ok"
        self._watch_error_rate(unit.variant, status == "error")

    def _watch_error_rate(self, variant: int, is_error: bool) -> None:
        recent = self._recent_errors.get(variant)
        if recent is None:
            recent = self._recent_errors[variant] = deque(maxlen=ERROR_RATE_WINDOW_ROWS)
        recent.append(is_error)
        if not is_error or len(recent) < ERROR_RATE_FROM_ROWS:
            return
        share = sum(recent) / len(recent)
        if share >= self._work.stop_at_error_rate:
            name = self._work.variants[variant]
            self.halt(
                Halt(
                    EXIT_GATEWAY_REFUSED,
                    f"{share:.0%} of the last {len(recent)} rows of variant {name!r} failed "
                    f"(limits.stop_at_error_rate is {self._work.stop_at_error_rate:g})",
                )
            )


def _ignore(_: object) -> None:
    """What nobody listens to."""
