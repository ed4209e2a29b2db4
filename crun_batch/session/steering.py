"""A running session as others may steer it: `gateway.steering.SteeredSession`, and the values that people set.

Owns what holds now of the job's limits and caps, over the pools of the rows and of the judges. Everything is
decided and done at once, on the event loop; nothing is read or written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.per_minute import NEVER
from crun_batch.gateway.pool_seams import Sender
from crun_batch.gateway.steering import Allowance, JobLimits, Lease, MoneyStanding, Standing
from crun_batch.load.job.endpoint_sections import EndpointLimits
from crun_batch.load.job.job import Job
from crun_batch.preflight.affordability import reservations_of
from crun_batch.pricing.budget import Budget, Purse, Reservations
from crun_batch.records import Halt
from crun_batch.state.run_state import RunContext
from crun_batch.state.steered import value_of

FEWEST_TOKENS_PER_MINUTE = 1
LEASED = "the lease"


class LaneTerms(Struct, frozen=True):
    """What a lane may at most now."""

    ceiling: int
    requests_per_minute: float | None
    tokens_per_minute: int | None


class Lanes(dict[tuple[str, Hashable, str | None], Lane]):
    """The limits of each (base URL, account, model) that has been asked in this session.

    An account is known by its key: the repr, which tracebacks print, shows none.
    """

    def __repr__(self) -> str:
        return f"Lanes({len(self)})"


class Steering:
    """The limits and caps of a session, as they are now. See `gateway.steering` for what it promises."""

    def __init__(self, context: RunContext, widen: Callable[[int], None]) -> None:
        job, is_leased = context.workload.job, context.options.steer is not None
        shard = context.workload.shard
        self.job = job
        """As it is now: with what was set since the start."""
        self.allowance = Allowance(job.limits.concurrency, valid_until=-NEVER if is_leased else NEVER)
        self.deadline = context.options.deadline
        self.halt: Halt | None = None
        """Why the session was told to stop, if it was."""
        self._watchers: list[Callable[[Any], Any]] = []
        self.part_of = context.workload.part_of
        """What of the job's caps is for the rows of this run: a shard's part, or all."""
        self.is_one_of_several = shard is not None and shard.which.is_leased
        """A worker, whose limits and caps are leased to it: who sets those of all tells whoever leases them."""
        self._state = context.state
        self._say = context.options.say
        self._widen = widen
        self._lanes = Lanes()
        self._named: dict[str, tuple[Lane, EndpointLimits]] = {}
        self._rate_share = 1.0
        self._leased_limits: JobLimits | None = None
        self._more_may_come = False
        self._pool: Sender | None = None
        self._leaves_in_flight = False
        self._reservations = reservations_of(context)

    @property
    def in_flight(self) -> int:
        """Requests that have been sent and are not back."""
        return 0 if self._pool is None else self._pool.in_flight

    @property
    def is_paused(self) -> bool:
        """Whether a person who told this session has paused it."""
        return self.allowance.is_paused

    @property
    def drains_in_seconds(self) -> float:
        """After how long a stop has ended at the latest: requests in batches stay where they are."""
        return 0.0 if self._leaves_in_flight else self.job.limits.attempt_timeout_seconds

    @property
    def is_stopping(self) -> bool:
        """Nothing new is sent any more."""
        return self.halt is not None or (self._pool is not None and self._pool.halt is not None)

    @property
    def purses(self) -> Reservations:
        """The session's money."""
        return self._reservations

    def is_overruled(self, limit: str) -> bool:
        """Whether every endpoint that was asked so far has a limit of this name of its own."""
        owns = [getattr(own, limit, None) for _, own in self._named.values()]
        return bool(owns) and None not in owns

    @property
    def waiting_reason(self) -> str | None:
        """Why nothing new is sent, for the progress display; None: for no reason of its own."""
        allowance = self.allowance
        if allowance.pauses:
            return "paused"
        if asyncio.get_running_loop().time() >= allowance.valid_until or allowance.most == 0:
            return "waiting for a lease"
        if self._pool is not None and self._pool.waits_for_money:
            return "waiting for money"
        return None

    def attach(self, pool: Sender, reservations: Reservations, *, leaves_in_flight: bool = False) -> None:
        """Who sends from now on, and with what money; whether a stop leaves what is in flight where it is."""
        self._pool, self._reservations, self._leaves_in_flight = pool, reservations, leaves_in_flight
        reservations.more_may_come = self._more_may_come
        pool.halt = pool.halt or self.halt

    def watch_pools(self, watch: Callable[[Any], Any]) -> None:
        """From the next pool on its hooks are what `watch` makes of them."""
        self._watchers.append(watch)

    def watched(self, hooks: Any) -> Any:
        """A pool's hooks, with those who watch between."""
        for watch in self._watchers:
            hooks = watch(hooks)
        return hooks

    def lane_of(self, job: Job, account: Hashable) -> Lane:
        """The lane of a job at one endpoint; a new one is under the limits that hold now."""
        key = (job.endpoint.base_url, account, job.model)
        if key not in self._lanes:
            self._lanes[key] = self._new_lane(job)
        return self._lanes[key]

    def _new_lane(self, job: Job) -> Lane:
        own = job.endpoint.limits
        terms = self._terms(own)
        lane = Lane(
            ceiling=terms.ceiling,
            adaptive=job.limits.adaptive,
            requests_per_minute=terms.requests_per_minute,
            tokens_per_minute=terms.tokens_per_minute,
        )
        name = f"{job.endpoint.name or job.endpoint.base_url} {job.model}"
        others = sum(other.partition(" #")[0] == name for other in self._named)
        self._named[f"{name} #{others + 1}" if others else name] = lane, own
        return lane

    def lease(self, lease: Lease) -> None:
        """See `SteeredSession.lease`."""
        if not 0.0 < lease.rate_share <= 1.0:
            raise ValueError("a share of the limits per minute is above 0 and at most 1")
        self.set_caps(Budget(lease.max_usd_pico, lease.max_credits_pico), more_may_come=lease.more_may_come)
        self._rate_share = lease.rate_share
        if lease.limits is not None and lease.limits != self._leased_limits:
            self._take_limits(lease.limits)
        self.allowance.leased, self.allowance.valid_until = lease.concurrency, lease.until
        self.allowance.is_paused_for_all = lease.is_paused
        self._apply()

    def standing(self) -> Standing:
        """See `SteeredSession.standing`."""
        pool, now = self._pool, asyncio.get_running_loop().time()
        return Standing(
            in_flight=self.in_flight,
            limit=0 if pool is None else pool.limit,
            waits_for_money=pool is not None and pool.waits_for_money,
            usd=_money(self._reservations.usd),
            credits=_money(self._reservations.credits),
            cooling_until={
                name: lane.paused_until for name, (lane, _) in self._named.items() if lane.paused_until > now
            },
        )

    def heed_wave(self, lane: str, until: float) -> None:
        """See `SteeredSession.heed_wave`. A lane that this session does not know yet has nothing to heed."""
        if lane in self._named:
            self._named[lane][0].heed_wave(asyncio.get_running_loop().time(), until)

    def stop(self, halt: Halt) -> None:
        """See `SteeredSession.stop`."""
        self.halt = self.halt or halt
        if self._pool is not None:
            self._pool.stop(halt)

    def set_caps(self, caps: Budget, *, more_may_come: bool = False) -> None:
        """Other caps from now on, for the rows and for the judges. Raises ValueError below what is committed."""
        self._reservations.set_caps(caps)
        self._reservations.more_may_come = more_may_come
        self._state.caps, self._more_may_come = caps, more_may_come
        self._apply()

    def set_job(self, job: Job) -> None:
        """Other limits from now on. Raises InputError where the process may not open so many connections."""
        self._widen(job.limits.concurrency)
        self.job = job
        self.allowance.concurrency = job.limits.concurrency
        self._apply()

    def _take_limits(self, limits: JobLimits) -> None:
        """The job's limits are these now. More in flight than this machine bears it leaves to the others."""
        self._leased_limits = limits
        keys = {f"limits.{name}": value for name, value in structs.asdict(limits).items()}
        if all(value_of(self.job, key) == value for key, value in keys.items()):
            return
        job = self.job.with_overrides(keys, source=LEASED)
        try:
            self.set_job(job)
        except InputError as error:
            borne = {"limits.concurrency": self.job.limits.concurrency}
            self._say(f"no more than {self.job.limits.concurrency:,} requests in flight from here: {error}")
            self.set_job(job.with_overrides(borne, source=LEASED))

    def set_paused(self, *, is_paused: bool) -> None:
        """No new requests until it is set otherwise; what is in flight is waited for."""
        self.allowance.is_paused = is_paused
        self._apply()

    def _terms(self, own: EndpointLimits) -> LaneTerms:
        """The endpoint's own limits go before the job's; a lease gives its part of either."""
        limits, share = self.job.limits, self._rate_share
        ceiling = min(own.concurrency or limits.concurrency, self.allowance.most)
        requests = own.requests_per_minute or limits.requests_per_minute
        tokens = own.tokens_per_minute or limits.tokens_per_minute
        return LaneTerms(
            max(1, ceiling),
            None if requests is None else requests * share,
            None if tokens is None else max(FEWEST_TOKENS_PER_MINUTE, int(tokens * share)),
        )

    def _apply(self) -> None:
        for lane, own in self._named.values():
            terms = self._terms(own)
            lane.set_ceiling(terms.ceiling)
            lane.set_rates(terms.requests_per_minute, terms.tokens_per_minute)
        if self._pool is not None:
            self._pool.wake()


def _money(purse: Purse) -> MoneyStanding:
    return MoneyStanding(purse.cap_pico, purse.committed_pico, purse.largest_hold_pico, purse.has_met_unbounded)
