"""What a run's process works with: a fast event loop, and an allocator that keeps memory for its next use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")


def run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on uvloop where there is one."""
    _keep_arrow_memory()
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        return runner.run(coroutine)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this system
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _keep_arrow_memory() -> None:
    """Arrow's default returns memory at once and takes it again in huge pages, which the system must zero.

    That was a third of what sealing cost. What the user has chosen stays.
    """
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        with suppress(NotImplementedError):  # built without it
            pa.set_memory_pool(pa.jemalloc_memory_pool())
