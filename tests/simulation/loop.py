"""Virtual time: an event loop that never waits, but jumps to its next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from crun_batch.options import Clock

from .mortal import MortalDisk

EPOCH_US = 1_790_000_000_000_000
LONGEST_RUN_SECONDS = 30 * 86_400.0


class Stuck(Exception):
    """Nothing is left that could ever happen, and the run has not ended."""


class _Jump(selectors.SelectSelector):
    """Waiting for the network is what never happens here: time passes instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("no timer is set and nothing is ready")
        self.now += max(0.0, timeout)
        if self.now > LONGEST_RUN_SECONDS:
            raise Stuck(f"still running after {LONGEST_RUN_SECONDS / 86_400:.0f} days")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at `now` seconds; what would run in a thread runs in place."""

    def __init__(self, now: float = 0.0) -> None:
        self._jump = _Jump()
        self._jump.now = now
        super().__init__(self._jump)
        self.set_exception_handler(lambda loop, context: None)

    def time(self) -> float:
        return self._jump.now

    def rest(self, seconds: float) -> None:
        """Nothing else happens for so long."""
        self._jump.now += seconds

    def run_in_executor(self, executor: Any, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - handed on, as a thread would
            future.set_exception(error)
        return asyncio.wrap_future(future, loop=self)


class LoopSyncer:
    """Syncs the journal from the loop, at the moments at which the thread would find something to sync."""

    def __init__(self, loop: asyncio.AbstractEventLoop, disk: MortalDisk, interval_seconds: float = 0.1) -> None:
        self._loop = loop
        self._disk = disk
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, sync: Callable[[], None]) -> None:
        self._began = self._loop.time()
        self._sync = sync
        self._disk.after_write = self._written

    def wake(self) -> None:
        self._loop.call_soon(self._sync)

    def stop(self) -> None:
        self._disk.after_write = None
        if self._timer is not None:
            self._timer.cancel()

    def _written(self) -> None:
        if self._timer is None:
            ticks = (self._loop.time() - self._began) // self._interval_seconds + 1
            self._timer = self._loop.call_at(self._began + ticks * self._interval_seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._sync()


def run_virtual(loop: VirtualLoop, main: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end of `main`, and leave nothing of it behind."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()


def virtual_clock(loop: VirtualLoop, jumps: tuple[tuple[float, int], ...] = ()) -> Clock:
    """The loop's time as both clocks; from each of `jumps` (moment, microseconds) on, the day's clock is off."""

    def epoch_us() -> int:
        now = loop.time()
        return EPOCH_US + round(now * 1e6) + sum(shift for moment, shift in jumps if moment <= now)

    return Clock(epoch_us=epoch_us, monotonic=loop.time, rest=loop.rest)
