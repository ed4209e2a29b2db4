"""What a run's process works with: a fast event loop, memory that is kept for its next use, rare collections."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa

from crun_batch.session.signals import pass_on

T = TypeVar("T")
OBJECTS_PER_COLLECTION = 20_000


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where there is one."""
    _keep_arrow_memory()
    with _rare_collections(), asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(coroutine)


def run_to_end_beside(coroutine: Coroutine[Any, Any, T]) -> T:
    """The same in a thread of its own, where a loop is running on this one, as in a notebook.

    Ctrl-C (an interrupt of the kernel) comes here, and is told there: it ends a session as on the main thread.
    Before anything is sent it is a KeyboardInterrupt.
    """
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def told() -> T:
        task = asyncio.current_task()
        assert task is not None
        begun.set_result((asyncio.get_running_loop(), task))
        return await coroutine

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(run_to_end, told())
        while True:
            try:
                return done.result()
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            except KeyboardInterrupt:
                if done.done():
                    raise
                loop, task = begun.result()
                loop.call_soon_threadsafe(pass_on, signal.SIGINT, loop, task)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this system
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def _rare_collections() -> Iterator[None]:
    """What a row leaves behind holds no cycles: looking for some every 700 objects is work for nothing."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_PER_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _keep_arrow_memory() -> None:
    """Arrow's default returns memory at once and takes it again in huge pages, which the system must zero.

    Sealing takes and returns a lot of it. What the user has chosen stays.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        with suppress(NotImplementedError):  # built without it
            pa.set_memory_pool(pa.jemalloc_memory_pool())
