"""A session that is told when to stop: from then on nothing new is sent, and what is in flight is waited for."""

from __future__ import annotations

import asyncio

from crun_batch.errors import EXIT_TERMINATED
from crun_batch.load.deadline import Deadline
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.session.orders import Steerable

LOOKED_EVERY_SECONDS = 30.0
"""The day's clock may be set, and the machine may sleep: how late that is seen at most."""


async def keep_deadline(deadline: Deadline, steering: Steerable, options: RunOptions) -> None:
    """Wait for the moment, by the day's clock, and stop the session then."""
    while (left := deadline.seconds_left(options.clock.epoch_seconds())) > 0:  # noqa: ASYNC110 - a clock
        await asyncio.sleep(min(left, LOOKED_EVERY_SECONDS))
    seconds, in_flight = steering.drains_in_seconds, steering.in_flight
    waited = f"waiting for {in_flight} in flight, at most {seconds:g} s" if seconds else f"{in_flight} in batches"
    options.say(f"stops {deadline.words}, as asked: no new requests; {waited}")
    steering.stop(Halt(EXIT_TERMINATED, f"stopped {deadline.words}, as asked"))
