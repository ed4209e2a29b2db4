"""The bounded pool: pulls tickets, sends what may go, puts back what must wait, hands every event to the corridor.

Everything happens in `_step`, synchronously and stage by stage: all replies that have come are recorded, then all
are read, then all are concluded, then all that may go is recorded as started, and only then sent. So a record
costs no system call of its own when many come at once, and each stage finds its code still in the processor's
caches, which takes a quarter off a row's cost. No task waits for a reply, a call that is over is put on a list;
and a row that waits for its retry holds no place. The pool knows no file and no price: the corridor's hooks
reserve money and write records, and a ticket carries all that the pool must know.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from msgspec import Struct, structs

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.admission import Admitted, Lane
from crun_batch.gateway.classify import check, check_fault
from crun_batch.gateway.http.wire import Wire
from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.protocols import Protocol as WireProtocol
from crun_batch.gateway.rate_headers import NO_HINTS, rate_hints
from crun_batch.gateway.retry import RetryPolicy, decide
from crun_batch.records import Again, Attempt, Failure, Fault, Halt, Outcome, Reply, Response, Ticket

GATHER_SHARE = 0.01
LONGEST_GATHER_SECONDS = 0.005
"""How long a reply may wait for others, of the time that it took: taken in together, each costs less."""
NO_ROOM = "the budget has no room for one more request"
"""Why a run halts whose next request cannot be reserved, with none in flight that could give room."""


class Route(Struct, frozen=True):
    """Where the tickets of one variant go."""

    lane: Lane
    url: str
    headers: Mapping[str, str]
    protocol: WireProtocol
    stream: bool


class Hooks(Protocol):
    """What the corridor does at each event. All are synchronous, and on disk before anything follows from them."""

    def together(self) -> AbstractContextManager[None]:
        """What is recorded inside is written when the block ends, at once."""

    def reserve(self, ticket: Ticket) -> bool:
        """Hold the ticket's money; False: the budget has no room for it now."""

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """These requests are about to go."""

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """Replies, or the ends of the waits for them, before anything reads them; returns what is to be read."""

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """What was made of them; returns for each the follow-up of its unit, to be sent before new rows."""


class Source(Protocol):
    """New tickets, in order."""

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket; "wait": none yet, the source calls the pool's `wake` when there is one."""


class Sending(Struct, frozen=True, gc=False):
    """One request, ready for the wire or on it."""

    attempt: Attempt
    admitted: Admitted
    route: Route


class PoolSettings(Struct, frozen=True):
    """`limits` of the job file, as far as they concern the pool."""

    concurrency: int
    attempt_timeout_seconds: float
    retry: RetryPolicy
    give_up_after_seconds: float


