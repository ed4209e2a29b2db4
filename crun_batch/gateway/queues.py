"""What waits to be sent, by lane: tickets that go as soon as their lane lets them, and those put back for later.

Lanes do not wait for each other: a lane that is paused lets its tickets pile up here while others go on. How far
they may drift apart is bounded by memory alone, `MOST_WAITING_BYTES` of tickets; then nothing new is drawn.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.shares import Shares
from crun_batch.gateway.spread import AnyLane
from crun_batch.records import Ticket

MOST_WAITING_BYTES = 64 * 2**20
TICKET_BYTES = 2048
"""What a waiting ticket takes beside its request body: its row, hashes, places in tables."""


class Queues:
    """Waiting tickets; `lanes` has one for each variant. At most `concurrency` are in flight."""

    def __init__(self, lanes: Sequence[AnyLane], concurrency: int) -> None:
        self._lanes = lanes
        self._queues: dict[AnyLane, deque[Ticket]] = {lane: deque() for lane in lanes}
        self._later: list[tuple[float, int, Ticket]] = []
        self._sequence = 0
        self._bytes = 0
        self.only_lane = lanes[0] if len(self._queues) == 1 else None
        """The lane of all tickets, where there is but one."""
        self.shares = Shares(concurrency, lanes) if self.only_lane is None else None
        """Of the places in flight, where there are several."""

    def __iter__(self) -> Iterator[tuple[AnyLane, deque[Ticket]]]:
        return iter(self._queues.items())

    def __bool__(self) -> bool:
        return bool(self._later) or any(self._queues.values())

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nothing new may come."""
        return self._bytes >= MOST_WAITING_BYTES

    def unfinished(self, source_ended: bool) -> int:
        """How many lanes have something to send or in flight, or may still get a ticket."""
        if not source_ended:
            return len(self._queues)
        return sum(bool(queue) or lane.in_flight > 0 for lane, queue in self._queues.items())

    def of(self, lane: AnyLane) -> deque[Ticket]:
        """One lane's tickets, the next one first. Taken from here with `take`."""
        return self._queues[lane]

    def add(self, tickets: Sequence[Ticket], lane: AnyLane) -> None:
        """New tickets of a lane, to go after what waits there."""
        self._queues[lane].extend(tickets)
        self._bytes += sum(map(_bytes_of, tickets))

    def add_first(self, ticket: Ticket) -> None:
        """A ticket that goes before all that waits in its lane: its unit was begun before theirs."""
        self._queues[self._lanes[ticket.unit.variant]].appendleft(ticket)
        self._bytes += _bytes_of(ticket)

    def add_later(self, ticket: Ticket, due: float) -> None:
        """A ticket that must not go before `due`."""
        self._sequence += 1
        heapq.heappush(self._later, (due, self._sequence, ticket))
        self._bytes += _bytes_of(ticket)

    def take(self, lane: AnyLane) -> Ticket:
        """The next ticket of a lane, which is about to go."""
        ticket = self._queues[lane].popleft()
        self._bytes -= _bytes_of(ticket)
        return ticket

    def move_due(self, now: float) -> float:
        """Let those that are due go before others of their lane; seconds until the next one is."""
        due: list[Ticket] = []
        while self._later and self._later[0][0] <= now:
            due.append(heapq.heappop(self._later)[2])
        for ticket in reversed(due):
            self._queues[self._lanes[ticket.unit.variant]].appendleft(ticket)
        return max(0.001, self._later[0][0] - now) if self._later else NEVER

    def drop(self, is_unwanted: Callable[[Ticket], bool]) -> None:
        """Forget tickets: their units stay open."""
        for queue in self._queues.values():
            kept = [ticket for ticket in queue if not is_unwanted(ticket)]
            queue.clear()
            queue.extend(kept)
        self._later = [each for each in self._later if not is_unwanted(each[2])]
        heapq.heapify(self._later)
        self._bytes = sum(_bytes_of(ticket) for _, _, ticket in self._later)
        self._bytes += sum(_bytes_of(ticket) for queue in self._queues.values() for ticket in queue)


def _bytes_of(ticket: Ticket) -> int:
    return len(ticket.body) + TICKET_BYTES
