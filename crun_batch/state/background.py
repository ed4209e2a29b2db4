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
        self._future: Future[T] = Future()
        self._call = call
        Thread(target=self._run, daemon=True, name="beside").start()

    def result(self) -> T:
        """What the call returned or raised, waited for."""
        return self._future.result()

    def _run(self) -> None:
        try:
            self._future.set_result(self._call())
        except BaseException as error:  # noqa: BLE001 (raised again by `result`)
            self._future.set_exception(error)
