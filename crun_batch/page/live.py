"""How a run goes, for a page that asks again and again: its status, the rate of now, what it will have cost.

Reading a live journal may take a second: it is read at most a tenth of the time, whoever asks how often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from crun_batch.console.amounts import noun_of
from crun_batch.console.recent_rate import RecentRate
from crun_batch.pricing.projection import projected_pico
from crun_batch.records import decimal_text, pico_of
from crun_batch.reporting.at_a_kill import unanswered_at_a_kill
from crun_batch.state.following import LEAST_WAIT_SECONDS, wait_seconds
from crun_batch.state.status import run_now
from crun_batch.state.steered import settings_now
from crun_batch.state.summary import RUNNING
from crun_batch.store.directory import RunDirectory


class LiveStatus:
    """The status of one run, read again where it is old enough."""

    def __init__(self, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: dict[str, Any] | None = None
        self._due = 0.0
        self._rate = RecentRate()
        self._unanswered_at_a_kill = 0

    def read(self) -> dict[str, Any]:
        """What `status` tells, with how far it is, `rate`, `eta_seconds` and what it is projected to cost.

        `noun` is what `units` counts, and so `units_done` and `rate` (per second): rows, where a row has one unit.

        Of a running run also its `settings`: limits and caps as they are now, by the keys that `set` takes.
        Raises InputError where there is no run, RunDamaged.
        """
        with self._lock:
            began = self._monotonic()
            if self._last is None or began >= self._due:
                now = run_now(self._path)
                status, self._unanswered_at_a_kill = now.status, unanswered_at_a_kill(now)
                ended = self._monotonic()
                self._due = ended + wait_seconds(ended - began, LEAST_WAIT_SECONDS)
                self._last = {**status, **self._figures(status, ended)}
            return self._last

    def unanswered_at_a_kill(self) -> int:
        """Of a killed run: requests that were in flight. No attempt tells of them before its next session."""
        self.read()
        return self._unanswered_at_a_kill

    def forget(self) -> None:
        """The session has just been told something: what it is now is read at the next look."""
        with self._lock:
            self._due = 0.0

    def _figures(self, status: Mapping[str, Any], now: float) -> dict[str, Any]:
        rows, units = status["rows"], status["units"]
        done, left = units["total"] - units["open"], units["open"]
        is_running = status["status"] == RUNNING.status
        rate = self._rate.per_second(now, done) if is_running else None
        return {
            "is_running": is_running,
            "settings": settings_now(RunDirectory(self._path)) if is_running else None,
            "noun": noun_of(status["units_per_row"]),
            "rows_done": rows["total"] - rows["open"],
            "units_done": done,
            "rate": rate,
            "eta_seconds": left / rate if rate else None,
            **{f"projected_{unit}": _projected(status[f"cost_{unit}"], done, left) for unit in ("usd", "credits")},
        }


def _projected(spent: str | None, done: int, left: int) -> str | None:
    projected = projected_pico(None if spent is None else pico_of(Decimal(spent)), done, left)
    return None if projected is None else decimal_text(projected)
