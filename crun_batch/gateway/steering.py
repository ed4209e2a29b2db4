"""What a running session may use, as others decide it while it runs.

Two kinds of others. A person says from another terminal: other limits, a pause, an end. And whoever gives one
job's limits and money to several sessions at once leases them, a part to each. Both act through the same seam:

    async def steer(session: SteeredSession) -> None:       # RunOptions.steer; runs beside the sending
        while True:
            granted = await ask_whoever_leases(session.standing())
            session.lease(granted)
            await asyncio.sleep(1.0)

A session that has a steerer admits nothing before its first lease, and nothing after one has ended until there is
another; what is in flight then is waited for, as always. Where its part of the money is used up it waits
(`Lease.more_may_come`) instead of ending. A lease takes effect at once and in the whole: there is no moment with
the money of one and the places of another.

What the session promises: never more in flight than `concurrency`, but for what was in flight when that was
lowered; spent and held never above the caps; no request after `until`. So whoever leases gives out what is free,
takes back before giving on (`Standing` says what is committed and cannot be taken back), and writes a grant down
before giving it. `until` is of the event loop's clock (`loop.time()`), which stands still while a machine sleeps:
over a network an epoch has to fence off besides who comes back late.

Decided without I/O. Times are monotonic seconds, amounts integers of pico.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from msgspec import Struct

from crun_batch.gateway.per_minute import NEVER
from crun_batch.records import Halt


class Allowance:
    """How many requests a pool may have in flight at a moment. Three say so: the limit, a pause, a lease."""

    def __init__(self, concurrency: int, *, valid_until: float = NEVER) -> None:
        self.concurrency = concurrency
        """`limits.concurrency` of the job, as it is now."""
        self.leased = NEVER
        """What a lease gives of it."""
        self.is_paused = False
        """By a person who told this session."""
        self.is_paused_for_all = False
        """By a lease, as somebody has told the whole job."""
        self.valid_until = valid_until
        """From then on nothing is admitted, until a lease says otherwise."""

    @property
    def most(self) -> int:
        """What a pause or the end of a lease interrupts."""
        return int(min(self.concurrency, self.leased))

    def places(self, now: float) -> int:
        """Requests that may be in flight now."""
        return 0 if self.pauses or now >= self.valid_until else self.most

    @property
    def pauses(self) -> bool:
        """Whether somebody wants nothing new to go."""
        return self.is_paused or self.is_paused_for_all


class JobLimits(Struct, frozen=True):
    """The limits of one job, whoever shares them."""

    concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class Lease(Struct, frozen=True):
    """A session's part of one job's limits and money, until it ends."""

    until: float
    concurrency: int
    """Requests in flight; 0: none."""
    rate_share: float = 1.0
    """Of every limit per minute, above 0, at most 1."""
    max_usd_pico: int | None = None
    """Of all that the run directory has ever spent, and holds. None: no cap in this unit."""
    max_credits_pico: int | None = None
    more_may_come: bool = False
    """Of the money: a session that has used up its part waits. False: it ends as it does at its budget's end."""
    limits: JobLimits | None = None
    """What all share, where that is not as the session's job says: what a part is a part of."""
    is_paused: bool = False
    """Nothing new is to go, though it may."""


class MoneyStanding(Struct, frozen=True):
    """One unit's money of a session."""

    cap_pico: int | None
    committed_pico: int
    """Spent, held by requests in flight, held for requests of unknown outcome: no cap may be below."""
    largest_hold_pico: int
    """What a request holds at most, of those that were to be sent so far."""
    has_met_unbounded: bool = False
    """Whether one of them had no bound: under a cap it would never fit."""


class Standing(Struct, frozen=True):
    """What a session uses of what it has."""

    in_flight: int
    limit: int
    """Requests that it would have in flight now, as far as its lanes are known to bear them."""
    waits_for_money: bool
    """Nothing goes, because the next request does not fit under the caps."""
    usd: MoneyStanding
    credits: MoneyStanding
    cooling_until: Mapping[str, float]
    """Lanes that pause after a wave of refusals -> until when. A lane is named by its endpoint and model."""


class SteeredSession(Protocol):
    """A running session, to whoever steers it. On its event loop only; nothing here waits."""

    def lease(self, lease: Lease) -> None:
        """From now on this is what the session may use. Raises ValueError for a cap below what is committed."""

    def standing(self) -> Standing:
        """What the session uses now."""

    def heed_wave(self, lane: str, until: float) -> None:
        """Another session met a wave of refusals on this lane: one cut and one pause for all. Twice is once."""

    def stop(self, halt: Halt) -> None:
        """No new requests from now on; what is in flight is waited for. The first reason given stays."""


Steer = Callable[[SteeredSession], Coroutine[Any, Any, None]]
"""Runs beside the sending, from before its first request to its end. What it raises ends the session."""
