"""A session that is told when to stop: from then on nothing new is sent, and what is in flight is waited for."""

from __future__ import annotations

import asyncio

from crun_batch.errors import EXIT_TERMINATED
from crun_batch.load.deadline import Deadline
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.session.steering import Steering

LOOKED_EVERY_SECONDS = 30.0
"""The day's clock may be set, and the machine may sleep: how late that is seen at most."""


async def keep_deadline(deadline: Deadline, steering: Steering, options: RunOptions) -> None:
    """Wait for the moment, by the day's clock, and stop the session then."""
    while (left := deadline.at.timestamp() - options.clock.epoch_seconds()) > 0:  # noqa: ASYNC110 - a clock
        await asyncio.sleep(min(left, LOOKED_EVERY_SECONDS))
    timeout_seconds = steering.job.limits.attempt_timeout_seconds
    options.say(
        f"stops {deadline.words}, as asked: no new requests; waiting for {steering.in_flight} in flight, "
        f"at most {timeout_seconds:g} s"
    )
    steering.stop(Halt(EXIT_TERMINATED, f"stopped {deadline.words}, as asked"))
