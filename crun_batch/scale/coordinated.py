"""`run JOB --shard I/N --coordinator URL`: one shard by this process, its part of all granted from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.console.progress import Progress
from crun_batch.errors import CrunBatchError, RunInUse
from crun_batch.options import RunOptions
from crun_batch.pipeline import run_job
from crun_batch.scale.carried import carried_to, checked_address
from crun_batch.scale.exchange import FromShard, digests
from crun_batch.scale.own_shard import OwnShard, beside_the_job, own_shard
from crun_batch.scale.remote import Carry, RemotePart
from crun_batch.scale.unfit import refuse_unfit_worker
from crun_batch.store.holder import holder

LOOKED_EVERY_SECONDS = 0.5
SPARE_SECONDS = 10.0
"""How much longer than a lease and an attempt a predecessor is waited for."""


async def run_coordinated(job: str | Path, url: str, options: RunOptions) -> dict[str, Any]:
    """Run a shard under the coordinator at `url`; the summary of its run directory, as written.

    Raises InputError, RefusedToStart, RunDirectoryError, DiskFailed (exit codes 2, 3, 6, 7).
    """
    refuse_unfit_worker(options)
    options = beside_the_job(options)
    async with carried_to(checked_address(url), options.environ) as carry:
        return await run_carried(job, carry, options)


async def run_carried(job: str | Path, carry: Carry, options: RunOptions) -> dict[str, Any]:
    """The same, whatever carries the words."""
    own = own_shard(job, options)
    first = FromShard((own.shard.number, own.shard.count), "", 0, digests(own.job), [])
    part = RemotePart(carry, first, owner=own.owner, is_one_run=own.is_one_run, say=options.say)
    steered = structs.replace(
        options,
        shard=structs.replace(own.shard, is_leased=True),
        until_budget=True,
        confirm=None,
        say=_both(options.say, part.said),
        watch=part.moved if options.watch is None else _both(options.watch, part.moved),
        figures=part.given,
        steer=part,
    )
    try:
        summary = await _run_when_free(job, own, steered, part)
    except RunInUse:
        raise  # another process is the worker of this shard, and tells for itself
    except CrunBatchError as error:
        await part.tell_failure(error, own.owner())
        raise
    await part.tell_end(summary, own.owner())
    return summary


async def _run_when_free(job: str | Path, own: OwnShard, options: RunOptions, part: RemotePart) -> dict[str, Any]:
    """A predecessor that is cut off, or that is just ending, is waited for: it sends nothing new any more."""
    loop, timeout_seconds = asyncio.get_running_loop(), own.job.limits.attempt_timeout_seconds
    until, is_told = loop.time() + timeout_seconds + SPARE_SECONDS, False
    while True:
        process = holder(own.place)
        if process is None or loop.time() >= until:
            try:
                return await run_job(job, None, options)
            except RunInUse:
                if part.has_begun or loop.time() >= until:
                    raise
        if not is_told and process is not None:
            is_told = True
            options.say(f"{own.place} is in use by {process}: waiting for its end, at most {timeout_seconds:g} s")
        await asyncio.sleep(LOOKED_EVERY_SECONDS)


def _both(one: Callable[[Any], None], other: Callable[[Any], None]) -> Callable[[Any], None]:
    def told(value: str | Progress) -> None:
        one(value)
        other(value)

    return told
