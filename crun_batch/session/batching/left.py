"""What batches leave undone, on its way to be sent live: tickets in the order in which they were left. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from crun_batch.records import Ticket


class LeftTickets:
    """The source of who sends live beside the batches."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """`wake`: tells who sends live that there is more, or that there may be room for more."""
        self.bytes = 0
        """Of the bodies that wait."""
        self.wake = wake
        self._waiting: deque[Ticket] = deque()
        self._is_over = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, ticket: Ticket) -> None:
        """Let it go live, after what was left before."""
        self._waiting.append(ticket)
        self.bytes += len(ticket.body)
        self.wake()

    def end(self) -> None:
        """The batches are over: no more comes."""
        self._is_over = True
        self.wake()

    def next(self) -> Ticket | Literal["wait", "end"]:
        """See `pool_seams.TicketSource`."""
        if not self._waiting:
            return "end" if self._is_over else "wait"
        ticket = self._waiting.popleft()
        self.bytes -= len(ticket.body)
        return ticket
