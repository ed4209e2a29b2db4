"""A job by several workers as people steer it: `session.orders.Steerable`, over the totals that are leased.

Owns what holds of the job's limits and caps, a pause, and the order of it: what was told is on the disk, then it
is the total out of which is granted, and it is confirmed once nobody may be acting on the former one. That is
after a renewal of each worker, or when the lease of one that does not ask has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from crun_batch.console.amounts import from_pico, money
from crun_batch.errors import EXIT_TERMINATED, CrunBatchError
from crun_batch.gateway.http.descriptors import ensure_file_descriptors
from crun_batch.load.job.job import Job
from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.records import Halt, Hold, known_pico
from crun_batch.scale.giver import Giver
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.leases import SharedLimits
from crun_batch.state.steered import as_set, steering_after
from crun_batch.workload.workload import Workload

LOOKED_EVERY_SECONDS = 0.05


class SteeredJob:
    """What all workers of one job have together, as it is now."""

    is_one_of_several = False

    def __init__(
        self,
        workload: Workload,
        giver: Giver,
        kept: KeptLeases,
        stop: Callable[[Halt], None],
        changed: Callable[[Job], None],
        *,
        are_here: bool,
    ) -> None:
        """What `kept` says of the job holds from now on.

        `stop`: tells all workers; `changed`: is told the job as it is; `are_here`: the workers are processes of
        this one, on its machine, and end with it.
        """
        self._workload = workload
        self._giver = giver
        self._kept = kept
        self._stop = stop
        self._changed = changed
        self._are_here = are_here
        now = kept.steering["now"]
        self.job = as_set(workload.job, kept.steering)
        self.is_paused = now["paused"] is not None
        self._enforce()
        if now["stopped"] is not None:
            self.stop(Halt(EXIT_TERMINATED, f"stopped by {now['stopped']['by']['user']}"))

    @property
    def purses(self) -> Reservations:
        """What all have spent and hold, together, as each has reported last."""
        book = self._giver.book
        reservations = Reservations(Budget(), unknown=Hold(book.committed(0), book.committed(1)))
        for unit, purse in enumerate((reservations.usd, reservations.credits)):
            purse.has_met_unbounded = book.has_met_unbounded(unit)
        return reservations

    @property
    def in_flight(self) -> int:
        """Requests of all workers, as each has reported last."""
        return self._giver.book.in_flight

    @property
    def drains_in_seconds(self) -> float:
        """After how long a stop has ended at the latest."""
        return self.job.limits.attempt_timeout_seconds

    @property
    def is_stopping(self) -> bool:
        """All workers were told to send nothing new."""
        return self._giver.halt is not None

    def part_of(self, amount: int) -> int:
        """All of it: a cap is that of all shards."""
        return amount

    def is_overruled(self, limit: str) -> bool:
        """Whether every endpoint has a limit of this name of its own."""
        owns = [getattr(job.endpoint.limits, limit, None) for job in _at_each_endpoint(self._workload)]
        return None not in owns

    def set_job(self, job: Job) -> None:
        """Once it is kept, these are the limits and caps of all. Raises InputError: this machine bears no such."""
        if self._are_here:
            ensure_file_descriptors(job.limits.concurrency)
        self.job = job

    def set_caps(self, caps: Budget) -> None:
        """They are those of the job that was set."""

    def set_paused(self, *, is_paused: bool) -> None:
        """Once it is kept, nothing new by anybody, until it is set otherwise."""
        self.is_paused = is_paused

    def stop(self, halt: Halt) -> None:
        """No new requests from now on; what is in flight is waited for."""
        self._stop(halt)

    async def keep(self, told: Mapping[str, Any]) -> None:
        """Write down what was told, hold to it, wait until all do. Raises DiskFailed, RunInUse: it is not so."""
        steering = steering_after(self._kept.steering, told)
        try:
            await asyncio.to_thread(self._keep, {**steering, "goes_on": not self._are_here})
        except CrunBatchError as error:
            self.job, self.is_paused = self._in_force
            so = "all workers are told" if told["do"] == "stop" else "nothing has changed"
            raise type(error)(f"{so}; it could not be written down: {error}", advice=error.advice) from error
        while told["do"] != "stop" and not self._giver.book.is_followed(time.monotonic()):  # noqa: ASYNC110 - others'
            await asyncio.sleep(LOOKED_EVERY_SECONDS)
        for words in self._over():
            self._giver.watchers.say(words)

    def _keep(self, steering: Mapping[str, Any]) -> None:
        """Nothing is granted in between."""
        with self._giver.lock:
            self._kept.keep_steering(steering)
            self._enforce()

    def _enforce(self) -> None:
        self._in_force = self.job, self.is_paused
        self._giver.book.set_terms(terms_of(self._workload, self.job, is_paused=self.is_paused))
        self._changed(self.job)

    def _over(self) -> Iterator[str]:
        """Caps under which more is gone by now than they allow: each worker uses its part until it asks again."""
        book = self._giver.book
        for unit, name in enumerate(("usd", "credits")):
            cap, gone = book.terms.cap(unit), book.committed(unit)
            if cap is not None and gone > cap:
                over = f"{_amount(unit, gone)} is spent and held, over {_amount(unit, cap)}"
                yield f"budget.max_cost_{name}: {over}: nothing new is sent"


def terms_of(workload: Workload, job: Job, *, is_paused: bool = False) -> SharedLimits:
    """What all workers have together. `job`: that of the workload, as it is now."""
    caps, limits = (job.budget.max_cost_usd, job.budget.max_cost_credits), job.limits
    usd, credits = (known_pico(cap) for cap in caps)
    own = [one.endpoint.limits.tokens_per_minute for one in _at_each_endpoint(workload)]
    return SharedLimits(
        limits.concurrency,
        usd,
        credits,
        has_token_rate=any(rate is not None for rate in (limits.tokens_per_minute, *own)),
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        is_paused=is_paused,
    )


def _at_each_endpoint(workload: Workload) -> list[Job]:
    return [one for target in workload.targets for one in target.job.at_each_endpoint]


def _amount(unit: int, pico: int) -> str:
    return money(from_pico(pico), None) if unit == 0 else money(None, from_pico(pico))
