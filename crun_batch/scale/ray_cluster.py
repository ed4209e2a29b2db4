"""A Ray cluster: connected to or started, and how it is asked without waiting for its head in vain.

Ray's own calls stand still as long as their head is away, which would hold up signals and the display; and after a
minute Ray ends the process that made them, without a word of ours. So they are made beside the loop, and the head
is knocked at: where it stays away for half of that minute, it is given up, and said to be.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from crun_batch.errors import EXIT_TERMINATED, InputError
from crun_batch.scale.giver import AllEnds, WorkerEnd
from crun_batch.state.background import BackgroundCall

T = TypeVar("T")
LOCAL = "local"
LOOPBACK: dict[str, Any] = {"_node_ip_address": "127.0.0.2"} if sys.platform == "linux" else {}
"""Where a cluster of this machine is reached. Ray takes 127.0.0.1 to mean the address that others see."""
EXTRA = "--ray takes Ray: pip install 'crun-batch[ray]'"
KNOCKED_EVERY_SECONDS = 2.0
OPENS_WITHIN_SECONDS = 5.0
AWAY_SECONDS = 30.0
"""How long a head may be away. Ray itself would wait for 60 s."""
GOES_ON = "what they have recorded is in their shards, which go on without Ray too (--workers)"


@contextmanager
def connected(address: str, *, simulate: bool) -> Iterator[Any]:
    """Ray, connected to the cluster; a local one is started here and ends here. Raises InputError."""
    if simulate and address != LOCAL:
        raise InputError("--simulate goes with --ray local alone: no other machine reaches its simulator")
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        raise InputError(EXTRA) from None
    if ray.is_initialized():
        yield ray
        return
    closed = why_closed(address)
    if closed is not None:
        raise InputError(f"--ray {address}: no cluster answers there: {closed}")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "namespace": "crun-batch"}
    try:
        if address == LOCAL:
            # Named, since without an address Ray takes a cluster that was started here before, dead or alive.
            ray.init(address=LOCAL, include_dashboard=False, **LOOPBACK, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"--ray {address}: no cluster answers there: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def why_closed(place: str) -> str | None:
    """Why nothing is heard at HOST:PORT; None: somebody is there, or it is no such place."""
    host, _, port = place.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), OPENS_WITHIN_SECONDS).close()
    except (OSError, OverflowError) as error:
        return f"{place}: {error}"
    return None


async def as_long_as_it_is_there(place: str, work: Coroutine[Any, Any, AllEnds], count: int) -> AllEnds:
    """What comes of so many workers; where the head is gone meanwhile, that nobody knows of them any more."""
    working, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(place))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        words = f"the cluster is gone ({gone.result()}), and its actors end with it; {GOES_ON}"
        return AllEnds([WorkerEnd(EXIT_TERMINATED, message=words)] * count, (0, 0))
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _until_gone(place: str) -> str:
    """Until nothing was heard at the place for so long; why."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        why = await beside(why_closed, place)
        if why is None:
            heard_at = loop.time()
        elif loop.time() - heard_at >= AWAY_SECONDS:
            return why
        await asyncio.sleep(KNOCKED_EVERY_SECONDS)


async def beside(call: Callable[..., T], *given: object) -> T:
    """What a call returns or raises, made by a thread that nobody waits for at the end."""
    return await asyncio.wrap_future(BackgroundCall(partial(call, *given)).future)
