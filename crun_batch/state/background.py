"""Work that runs in a thread beside the rest until somebody needs what it gives."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A call in a thread of its own, which holds nobody up who ends without its result."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        """For who awaits it; who no longer does ends nothing."""
        self.future.set_running_or_notify_cancel()
        self._call = call
        Thread(target=self._run, daemon=True, name="beside").start()

    def result(self) -> T:
        """What the call returned or raised, waited for."""
        return self.future.result()

    def _run(self) -> None:
        try:
            self.future.set_result(self._call())
        except BaseException as error:  # noqa: BLE001 (raised again by `result`)
            self.future.set_exception(error)
