"""What others see of a session while it sends: a display's figures twice a second, summary.json every 5 s.

Reads the pool and the session on the event loop, which is cheap; writes in a thread, so that no request waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from crun_batch.console.amounts import count, counted, duration
from crun_batch.console.progress import Progress, VariantProgress
from crun_batch.console.recent_rate import RecentRate
from crun_batch.errors import DiskFailed
from crun_batch.gateway.pool_seams import Sender
from crun_batch.options import Clock
from crun_batch.pricing.account import Sums
from crun_batch.pricing.projection import projected_pico, reserved_pico
from crun_batch.records import decimal_text
from crun_batch.session.resources import Resources
from crun_batch.session.tools import Recorder
from crun_batch.store.directory import RunDirectory, write_json

SHOWN_EVERY_SECONDS = 0.5
ANSWERED_OTHERWISE = ("invalid", "truncated", "refused")
"""Statuses of rows that got an answer and are neither ok nor failed."""
STOOD_STILL_SECONDS = 5.0
"""A look that comes so much too late is not late because there is much to do."""


class Meter:
    """A session's progress."""

    def __init__(self, pool: Sender, recorder: Recorder, resources: Resources, clock: Clock) -> None:
        self._pool = pool
        self._attempts = recorder.attempts
        self._tally = recorder.tally
        self._extent = resources.extent
        self._steering = resources.steering
        self._clock = clock
        self._rate = RecentRate()
        self._rate.per_second(clock.monotonic(), 0)
        before = self._attempts.account.totals()
        self._spent_on_rows = (before.cost_usd, before.cost_credits) if self._extent.is_judging else (0, 0)

    def read(self) -> Progress:
        """The figures of this moment."""
        totals = self._attempts.account.totals()
        reserved = self._attempts.reservations
        finished = self._tally.finished_units
        left = max(0, self._extent.to_do - finished)
        rows_per_second = self._rate.per_second(self._clock.monotonic(), finished) or 0.0
        usd = totals.cost_usd if totals.priced_usd else None
        credits_ = totals.cost_credits if totals.priced_credits else None
        is_judging = self._extent.is_judging
        paid_for = finished if is_judging else sum(totals.statuses.values())
        return Progress(
            rows_total=self._extent.done_before + self._extent.to_do,
            rows_done=self._extent.done_before + finished,
            rows_failed=self._tally.failed_units if is_judging else totals.statuses.get("error", 0),
            rows_otherwise=() if is_judging else answered_otherwise(totals),
            rows_per_second=rows_per_second,
            spent_usd_pico=usd,
            spent_credits_pico=credits_,
            projected_usd_pico=projected_pico(usd, paid_for, left, self._spent_on_rows[0]),
            projected_credits_pico=projected_pico(credits_, paid_for, left, self._spent_on_rows[1]),
            held_usd_pico=reserved_pico(reserved.usd),
            held_credits_pico=reserved_pico(reserved.credits),
            in_flight=self._pool.in_flight,
            limit=self._pool.limit,
            eta_seconds=left / rows_per_second if rows_per_second else None,
            waiting_reason=self._waiting_reason(),
            stops_in_seconds=self._stops_in_seconds(),
            variants=self._variants(),
            units_per_row=self._extent.units_per_row,
            is_judging=is_judging,
            is_apart=self._is_apart(),
        )

    def _variants(self) -> tuple[VariantProgress, ...]:
        """Of a sweep, each with what all sessions have finished of it."""
        names, sums = self._attempts.targets, self._attempts.account.variants
        statuses = {name: sums[name].statuses for name in names if name in sums}
        if len(names) < 2 or self._extent.is_judging:
            return ()
        return tuple(
            VariantProgress(name, sum(counts.values()), sum(counts.values()) - counts.get("ok", 0))
            for name, counts in statuses.items()
        )

    def _is_apart(self) -> bool:
        """Whether a variant or a judge has costs in one unit alone."""
        account = self._attempts.account
        parts = (*account.variants.values(), *account.judges.values())
        return any((sums.priced_usd > 0) != (sums.priced_credits > 0) for sums in parts)

    def _waiting_reason(self) -> str | None:
        if self._pool.halt is not None:
            return "stopping"
        if self._steering.waiting_reason is not None:
            return self._steering.waiting_reason
        seconds = self._pool.waiting_seconds
        return f"cooling down, {duration(seconds)}" if seconds >= 1 else self._awaited()

    def _awaited(self) -> str | None:
        """What all that is out waits for, where that is batches."""
        batches, done = self._pool.awaited
        if not batches or self._pool.in_flight > self._pool.in_batches:
            return None
        return f"{count(done)} done in {counted(batches, 'batch')}" if done else f"in {counted(batches, 'batch')}"

    def _stops_in_seconds(self) -> float | None:
        deadline = self._steering.deadline
        return None if deadline is None else deadline.seconds_left(self._clock.epoch_seconds())


def answered_otherwise(totals: Sums) -> tuple[tuple[str, int], ...]:
    """By status, how many units got an answer and are not ok."""
    return tuple((status, totals.statuses.get(status, 0)) for status in ANSWERED_OTHERWISE)


def pace_of(progress: Progress) -> dict[str, Any]:
    """What summary.json says of this moment: how many requests may be in flight, what is held, why none goes."""
    held = {"usd": progress.held_usd_pico, "credits": progress.held_credits_pico}
    return {
        "limit": progress.limit,
        **{f"held_{unit}": None if pico is None else decimal_text(pico) for unit, pico in held.items()},
        "waiting_reason": progress.waiting_reason,
    }


async def show(watch: Callable[[Progress], None], meter: Meter) -> None:
    """Hand the figures to a display, again and again."""
    while True:
        await asyncio.sleep(SHOWN_EVERY_SECONDS)
        watch(meter.read())


async def keep_summary(
    directory: RunDirectory,
    summary: Callable[[], Mapping[str, Any]],
    say: Callable[[str], None],
    every_seconds: float,
) -> None:
    """Replace summary.json every so many seconds."""
    while True:
        await asyncio.sleep(every_seconds)
        writing = asyncio.create_task(asyncio.to_thread(replace_summary, directory, summary(), say))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # so that it cannot replace the summary of the session's end
            raise


def replace_summary(directory: RunDirectory, summary: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Write summary.json anew. A disk that fails here is only said.

    The journal is what counts: if the disk has really failed, the next event ends the run.
    """
    try:
        write_json(directory, directory.summary, summary)
    except DiskFailed as error:
        say(f"summary.json is not up to date: {error}")


def seconds_with_sleep() -> float:
    """A clock that goes on while the machine sleeps, where the system has one (Linux), and never jumps."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(clock) if clock is not None else time.monotonic()


async def tell_standstill(
    say: Callable[[str], None], every_seconds: float, clock: Callable[[], float] = seconds_with_sleep
) -> None:
    """Say it when this process stood still for long: replies are late then, and deadlines may have passed."""
    while True:
        looked_at = clock()
        await asyncio.sleep(every_seconds)
        still_seconds = clock() - looked_at - every_seconds
        if still_seconds > STOOD_STILL_SECONDS:
            say(
                f"this process stood still for {duration(still_seconds)} (stopped, or the machine slept); replies "
                "that came meanwhile are read"
            )
