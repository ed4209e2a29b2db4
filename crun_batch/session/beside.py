"""Whoever steers, beside what is steered: people, a deadline, who leases. What one of them raises ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from crun_batch.errors import EXIT_BUG
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.session.deadline import keep_deadline
from crun_batch.session.listener import Keep, Listener, control_socket
from crun_batch.session.orders import Steerable

Steerers = Sequence[Coroutine[Any, Any, None]]


@asynccontextmanager
async def heard(
    steering: Steerable, keep: Keep, folder: Path, options: RunOptions, others: Steerers = ()
) -> AsyncIterator[None]:
    """People, at the socket in a folder, the deadline, and others steer it as long as what is inside goes on."""
    by = [*others]
    with control_socket(folder, options) as listening:
        if listening is not None:
            by.insert(0, Listener(steering, keep, options).listen(listening.listening))
        if options.deadline is not None:
            by.append(keep_deadline(options.deadline, steering, options))
        async with steered(steering, by):
            yield


@asynccontextmanager
async def steered(steering: Steerable, by: Steerers) -> AsyncIterator[None]:
    """Whoever steers runs beside what is done inside. What one raises stops the sending and is raised then."""
    tasks = [asyncio.create_task(one) for one in by]
    await asyncio.sleep(0)  # a lease, or the end, that is there from the start holds from the first request on
    for task in tasks:
        task.add_done_callback(lambda ended: _stop_where_it_failed(ended, steering))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception):
            raise end


def _stop_where_it_failed(ended: asyncio.Task[None], steering: Steerable) -> None:
    if not ended.cancelled() and ended.exception() is not None:
        steering.stop(Halt(EXIT_BUG, "what steers this session has failed"))