class Pool:
    """Sends every ticket of the source, at most `concurrency` at once. One use; `run` returns why it ended."""

    def __init__(
        self,
        *,
        wire: Wire,
        routes: Sequence[Route],
        source: Source,
        hooks: Hooks,
        settings: PoolSettings,
        epoch_seconds: Callable[[], float],
    ) -> None:
        self.in_flight = 0
        self.halt: Halt | None = None
        self._wire = wire
        self._routes = routes
        self._source = source
        self._hooks = hooks
        self._settings = settings
        self._deadline_seconds = settings.attempt_timeout_seconds
        self._epoch_seconds = epoch_seconds
        self._random = random.Random(0)
        self._queues: dict[Lane, deque[Ticket]] = {route.lane: deque() for route in routes}
        self._lookahead = 1 if len(self._queues) == 1 else settings.concurrency
        self._later: list[tuple[float, int, Ticket]] = []
        self._sequence = 0
        self._source_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._bug: BaseException | None = None
        self._admitted: list[tuple[Ticket, Admitted]] = []
        self._outgoing: list[Sending] = []
        self._arrived: list[tuple[Sending, Response | Fault]] = []
        self._step_is_due = False
        self._gathering: asyncio.TimerHandle | None = None
        self._calls: dict[asyncio.Future[Response | Fault], Sending] = {}

    async def run(self) -> Halt | None:
        """Until all is done or a halt has drained. Raises what a hook raised, once nothing is in flight."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._last_success = self._loop.time()
        self._step()
        await self._over.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._bug is not None:
            raise self._bug
        return self.halt

    def stop(self, halt: Halt) -> None:
        """No new requests from now on; what is in flight is waited for. The first reason given stays."""
        self.halt = self.halt or halt
        self._step_soon()

    def abandon(self) -> None:
        """End now: what is in flight is not waited for, its outcome stays unknown."""
        self._step()
        self._over.set()

    def wake(self) -> None:
        """The source has a ticket again."""
        self._step_soon()

    @property
    def waiting_seconds(self) -> float:
        """How long the longest shared pause of a lane still lasts, for the progress display."""
        now = self._loop.time()
        return max(0.0, *(route.lane.paused_until - now for route in self._routes))

    @property
    def limit(self) -> int:
        """Requests that may be in flight now: the lanes' limits together, at most `concurrency`."""
        lanes = {route.lane for route in self._routes}
        return min(self._settings.concurrency, sum(int(lane.limit.value) for lane in lanes))

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            self._loop.call_soon(self._step)

    def _step_with_others(self, sent_at: float) -> None:
        """A reply has come: take it in together with those that come right after it."""
        if self._gathering is None and not self._step_is_due:
            seconds = min(GATHER_SHARE * (self._loop.time() - sent_at), LONGEST_GATHER_SECONDS)
            self._gathering = self._loop.call_later(seconds, self._step)

    def _step(self) -> None:
        """Take in all that has arrived, send all that may go; then see to it that somebody calls again."""
        if self._over.is_set():  # abandoned: nothing is recorded any more
            return
        self._step_is_due = False
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        wait = NEVER
        arrived, self._arrived = self._arrived, []
        self.in_flight -= len(arrived)
        try:
            arrivals = self._hooks.arrived([(sending.attempt, arrival) for sending, arrival in arrived])
            with self._hooks.together():
                now = self._loop.time()
                self._take_in([sending for sending, _ in arrived], arrivals, now)
                if self.halt is None and self._bug is None:
                    wait = self._send_what_may_go(now)
                    self._start()
        except BaseException as error:  # noqa: BLE001 - kept, and raised by `run` once nothing is in flight
            self._bug = self._bug or error
            self.in_flight -= len(self._outgoing) + len(self._admitted)
            self._outgoing.clear()
            self._admitted.clear()
        self._hand_out()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.in_flight == 0 and (self.halt is not None or self._bug is not None or self._is_done()):
            self._over.set()
        elif wait != NEVER:
            self._timer = self._loop.call_later(wait, self._step)

    def _is_done(self) -> bool:
        return self._source_ended and not self._later and not any(self._queues.values())

    def _send_what_may_go(self, now: float) -> float:
        """Seconds until it is worth asking again; infinite: not before an event."""
        quiet_seconds = now - self._last_success
        if quiet_seconds > self._settings.give_up_after_seconds:
            self.halt = Halt(EXIT_GATEWAY_REFUSED, f"no success for {quiet_seconds / 60:.0f} minutes")
            return NEVER
        while self._later and self._later[0][0] <= now:
            due = heapq.heappop(self._later)[2]
            self._queues[self._routes[due.unit.variant].lane].append(due)
        soonest = max(0.001, self._later[0][0] - now) if self._later else NEVER
        for lane, queue in self._queues.items():
            soonest = min(soonest, self._send_from(lane, queue, now))
        while not self._source_ended and self._backlog() < self._lookahead and self._has_room():
            drawn = self._draw()
            if not drawn:
                break
            lane = self._routes[drawn[0].unit.variant].lane
            queue = self._queues[lane]
            queue.extend(drawn)
            if len(queue) == len(drawn):
                soonest = min(soonest, self._send_from(lane, queue, now))
        return soonest

    def _draw(self) -> list[Ticket]:
        """New tickets of one lane: one, so that lanes take turns; where there is but one, as many as may go."""
        most = max(1, self.limit - self.in_flight) if len(self._queues) == 1 else 1
        drawn: list[Ticket] = []
        while len(drawn) < most:
            ticket = self._source.next()
            if ticket == "wait" or ticket == "end":
                self._source_ended = ticket == "end"
                break
            drawn.append(ticket)
        return drawn

    def _has_room(self) -> bool:
        return self.in_flight < self._settings.concurrency and self.halt is None

    def _backlog(self) -> int:
        return sum(map(len, self._queues.values()))

    def _send_from(self, lane: Lane, queue: deque[Ticket], now: float) -> float:
        """Send the head of one lane's queue for as long as it may go; seconds until the next may."""
        while queue and self._has_room():
            wait = lane.wait_seconds(now, queue[0].bound_tokens)
            if wait > 0.0:
                return wait
            if not self._hooks.reserve(queue[0]):
                if self.in_flight == 0:
                    self.halt = Halt(EXIT_OUT_OF_MONEY, NO_ROOM)
                return NEVER
            ticket = queue.popleft()
            self.in_flight += 1
            self._admitted.append((ticket, lane.admit(now, ticket.bound_tokens)))
        return NEVER

    def _start(self) -> None:
        """Record all that was admitted as started; it goes once that is written."""
        attempts = self._hooks.started([ticket for ticket, _ in self._admitted])
        self._outgoing += [
            Sending(attempt, place, self._routes[ticket.unit.variant])
            for attempt, (ticket, place) in zip(attempts, self._admitted, strict=True)
        ]
        self._admitted.clear()

    def _hand_out(self) -> None:
        """Give what was recorded as started to the wire."""
        for sending in self._outgoing:
            route, body = sending.route, sending.attempt.ticket.body
            try:
                reply = self._wire.post(route.url, route.headers, body, self._deadline_seconds)
                call = reply if isinstance(reply, asyncio.Future) else asyncio.ensure_future(reply)
            except Exception as error:  # noqa: BLE001 - kept, and raised by `run` once nothing is in flight
                self._bug = self._bug or error
                self.in_flight -= 1
            else:
                self._calls[call] = sending
                call.add_done_callback(self._came)
        self._outgoing.clear()

    def _came(self, call: asyncio.Future[Response | Fault]) -> None:
        """A call is over: its reply is taken in with the next step."""
        sending = self._calls.pop(call)
        if call.cancelled():  # the loop is being shut down
            return
        bug = call.exception()
        if bug is None:
            self._arrived.append((sending, call.result()))
            self._step_with_others(sending.admitted.started_at)
        else:
            self._bug = self._bug or bug
            self.in_flight -= 1
            self._step_soon()

    def _take_in(self, sent: Sequence[Sending], arrivals: Sequence[Response | Fault], now: float) -> None:
        """Read recorded replies, decide, conclude. What an error leaves unread here, the next start reads."""
        epoch_seconds = self._epoch_seconds()
        results = [
            self._read(sending.route, arrival, now, epoch_seconds)
            for sending, arrival in zip(sent, arrivals, strict=True)
        ]
        outcomes = [self._decided(sending, result, now) for sending, result in zip(sent, results, strict=True)]
        for outcome, follow_up in zip(outcomes, self._hooks.concluded(outcomes), strict=True):
            if follow_up is not None or outcome.decision is not None:
                self._follow(outcome, follow_up)

    def _decided(self, sending: Sending, result: Reply | Failure, now: float) -> Outcome:
        """Tell the lane, and find what a failure leads to."""
        lane = sending.route.lane
        if isinstance(result, Reply):
            self._last_success = now
            usage = result.usage
            lane.answered(now, sending.admitted, None if usage is None else usage.total_tokens)
            return Outcome(sending.attempt, result, None)
        if result.action == "cool_down":
            lane.refused(now, sending.admitted, result.retry_after_seconds)
        else:
            lane.failed(now, sending.admitted, was_sent=result.outcome in ("unknown", "done"))
        decision = decide(
            result,
            sending.attempt.ticket.tries,
            self._settings.retry,
            lane_has_succeeded=lane.has_succeeded,
            lane_was_reached=lane.was_reached,
            draw=self._random.random(),
        )
        return Outcome(sending.attempt, result, decision)

    def _read(self, route: Route, arrival: Response | Fault, now: float, epoch_seconds: float) -> Reply | Failure:
        if isinstance(arrival, Fault):
            return check_fault(arrival)
        result = check(route.protocol, arrival, stream=route.stream, now_epoch_seconds=epoch_seconds)
        hints = rate_hints(arrival.headers, epoch_seconds)
        if hints is not NO_HINTS and not (isinstance(result, Failure) and result.action == "cool_down"):
            route.lane.heed(now, hints)
        if not isinstance(result, Failure) or result.action != "stop_unreached":
            route.lane.was_reached = True
        return result

    def _follow(self, outcome: Outcome, follow_up: Ticket | None) -> None:
        decision = outcome.decision
        if follow_up is not None:
            self._queues[self._routes[follow_up.unit.variant].lane].appendleft(follow_up)
        if isinstance(decision, Again):
            again = retried(outcome.attempt.ticket, decision)
            self._sequence += 1
            heapq.heappush(self._later, (self._loop.time() + decision.delay_seconds, self._sequence, again))
        elif isinstance(decision, Halt):
            self.halt = self.halt or decision


def retried(ticket: Ticket, decision: Again) -> Ticket:
    """The same request, one attempt later."""
    return structs.replace(ticket, attempt=ticket.attempt + 1, tries=decision.tries)
