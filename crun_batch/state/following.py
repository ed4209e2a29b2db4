"""A run watched from outside until it ends: its status again and again, without its lock.

How often is decided by what a look costs: reading a live journal may take a second, and watching must not slow
down what it watches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from crun_batch.state.finding import find_run, shards_instead, status_at
from crun_batch.state.summary import RUNNING
from crun_batch.store.directory import RunDirectory
from crun_batch.store.holder import holder

LEAST_WAIT_SECONDS = 1.0
MOST_OF_THE_TIME = 0.1
"""Share of the time that is spent on looking, where looking takes long."""
_CHANGES_WITH_TIME = ("seconds", "rows_per_second", "units_per_second")


class WatchPace(Struct, frozen=True):
    """The clock of a watcher: monotonic seconds, and a pause of some seconds."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    every_seconds: float = LEAST_WAIT_SECONDS


def follow_run(path: Path, pace: WatchPace, *, simulate: bool = False) -> Iterator[dict[str, Any]]:
    """The run's status, as `status_at` gives it, now and after each change; the last is of a run that has ended.

    A run that is about to start is waited for. Of a job by several workers that is all of its shards, then the run
    that is made of them. Raises InputError where there is no run, RunDamaged.
    """
    before: dict[str, Any] | None = None
    while True:
        began = pace.monotonic()
        status = _seen(path, simulate)
        if status is not None and (before is None or _told(status) != _told(before)):
            before = status
            yield status
        if status is not None and status["status"] != RUNNING.status:
            return
        pace.sleep(wait_seconds(pace.monotonic() - began, pace.every_seconds))


def _seen(path: Path, simulate: bool) -> dict[str, Any] | None:
    """None: it is about to start."""
    if shards_instead(path, simulate=simulate) is None:
        run = find_run(path, simulate=simulate)
        if holder(run) is not None and not RunDirectory(run).has_summary:
            return None
    return status_at(path, simulate=simulate)


def wait_seconds(took_seconds: float, least_seconds: float) -> float:
    """How long to wait after a look that took so long: longer where looking would slow down what is watched."""
    return max(least_seconds, took_seconds / MOST_OF_THE_TIME)


def _told(status: dict[str, Any]) -> dict[str, Any]:
    """The status without what changes with time alone."""
    return {name: value for name, value in status.items() if name not in _CHANGES_WITH_TIME}
