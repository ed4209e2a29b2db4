"""From tickets to batches: drawn in order, each variant's cut by the limits, recorded before anything is sent.

Owns what waits to go, and what a new batch takes of it. A request that an earlier session's batch has already goes
to that batch; one whose unit has another request there waits until that is over.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from crun_batch.gateway.batches.form import BatchForm
from crun_batch.gateway.pool_seams import Hooks, TicketSource
from crun_batch.gateway.protocols.protocol import Protocol
from crun_batch.pricing.account import UnitKey
from crun_batch.records import Attempt, Ticket
from crun_batch.session.batching.keeper import BatchKeeper
from crun_batch.session.batching.left import LeftTickets
from crun_batch.session.batching.live import (
    MOST_BYTES_AWAITED,
    MOST_REQUESTS_AWAITED,
    BatchLimits,
    Filling,
    LiveBatch,
    custom_id,
    holds_together,
    tag_of,
)
from crun_batch.store.batches import BatchEntry

MOST_DRAWN_AT_ONCE = 2_000
"""Tickets that are drawn before others have the loop."""


class BatchRoute(Struct, frozen=True):
    """Where the tickets of one variant go."""

    name: str
    form: BatchForm
    form_name: str
    protocol: Protocol
    endpoint: str | None
    """What the lane is called in records: its price is its own."""


class Drafts:
    """What waits to go in a batch."""

    def __init__(
        self,
        routes: Sequence[BatchRoute],
        source: TicketSource,
        hooks: Hooks,
        keeper: BatchKeeper,
        limits: BatchLimits,
        left: LeftTickets | None,
    ) -> None:
        """`left`: where those go that are asked live, as a batch has left them undone; None: none are."""
        self.routes = routes
        self.left = left
        self.source_ended = False
        self.lacks_room = False
        """Whether the budget had no room for the last request that was to be taken."""
        self.most_tokens = limits.enqueued_tokens
        """The limit of enqueued tokens, as it is said or as the gateway has shown it."""
        self._source = source
        self._hooks = hooks
        self._keeper = keeper
        self._limits = limits
        self._queues: list[deque[Ticket]] = [deque() for _ in routes]
        self._parked: dict[UnitKey, Ticket] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Requests that wait, those among them that wait for an earlier one of their unit."""
        return sum(map(len, self._queues)) + len(self._parked)

    def draw(self, batches: Sequence[LiveBatch], is_set_aside: Callable[[Ticket], bool]) -> bool:
        """Draw what the source gives now and memory bears; whether it gave anything."""
        left = self.left
        requests = len(self) + sum(len(batch.attempts) for batch in batches) + (0 if left is None else len(left))
        bytes_awaited = (
            self._bytes + (0 if left is None else left.bytes) + sum(batch.bytes_awaited for batch in batches)
        )
        has_drawn = False
        for _ in range(MOST_DRAWN_AT_ONCE):
            if self.source_ended or requests >= MOST_REQUESTS_AWAITED or bytes_awaited >= MOST_BYTES_AWAITED:
                break
            ticket = self._source.next()
            if ticket == "wait":
                break
            if ticket == "end":
                self.source_ended = True
                break
            has_drawn = True
            requests += 1
            bytes_awaited += len(ticket.body)
            if not is_set_aside(ticket):
                self._place(ticket, batches)
        return has_drawn

    def _place(self, ticket: Ticket, batches: Sequence[LiveBatch]) -> None:
        claimed = self._keeper.claim(ticket)
        if isinstance(claimed, Attempt):
            batch = next(one for one in batches if claimed.serial in one.entry.serials)
            batch.attempts[claimed.serial] = claimed
        elif claimed == "elsewhere":
            route = self.routes[ticket.unit.variant]
            self._parked[str(ticket.unit.row_id), route.name, ticket.unit.repeat] = ticket
        else:
            self.add(ticket)

    def add(self, ticket: Ticket) -> None:
        """Let it go in a batch, or live, after what waits already."""
        if self.left is not None and ticket.if_left is None:
            self.left.add(ticket)
            return
        ticket = structs.replace(ticket, endpoint=self.routes[ticket.unit.variant].endpoint)
        self._queues[ticket.unit.variant].append(ticket)
        self._bytes += len(ticket.body)

    def unpark(self, keys: Sequence[UnitKey]) -> None:
        """The earlier requests of these units are over: what they ask now may go."""
        for key in keys:
            ticket = self._parked.pop(key, None)
            if ticket is not None:
                self.add(structs.replace(ticket, attempt=ticket.attempt + 1))

    def drop(self, variant: int) -> None:
        """Nothing of this variant is sent any more: its units stay open, and wait for no batch either."""
        self._bytes -= sum(len(ticket.body) for ticket in self._queues[variant])
        self._queues[variant].clear()
        parked = self._parked.items()
        self._parked = {key: ticket for key, ticket in parked if ticket.unit.variant != variant}

    def next(self, batches: Sequence[LiveBatch], *, may_be_part: bool) -> LiveBatch | None:
        """A batch of what waits, recorded; not a part of one where more may come to fill it. Raises DiskFailed."""
        self.lacks_room = False
        for variant, queue in enumerate(self._queues):
            if queue and (may_be_part or self._is_full(queue)):
                enqueued = [one.entry.tokens for one in batches if one.variant == variant and one.is_enqueued]
                taken = self._take(queue, self._free_tokens(queue, enqueued))
                if taken:
                    batch = self._recorded(variant, taken)
                    batch.enqueued_before = sum(enqueued)
                    return batch
        return None

    def _is_full(self, queue: deque[Ticket]) -> bool:
        size = Filling(self._limits, self.most_tokens)
        for ticket in queue:
            if not size.fits(ticket):
                return True
            size.add(ticket)
        return size.requests >= self._limits.requests

    def _free_tokens(self, queue: deque[Ticket], enqueued: Sequence[int]) -> int | None:
        """What may still be enqueued; None: no limit is known, or nothing waits there and one request must go."""
        if self.most_tokens is None:
            return None
        return self.most_tokens - sum(enqueued) if enqueued else max(self.most_tokens, queue[0].bound_tokens)

    def _take(self, queue: deque[Ticket], free_tokens: int | None) -> list[Ticket]:
        size, taken = Filling(self._limits, free_tokens), list[Ticket]()
        while queue and size.fits(queue[0]):
            room = self._hooks.reserve(queue[0])
            if room != "held":
                self.lacks_room = room == "none"
                break
            size.add(queue[0])
            taken.append(queue.popleft())
        self._bytes -= sum(len(ticket.body) for ticket in taken)
        return taken

    def _recorded(self, variant: int, tickets: Sequence[Ticket]) -> LiveBatch:
        """On the disk in this order: that a batch is drafted, its requests as started, what it is to be."""
        route, keeper = self.routes[variant], self._keeper
        number, at = keeper.book.last_number + 1, keeper.now_us()
        tag = tag_of(keeper.place, number, at)
        entry = BatchEntry(number, "drafted", at, tag, keeper.serial(), variant=route.name)
        keeper.book.write(entry)
        attempts = self._hooks.started(tickets)
        keeper.sync()
        content = route.form.content((custom_id(tag, one.serial), one.ticket.body) for one in attempts)
        entry = structs.replace(
            entry,
            step="intended",
            requests=len(attempts),
            sha256=hashlib.sha256(content).hexdigest(),
            tokens=sum(ticket.bound_tokens for ticket in tickets),
            form=route.form_name,
            **holds_together([ticket.hold for ticket in tickets]),
        )
        keeper.book.write(entry)
        return LiveBatch(entry, variant, {one.serial: one for one in attempts}, content=content)
