"""The pool of a job that names several endpoints for one model: each request is given one as it goes.

Everything else is the pool's own. A ticket that waits to be sent again says where it went last and where it must
not go yet; one that nobody may take soon is put back for a while, so that it does not hold up those behind it.
"""

from __future__ import annotations

from msgspec import structs

from crun_batch.gateway.admission import Admitted
from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import Route, Sending
from crun_batch.gateway.spread import AnyLane, Spread
from crun_batch.records import Failure, Halt, Outcome, Reply, Ticket

SHORTEST_DEFERRAL_SECONDS = 0.05
LONGEST_DEFERRAL_SECONDS = 1.0


class SpreadPool(Pool):
    """A pool some of whose routes lead to several endpoints."""

    def leave_out(self, endpoint: str | None, halt: Halt) -> None:
        """An endpoint can pay no more: nothing is sent there; where it is the last one, the run stops."""
        spreads = dict.fromkeys(route.spread for route in self._routes if route.spread is not None)
        found = [(spread, place) for spread in spreads if endpoint and (place := spread.place_of(endpoint))]
        ends = [spread.leave_out(place, halt) for spread, place in found]
        if None not in ends:
            self.stop(next((end for end in ends if end is not None), halt))

    def _send_from(self, lane: AnyLane, now: float) -> float:
        """As of one endpoint; of several, each request is given the one that is likely to answer it first."""
        if not isinstance(lane, Spread):
            return super()._send_from(lane, now)
        queue, soonest = self._queues.of(lane), NEVER
        while queue and self._has_room():
            ticket = queue[0]
            place = lane.choose(now, ticket)
            if isinstance(place, float):
                if ticket.endpoint is None:
                    return min(soonest, place)
                wait = max(SHORTEST_DEFERRAL_SECONDS, min(place, LONGEST_DEFERRAL_SECONDS))
                self._queues.add_later(self._queues.take(lane), now + wait)
                soonest = min(soonest, wait)
                continue
            if not self._may_take(lane):
                return soonest
            room = self._hooks.reserve(ticket)
            if room != "held":
                self._has_no_money(room)
                return soonest
            self._queues.take(lane)
            self.in_flight += 1
            admitted: Admitted = place.lane.admit(now, ticket.bound_tokens)
            place.went(now)
            self._admitted.append((structs.replace(ticket, endpoint=place.name), admitted))
            if self._shares is not None:
                self._shares.took(lane)
        return soonest

    def _start(self) -> None:
        """Record all that was admitted as started, each with its endpoint."""
        attempts = self._hooks.started([ticket for ticket, _ in self._admitted])
        self._outgoing += [
            Sending(attempt, admitted, self._route_of(ticket))
            for attempt, (ticket, admitted) in zip(attempts, self._admitted, strict=True)
        ]
        self._admitted.clear()

    def _decided(self, sending: Sending, result: Reply | Failure, now: float) -> Outcome:
        """Tell the lane, then its list of endpoints: what follows a failure may be another one of them."""
        outcome = super()._decided(sending, result, now)
        route = sending.route
        if route.spread is None or route.place is None:
            return outcome
        if isinstance(result, Reply):
            self._troubles.answered(route.spread)
            route.spread.answered(now, route.place, sending.admitted.started_at)
            return outcome
        self._troubles.failed(route.spread, now, result)
        assert outcome.decision is not None
        ticket = sending.attempt.ticket
        decision = route.spread.failed(now, route.place, result, outcome.decision, ticket)
        return Outcome(sending.attempt, result, decision)

    def _route_of(self, ticket: Ticket) -> Route:
        route = self._routes[ticket.unit.variant]
        return route if ticket.endpoint is None else route.by_endpoint[ticket.endpoint]
