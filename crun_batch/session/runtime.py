"""What a run's process works with: a fast event loop, memory that is kept for its next use, rare collections."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")
OBJECTS_PER_COLLECTION = 20_000


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where there is one."""
    _keep_arrow_memory()
    with _rare_collections(), asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(coroutine)


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
