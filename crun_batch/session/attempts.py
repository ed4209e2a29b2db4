"""The attempts of a session between the pool and the journal: held, recorded, sent, recorded again, priced.

Owns the order: reserve, record the start, send, record the raw reply, read it, price it, settle its hold. Every
event is written before the next one happens. What an attempt means to its unit is somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, structs

from crun_batch.preflight.affordability import reservations_of
from crun_batch.pricing.account import UnitSoFar
from crun_batch.pricing.bookkeeping import AttemptEnd, Bookkeeper
from crun_batch.records import Attempt, Failure, Fault, Outcome, Reply, Response, Room, Ticket, is_batch_lane
from crun_batch.session.entries import ConcludedAttempt, at_asked_tier, start_event, tries_after
from crun_batch.session.resources import Resources
from crun_batch.session.sealing import Sealer
from crun_batch.session.tickets import TokenRatio
from crun_batch.state.run_state import RunContext
from crun_batch.store.events import EndFault, RawEnd, StartEvent
from crun_batch.store.journal import Journal

BYTES_SEARCHED_TOGETHER = 2**20
KEPT_HEADERS = ("content-type", "retry-after", "x-request-id", "request-id", "x-litellm-response-cost")


class InFlight(Struct, gc=False):
    """What the session remembers of a request that has gone."""

    start: StartEvent
    sent_at: float
    finished_at: int = 0
    latency_us: int = 0
    http_status: int | None = None


class AttemptRecorder:
    """Records every attempt of a session; `targets` are the names of those who are asked."""

    def __init__(
        self,
        context: RunContext,
        resources: Resources,
        *,
        targets: tuple[str, ...],
        journal: Journal,
        sealer: Sealer,
        token_ratio: TokenRatio,
    ) -> None:
        self.targets = targets
        self.account = context.state.account
        self.reservations = context.state.reservations = reservations_of(context)
        self._journal = journal
        self._sealer = sealer
        self._books = Bookkeeper(resources.bill, self.reservations, self.account)
        self._redact = resources.redact
        self._token_ratio = token_ratio
        self._clock = context.options.clock
        self._in_flight: dict[int, InFlight] = {}
        self._admitted = 0

    def reserve(self, ticket: Ticket) -> Room:
        """Hold the request's bound under the budget, where there is room, there and for its reply on the disk.

        A batch gives its replies again: no place need be there for them. Raises DiskFailed where the disk has no
        room for a reply and none is in flight.
        """
        comes_once = not is_batch_lane(ticket.endpoint)
        if comes_once and not self._journal.has_room_for(self._admitted + 1):
            return "none"
        if not self.reservations.reserve(ticket.hold):
            return self.reservations.refusal(ticket.hold)
        self._admitted += comes_once
        return "held"

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """Record that the requests are about to go."""
        self._admitted = 0
        started_at, sent_at = self._clock.epoch_us(), self._clock.monotonic()
        attempts = [
            Attempt(ticket, serial) for ticket, serial in zip(tickets, self._journal.serials, strict=False)
        ]
        starts = [
            start_event(one.ticket, one.serial, self.targets[one.ticket.unit.variant], started_at)
            for one in attempts
        ]
        sent = {start.n: InFlight(start, sent_at) for start in starts}
        self._journal.append_starts(starts)
        self._in_flight.update(sent)
        return attempts

    def attach(self, attempt: Attempt, start: StartEvent) -> None:
        """An earlier session has sent this request, and its reply can still be had; its money is held already."""
        since_seconds = max(0, self._clock.epoch_us() - start.started_at) / 1e6
        self._in_flight[attempt.serial] = InFlight(start, self._clock.monotonic() - since_seconds)

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Record raw replies, or the ends of waits for them, without the secrets that a gateway may echo.

        What fails on one of them is raised when the others are recorded: they are paid.
        """
        now = self._clock.monotonic()
        kept: list[Response | Fault] = []
        ends: list[RawEnd] = []
        bug: Exception | None = None
        are_clean = self._are_clean([arrival for _, arrival in arrivals])
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

    def _are_clean(self, arrivals: Sequence[Response | Fault]) -> bool:
        """Whether none says a secret, as far as looking at them together is cheap."""
        bodies = [arrival.body for arrival in arrivals]
        if sum(map(len, bodies)) > BYTES_SEARCHED_TOGETHER:
            return False
        return self._redact.are_clean([*bodies, _beside(arrivals)])

    def _without_secrets(self, arrival: Response | Fault) -> Response | Fault:
        body, words = self._redact(arrival.body), self._redact.words
        if isinstance(arrival, Fault):
            return structs.replace(arrival, body=body, message=words(arrival.message))
        headers = {name: words(value) for name, value in arrival.headers.items()}
        return structs.replace(arrival, body=body, headers=headers)

    def _end_of(self, attempt: Attempt, arrival: Response | Fault, now: float) -> RawEnd:
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
        return RawEnd(
            attempt.serial,
            sent.finished_at,
            sent.latency_us,
            arrival.status,
            headers,
            arrival.body,
            fault,
        )

    def concluded(self, outcomes: Sequence[Outcome]) -> list[tuple[ConcludedAttempt, UnitSoFar]]:
        """Price what came, settle its hold, book it: the attempts that are over, and their units with them."""
        flights = [self._in_flight.pop(outcome.attempt.serial) for outcome in outcomes]
        ends = [self._ended(outcome, sent) for outcome, sent in zip(outcomes, flights, strict=True)]
        return [
            (
                ConcludedAttempt(
                    sent.start,
                    sent.finished_at,
                    sent.latency_us,
                    sent.http_status,
                    end.result,
                    cost,
                    end.tries,
                    outcome.decision,
                ),
                so_far,
            )
            for outcome, sent, end, (cost, so_far) in zip(
                outcomes, flights, ends, self._books.book(ends), strict=True
            )
        ]

    def _ended(self, outcome: Outcome, sent: InFlight) -> AttemptEnd:
        ticket, start = outcome.attempt.ticket, sent.start
        result = at_asked_tier(outcome.result, ticket.service_tier)
        usage = result.usage
        if usage is not None and usage.input_tokens is not None:
            self._token_ratio.learn(usage.input_tokens, len(ticket.body))
        return AttemptEnd(
            (start.id, start.variant, start.repeat),
            start.started_at,
            ticket.model,
            result,
            "done" if isinstance(result, Reply) else result.outcome,
            ticket.hold,
            tries_after(ticket.tries, result, outcome.decision),
            sent.latency_us,
            ticket.endpoint,
            start.judge,
            outcome.cost,
            isinstance(result, Failure) and start.sends_row_alone(result.outcome, result.kind),
            None if start.pack is None else start.pack.place,
            isinstance(result, Failure) and start.is_left_undone(result.outcome, result.kind),
        )

    def rotate(self) -> None:
        """Begin another segment where this one is full; the full one is sealed."""
        closed = self._journal.maybe_rotate(self.account.to_checkpoint)
        if closed is not None:
            self._sealer.seal(closed)

    @property
    def in_flight(self) -> tuple[StartEvent, ...]:
        """The requests that were sent and have not been concluded."""
        return tuple(sent.start for sent in self._in_flight.values())


def _beside(arrivals: Sequence[Response | Fault]) -> bytes:
    """What gateways said beside the bodies."""
    said = [
        arrival.message if isinstance(arrival, Fault) else "\n".join(arrival.headers.values())
        for arrival in arrivals
    ]
    return "\n".join(said).encode("utf-8", "surrogatepass")
