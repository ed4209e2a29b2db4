"""One request for each prefix and cache key goes ahead; the others wait until it is answered, and read its cache.

Owns which prefix is cold, being warmed, or warm, for one session: a pause is longer than a cache lasts. Whatever
becomes of the request that went ahead, the others follow it. Nothing is sent or written here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from crun_batch.records import Ticket
from crun_batch.session.lanes import SkippingSource

MOST_HELD = 10_000
"""Tickets that wait for a cache to be warm; the source pauses until there are fewer."""


class Warming:
    """Who goes ahead and who waits."""

    def __init__(self, wake: Callable[[], None], most_held: int = MOST_HELD) -> None:
        self._wake = wake
        self._most_held = most_held
        self._is_warm: dict[str, bool] = {}
        self._held: dict[str, deque[Ticket]] = {}
        self._ready: deque[Ticket] = deque()
        self._holding = 0

    @property
    def holds(self) -> int:
        """How many tickets wait, or may go and have not been asked for."""
        return self._holding + len(self._ready)

    @property
    def is_full(self) -> bool:
        """Whether no more should come until some may go."""
        return self._holding >= self._most_held

    def admits(self, ticket: Ticket) -> bool:
        """Whether the ticket may go now; otherwise it is kept until its prefix is warm."""
        prefix = ticket.prefix
        if prefix is None or self._is_warm.get(prefix):
            return True
        if prefix not in self._is_warm:
            self._is_warm[prefix] = False
            return True
        self._held.setdefault(prefix, deque()).append(ticket)
        self._holding += 1
        return False

    def answered(self, ticket: Ticket) -> None:
        """A request is over: those of its prefix may go."""
        prefix = ticket.prefix
        if prefix is None or self._is_warm.get(prefix):
            return
        self._is_warm[prefix] = True
        released = self._held.pop(prefix, ())
        self._holding -= len(released)
        self._ready.extend(released)
        self._wake()

    def ready(self) -> Ticket | None:
        """One that has waited and may go now."""
        return self._ready.popleft() if self._ready else None

    def drop(self, target: int) -> None:
        """Nobody asks this variant any more."""
        for prefix, waiting in list(self._held.items()):
            kept = deque(ticket for ticket in waiting if ticket.unit.variant != target)
            self._holding -= len(waiting) - len(kept)
            self._held[prefix] = kept
        self._ready = deque(ticket for ticket in self._ready if ticket.unit.variant != target)


class WarmedTickets:
    """Another source's tickets, of which those with a cold prefix are held back."""

    def __init__(self, source: SkippingSource, warming: Warming) -> None:
        self._source = source
        self._warming = warming

    def skip(self, target: int) -> None:
        """Make no more tickets of this variant: its units stay open."""
        self._source.skip(target)
        self._warming.drop(target)

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket that may go; "wait": `wake` will be called, or an answer in flight is waited for."""
        warming = self._warming
        while True:
            ready = warming.ready()
            if ready is not None:
                return ready
            if warming.is_full:
                return "wait"
            ticket = self._source.next()
            if isinstance(ticket, str):
                return "wait" if warming.holds else ticket
            if warming.admits(ticket):
                return ticket
