"""Signals while a session sends: once, an orderly end; twice, the end now.

A terminal that closes (SIGHUP) counts once however often it is told: the shell and the system both say it. Where
somebody chose that it is ignored (nohup), it stays so.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from crun_batch.console.amounts import counted
from crun_batch.errors import SIGNALS, wanted_signals
from crun_batch.gateway.pool_seams import Sender
from crun_batch.records import Halt

Told = Callable[[signal.Signals], None]


class _Handlers(NamedTuple):
    """Those of one event loop, which has one for each signal."""

    former: dict[signal.Signals, Any]
    """What stood there before; None: no function of Python, which nobody can put back."""
    told: list[Told]


_HANDLERS: dict[AbstractEventLoop, _Handlers] = {}
"""Several sessions on one loop share them: each would else take those of the one before for the caller's."""


@contextmanager
def signals_told(caught: Told, *, wanted: bool) -> Iterator[None]:
    """What ends a command from outside is told to `caught`, and does nothing else.

    Whoever is inside at that moment is told. What stood there before is back when the last one has left. Only the
    main thread hears signals; a loop of another is told of them by `pass_on`.
    """
    if not wanted:
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = _HANDLERS.get(loop) or _began(loop)
    handlers.told.append(caught)
    try:
        yield
    finally:
        handlers.told.remove(caught)
        if not handlers.told:
            _end(loop)


def _began(loop: AbstractEventLoop) -> _Handlers:
    hears = threading.current_thread() is threading.main_thread()
    former = {number: signal.getsignal(number) for number in wanted_signals()} if hears else {}
    for number in former:
        loop.add_signal_handler(number, _tell, loop, number)
    return _HANDLERS.setdefault(loop, _Handlers(former, []))


def _end(loop: AbstractEventLoop) -> None:
    for number, handler in _HANDLERS.pop(loop).former.items():
        loop.remove_signal_handler(number)
        if handler is not None:
            signal.signal(number, handler)


def pass_on(number: signal.Signals, loop: AbstractEventLoop, work: asyncio.Task[Any]) -> None:
    """Tell the sessions of a loop, on its thread; as long as there is none, its work is cancelled instead."""
    if loop in _HANDLERS:
        _tell(loop, number)
    else:
        work.cancel()


def _tell(loop: AbstractEventLoop, number: signal.Signals) -> None:
    for told in tuple(_HANDLERS[loop].told) if loop in _HANDLERS else ():
        told(number)


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
