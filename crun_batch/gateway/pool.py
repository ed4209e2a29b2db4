"""The bounded pool: pulls tickets, sends what may go, puts back what must wait, hands every event to its hooks.

Everything happens in `_step`, synchronously and stage by stage: all replies that have come are recorded, then all
are read, then all are concluded, then all that may go is recorded as started, and only then sent. So a record
costs no system call of its own when many come at once, and each stage finds its code still in the processor's
caches, which takes a quarter off a row's cost. No task waits for a reply, a call that is over is put on a list;
and a row that waits for its retry holds no place. The pool knows no file and no price: its hooks
reserve money and write records, and a ticket carries all that the pool must know.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.admission import Admitted, Lane
from crun_batch.gateway.arrivals import read_arrival
from crun_batch.gateway.gathering import Crowd, Gathering
from crun_batch.gateway.http.wire import Wire
from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.pool_seams import NO_ROOM, Hooks, PoolSettings, Route, Sending, TicketSource
from crun_batch.gateway.queues import Queues
from crun_batch.gateway.retry import decide, retried
from crun_batch.gateway.spread import AnyLane
from crun_batch.gateway.troubles import Troubles, minutes, set_aside_halt
from crun_batch.records import FREE_OUTCOMES, Again, Failure, Fault, Halt, Outcome, Reply, Response, Room, Ticket

FEWEST_DRAWN_AT_ONCE = 64
"""Tickets of lanes that cannot send, drawn on the way to those that can, before others have the loop."""


class Pool:
    """Sends every ticket of the source, as many at once as it may. One use; `run` returns why it ended."""

    in_batches, awaited = 0, (0, 0)

    def __init__(
        self,
        *,
        wire: Wire,
        routes: Sequence[Route],
        source: TicketSource,
        hooks: Hooks,
        settings: PoolSettings,
        epoch_seconds: Callable[[], float],
        rest: Callable[[float], None],
    ) -> None:
        self.in_flight, self._places = 0, 0
        self.halt: Halt | None = None
        self.waits_for_money = False
        """The next request has no room under the caps, and these may be raised."""
        self._wire = wire
        self._routes = routes
        self._source = source
        self._hooks = hooks
        self._settings = settings
        self._allowance = settings.allowed()
        self._deadline_seconds = settings.attempt_timeout_seconds
        self._epoch_seconds = epoch_seconds
        self._rest = rest
        self._random = random.Random(0)
        self._queues = Queues([route.queued_in for route in routes], settings.concurrency)
        self._shares = self._queues.shares
        self._troubles = Troubles()
        self._set_aside = dict(settings.refused)
        self._source_ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._bug: BaseException | None = None
        self._admitted: list[tuple[Ticket, Admitted]] = []
        self._outgoing: list[Sending] = []
        self._arrived: list[tuple[Sending, Response | Fault]] = []
        self._step_is_due = False
        self._calls: dict[asyncio.Future[Response | Fault], Sending] = {}

    async def run(self) -> Halt | None:
        """Until all is done or a halt has drained. Raises what a hook raised, once nothing is in flight."""
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._gathering = Gathering(self._crowd, self._step, self._rest)
        self._last_success = self._loop.time()
        self._step()
        await self._over.wait()
        if self._timer is not None:
            self._timer.cancel()
        if self._bug is not None:
            raise self._bug
        if self.halt is None and self._set_aside:
            return set_aside_halt({self._routes[variant].name: why for variant, why in self._set_aside.items()})
        return None if self.halt is None else self._troubles.named(self.halt)

    def stop(self, halt: Halt) -> None:
        """No new requests from now on; what is in flight is waited for. The first reason given stays."""
        self.halt = self.halt or halt
        self._step_soon()

    def refuse(self, variant: int, halt: Halt) -> None:
        """The gateway refuses this variant: it is set aside where others can go on, else the run stops."""
        set_aside = self._settings.set_aside
        if set_aside is None or halt.exit_code != EXIT_GATEWAY_REFUSED:
            self.stop(halt)
        elif variant not in self._set_aside:
            self._set_aside[variant] = halt.words
            self._queues.drop(self._is_set_aside)
            set_aside(variant, halt.words)
            if len(self._set_aside) == len(self._routes):
                self.stop(halt)
            self._step_soon()

    def leave_out(self, endpoint: str | None, halt: Halt) -> None:
        """An endpoint can pay no more; there is but one, so the run stops."""
        self.stop(halt)

    def abandon(self) -> None:
        """End now: what is in flight is not waited for, its outcome stays unknown."""
        self._step()
        self._over.set()

    def wake(self) -> None:
        """The source has a ticket again, or what the pool may use has changed."""
        self._step_soon()

    @property
    def waiting_seconds(self) -> float:
        """How long no lane may send, as each is paused; for the progress display, also before it runs."""
        now = asyncio.get_running_loop().time()
        return max(0.0, min(lane.paused_until - now for lane, _ in self._queues))

    @property
    def limit(self) -> int:
        """Requests that may be in flight now: the lanes' limits together, as far as the pool may."""
        now = asyncio.get_running_loop().time()
        return min(self._allowance.places(now), sum(int(lane.limit.value) for lane, _ in self._queues))

    def _step_soon(self) -> None:
        if not self._step_is_due:
            self._step_is_due = True
            self._loop.call_soon(self._step)

    def _crowd(self) -> Crowd:
        sending, _ = self._arrived[-1]
        lane, took = sending.route.lane, self._loop.time() - sending.admitted.started_at
        is_alone = lane.in_flight == self.in_flight  # all lanes rest at once, also one that answers at once
        return Crowd(len(self._arrived), self.in_flight, took, lane.quickest_seconds if is_alone else NEVER)

    def _step(self) -> None:
        """Take in all that has arrived, send all that may go; then see to it that somebody calls again.

        The order, and what a failure at each place leaves:

        1. Replies are recorded. Fails the journal here, they are lost to us, and their outcome is unknown to the
           next start; nothing that follows from them has happened yet.
        2. They are read, lanes told, holds settled, results and follow-ups made. A bug leaves the rest unread: the
           next start reads what 1 has recorded.
        3. What may go is reserved and recorded as started. 2 and 3 are one write, when the block ends: fails that,
           nothing of 3 goes, for `_outgoing` is emptied.
        4. Only now is it handed to the wire: no request is under way that the journal does not know.

        After a failure nothing new is sent, and the run ends when nothing is in flight any more.
        """
        if self._over.is_set():  # abandoned: nothing is recorded any more
            return
        self._step_is_due, wait = False, NEVER
        arrived, self._arrived = self._arrived, []
        self._gathering.end(len(arrived))
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
        return self._source_ended and not self._queues

    def _send_what_may_go(self, now: float) -> float:
        """Seconds until it is worth asking again; infinite: not before an event.

        Of several lanes: 1. What was put back and is due goes first. 2. Then what waits in lanes that could not
        send before. 3. Then new tickets, in their order, while there is a lane that could send and has none.
        """
        soonest = min(self._give_up(now), self._queues.move_due(now))
        self._places, self.waits_for_money = self._allowance.places(now), False
        if self.halt is not None:
            return NEVER
        lane = self._queues.only_lane
        if lane is None:
            assert self._shares is not None
            self._shares.concurrency = self._allowance.most
            self._shares.look(now, self._queues.unfinished(self._source_ended))
            waiting = [self._send_from(lane, now) for lane, queue in self._queues if queue]
            return min(soonest, *waiting, self._send_new(now))
        soonest = min(soonest, self._send_from(lane, now))
        while not self._queues.of(lane) and self._may_draw():
            drawn = self._draw(max(1, self.limit - self.in_flight))
            if not drawn:
                break
            self._queues.add(drawn, lane)
            soonest = min(soonest, self._send_from(lane, now))
        return soonest

    def _send_new(self, now: float) -> float:
        """Draw until no lane that could send lacks a ticket; a paused one's tickets pile up meanwhile."""
        waits = {lane: lane.wait_seconds(now, 0) for lane, queue in self._queues if not queue}
        hungry = {lane for lane, wait in waits.items() if wait == 0.0 and self._may_take(lane)}
        soonest = min((wait for wait in waits.values() if wait > 0.0), default=NEVER)
        for _ in range(max(FEWEST_DRAWN_AT_ONCE, self._places)):
            if not hungry or not self._may_draw():
                return soonest
            drawn = self._draw(1)
            if not drawn:
                return soonest
            lane = self._routes[drawn[0].unit.variant].queued_in
            self._queues.add(drawn, lane)
            if lane in hungry or len(self._queues.of(lane)) == 1:
                soonest = min(soonest, self._send_from(lane, now))
                if self._queues.of(lane):
                    hungry.discard(lane)
        return 0.0

    def _may_draw(self) -> bool:
        return not self._source_ended and self._has_room() and not self._queues.is_full

    def _draw(self, most: int) -> list[Ticket]:
        """So many new tickets; none: the source has none now."""
        drawn: list[Ticket] = []
        while len(drawn) < most:
            ticket = self._source.next()
            if ticket == "wait" or ticket == "end":
                self._source_ended = ticket == "end"
                break
            if not self._is_set_aside(ticket):
                drawn.append(ticket)
        return drawn

    def _may_take(self, lane: AnyLane) -> bool:
        """Whether a lane among several may take one more place."""
        free = self._places - self.in_flight
        return self._shares is None or self._shares.may_take(lane, free)

    def _is_set_aside(self, ticket: Ticket) -> bool:
        return ticket.unit.variant in self._set_aside

    def _has_room(self) -> bool:
        return self.in_flight < self._places and self.halt is None

    def _give_up(self, now: float) -> float:
        """Halt where nothing succeeded for too long, or set aside what fails alone; seconds until that may be."""
        limit = self._settings.give_up_after_seconds
        if self.in_flight == 0 and (self._places == 0 or self.waits_for_money or not self._queues):  # none could
            self._last_success = now
            self._troubles.start_anew(now)
        quiet = now - self._last_success
        if quiet >= limit and (self.in_flight or self._queues):
            self.halt = Halt(EXIT_GATEWAY_REFUSED, f"no success for {minutes(quiet)}")
            return NEVER
        soonest = limit - quiet
        if self._settings.set_aside is not None:
            for variant, route in enumerate(self._routes):
                since = self._troubles.failing_since(route.queued_in)
                if since is not None and now - since >= limit:
                    halt = Halt(EXIT_GATEWAY_REFUSED, f"no success for {minutes(now - since)}")
                    self.refuse(variant, self._troubles.named(halt, route.queued_in))
                elif since is not None:
                    soonest = min(soonest, limit - (now - since))
        return max(0.001, soonest)

    def _send_from(self, lane: AnyLane, now: float) -> float:
        """Send what waits in a lane, while it may; seconds until the next may."""
        assert isinstance(lane, Lane)
        queue = self._queues.of(lane)
        while queue and self._has_room():
            ticket = queue[0]
            wait = lane.wait_seconds(now, ticket.bound_tokens)
            if wait > 0.0:
                return wait
            if self._shares is not None and not self._may_take(lane):
                return NEVER
            room = self._hooks.reserve(ticket)
            if room != "held":
                self._has_no_money(room)
                return NEVER
            self._queues.take(lane)
            self.in_flight += 1
            self._admitted.append((ticket, lane.admit(now, ticket.bound_tokens)))
            if self._shares is not None:
                self._shares.took(lane)
        return NEVER

    def _has_no_money(self, room: Room) -> None:
        """The next request cannot be reserved, and none in flight can give room: wait for more, or end."""
        self.waits_for_money = room == "wait"
        if self.in_flight == 0 and not self.waits_for_money:
            self.halt = Halt(EXIT_OUT_OF_MONEY, NO_ROOM)

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
            if not self._step_is_due:
                self._gathering.begin()
        else:
            self._bug = self._bug or bug
            self.in_flight -= 1
            self._step_soon()

    def _take_in(self, sent: Sequence[Sending], arrivals: Sequence[Response | Fault], now: float) -> None:
        """Read recorded replies, decide, conclude. What an error leaves unread here, the next start reads."""
        epoch_seconds = self._epoch_seconds()
        results = [
            read_arrival(sending.route, arrival, now, epoch_seconds)
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
            self._troubles.answered(lane)
            usage = result.usage
            lane.answered(now, sending.admitted, None if usage is None else usage.total_tokens)
            return Outcome(sending.attempt, result, None)
        self._troubles.failed(lane, now, result)
        if result.action == "cool_down":
            lane.refused(now, sending.admitted, result.retry_after_seconds)
        else:
            lane.failed(now, sending.admitted, was_sent=result.outcome not in FREE_OUTCOMES)
        decision = decide(
            result,
            sending.attempt.ticket.tries,
            self._settings.retry,
            lane_has_succeeded=lane.has_succeeded,
            lane_was_reached=lane.was_reached,
            draw=self._random.random(),
            key=sending.route.key,
        )
        return Outcome(sending.attempt, result, decision)

    def _follow(self, outcome: Outcome, follow_up: Ticket | None) -> None:
        decision, ticket = outcome.decision, outcome.attempt.ticket
        if isinstance(decision, Halt):
            self.refuse(ticket.unit.variant, decision)
        if self._is_set_aside(ticket):
            return
        if follow_up is not None:
            self._queues.add_first(follow_up)
        if isinstance(decision, Again):
            now = self._loop.time()
            self._queues.add_later(retried(ticket, decision, now), now + decision.delay_seconds)
