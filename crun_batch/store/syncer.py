"""Who calls the journal's sync, and when: injected, so that tests decide it themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Syncer(Protocol):
    """Calls `sync` soon after `wake`, and at least every interval."""

    def start(self, sync: Callable[[], None]) -> None:
        """Begin."""

    def wake(self) -> None:
        """Many events wait: sync now."""

    def stop(self) -> None:
        """End; no call of `sync` runs or comes after this returns."""


class ThreadSyncer:
    """The default: a daemon thread."""

    def __init__(self, interval_seconds: float = 0.1) -> None:
        self._interval_seconds = interval_seconds
        self._bell = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self, sync: Callable[[], None]) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, args=(sync,), name="journal-sync", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Sync now."""
        if not self._bell.is_set():
            self._bell.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stopped = True
        self._bell.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, sync: Callable[[], None]) -> None:
        while not self._stopped:
            self._bell.wait(self._interval_seconds)
            self._bell.clear()
            sync()
