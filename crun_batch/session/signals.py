"""Signals while a session sends: once, an orderly end; twice, the end now.

A terminal that closes (SIGHUP) counts once however often it is told: the shell and the system both say it. Where
somebody chose that it is ignored (nohup), it stays so.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from crun_batch.console.amounts import counted
from crun_batch.errors import SIGNALS, wanted_signals
from crun_batch.gateway.pool_seams import Sender
from crun_batch.records import Halt


@contextmanager
def signals_told(caught: Callable[[signal.Signals], None], *, wanted: bool) -> Iterator[None]:
    """What ends a command from outside is told to `caught`, and does nothing else; on the main thread alone."""
    is_main = threading.current_thread() is threading.main_thread()
    loop, numbers = asyncio.get_running_loop(), wanted_signals() if wanted and is_main else ()
    former = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, caught, number)
    try:
        yield
    finally:
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


class SignalHandling:
    """Ctrl-C, SIGTERM or SIGHUP once: drain. Twice: end now; what is in flight is then of unknown outcome."""

    def __init__(self, pool: Sender, say: Callable[[str], None], timeout_seconds: float | None) -> None:
        """`timeout_seconds`: how long requests in flight may take; None: they are in batches, which stay."""
        self._pool = pool
        self._say = say
        self._timeout_seconds = timeout_seconds
        self._caught_before = False

    def caught(self, number: signal.Signals) -> None:
        """One came."""
        exit_code, name = SIGNALS[number]
        if self._caught_before and number is signal.SIGHUP:
            return
        once, again = self._words()
        if self._caught_before:
            self._say(f"{name} again: ending now, {again}")
            self._pool.abandon()
            return
        self._caught_before = True
        self._say(f"{name}: {once}")
        self._pool.stop(Halt(exit_code, name))

    def _words(self) -> tuple[str, str]:
        """What a first signal and a second one do."""
        if self._timeout_seconds is None:
            out = f"{counted(self._pool.in_flight, 'request')} in batches"
            return f"no new batches; {out} (once more: end now)", out
        in_flight = self._pool.in_flight - self._pool.in_batches
        return (
            f"no new requests; waiting for {in_flight} in flight, at most {self._timeout_seconds:g} s "
            "(once more: end now, their outcome stays unknown)",
            f"{in_flight} in flight are left with unknown outcome",
        )
