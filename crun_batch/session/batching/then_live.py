"""`lane: batch-then-live`: batches, and beside them a pool that asks one by one what they leave undone.

Both send with the same hooks, for one journal and one budget, each at its own price. Owns what one of them means
for the other: a halt, a variant that is set aside, money that comes back. What goes live is decided in the batch
lane: a request that its batch has told of, never one whose batch nobody has decided about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from msgspec import structs

from crun_batch.errors import EXIT_BUG, EXIT_GATEWAY_REFUSED
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import Hooks, PoolSettings, Sender
from crun_batch.records import Attempt, Fault, Halt, Outcome, Response, Room, Ticket
from crun_batch.session.batching.left import LeftTickets
from crun_batch.session.batching.sender import BatchSender

MakeBatches = Callable[[Hooks, PoolSettings, LeftTickets], BatchSender]
MakeLive = Callable[[Hooks, PoolSettings, LeftTickets], Pool]
"""Hooks, settings, what is left undone -> who sends."""


class SharedMoney:
    """The hooks of one of two senders: what has no room waits while the other has something out."""

    def __init__(self, hooks: Hooks, is_other_out: Callable[[], bool], wake_other: Callable[[], None]) -> None:
        self.together: Callable[[], AbstractContextManager[None]] = hooks.together
        self._hooks = hooks
        self._is_other_out = is_other_out
        self._wake_other = wake_other

    def reserve(self, ticket: Ticket) -> Room:
        """See `pool_seams.Hooks`."""
        room = self._hooks.reserve(ticket)
        return "wait" if room == "none" and self._is_other_out() else room

    def started(self, tickets: Sequence[Ticket]) -> list[Attempt]:
        """See `pool_seams.Hooks`."""
        return self._hooks.started(tickets)

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        """See `pool_seams.Hooks`."""
        return self._hooks.arrived(arrivals)

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        """See `pool_seams.Hooks`."""
        if outcomes:
            self._wake_other()
        return self._hooks.concluded(outcomes)


class BatchThenLive:
    """Sends every ticket of the source in batches, and live what these leave undone. One use."""

    def __init__(
        self, hooks: Hooks, settings: PoolSettings, make_batches: MakeBatches, make_live: MakeLive
    ) -> None:
        self._tell_set_aside = settings.set_aside
        self._set_aside = set(settings.refused)
        self._is_live = False
        if settings.set_aside is not None:
            settings = structs.replace(settings, set_aside=self._set_aside_in_both)
        self._left = LeftTickets(self._wake_live)
        of_batches = SharedMoney(hooks, lambda: self._live.in_flight > 0, self._wake_live)
        of_live = SharedMoney(hooks, lambda: self._batches.is_out, lambda: self._batches.wake())
        self._batches = make_batches(of_batches, settings, self._left)
        self._live = make_live(of_live, settings, self._left)

    async def run(self) -> Halt | None:
        """Until both are done; what ends one early ends the other too. Raises what a hook raised."""
        ends = await asyncio.gather(self._send_live(), self._send_batches(), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return next((end for end in ends if isinstance(end, Halt)), None)

    async def _send_live(self) -> Halt | None:
        self._is_live = True
        return await self._send(self._live, self._batches)

    async def _send_batches(self) -> Halt | None:
        try:
            return await self._send(self._batches, self._live)
        finally:
            self._left.end()

    async def _send(self, sender: Sender, other: Sender) -> Halt | None:
        try:
            halt = await sender.run()
        except BaseException:
            other.stop(Halt(EXIT_BUG, "the other lane has failed"))
            raise
        if sender.halt is not None:
            other.stop(sender.halt)
        return halt

    def _wake_live(self) -> None:
        if self._is_live:
            self._live.wake()

    def _set_aside_in_both(self, variant: int, words: str) -> None:
        if variant not in self._set_aside and self._tell_set_aside is not None:
            self._set_aside.add(variant)
            self._tell_set_aside(variant, words)
            self.refuse(variant, Halt(EXIT_GATEWAY_REFUSED, words))

    @property
    def halt(self) -> Halt | None:
        """Why it ends early; of both the first reason."""
        return self._batches.halt or self._live.halt

    @halt.setter
    def halt(self, halt: Halt | None) -> None:
        self._batches.halt = self._live.halt = halt

    def stop(self, halt: Halt) -> None:
        """Nothing new from now on; batches stay, what went live is waited for."""
        self._batches.stop(halt)
        self._live.stop(halt)

    def refuse(self, variant: int, halt: Halt) -> None:
        """The gateway refuses this variant, in whichever lane."""
        self._batches.refuse(variant, halt)
        self._live.refuse(variant, halt)

    def leave_out(self, endpoint: str | None, halt: Halt) -> None:
        """The endpoint can pay no more; there is but one, so the run stops."""
        self.stop(halt)

    def abandon(self) -> None:
        """End now; batches stay, the outcome of what went live stays unknown."""
        self._batches.abandon()
        self._live.abandon()

    def wake(self) -> None:
        """The source has a ticket again, or what may be used has changed."""
        self._batches.wake()
        self._wake_live()

    @property
    def waits_for_money(self) -> bool:
        """Whether nothing of what is left undone goes because there is no room for it now."""
        return self._live.waits_for_money

    @property
    def in_flight(self) -> int:
        """Requests in batches, and those that went live."""
        return self.in_batches + self._live.in_flight

    @property
    def in_batches(self) -> int:
        """Those that a stop leaves where they are."""
        return self._batches.in_batches

    @property
    def awaited(self) -> tuple[int, int]:
        """Of the batches."""
        return self._batches.awaited

    @property
    def limit(self) -> int:
        """There is none to requests in batches but what these hold."""
        return self.in_batches + self._live.limit

    @property
    def waiting_seconds(self) -> float:
        """How long nothing may go live."""
        return self._live.waiting_seconds
