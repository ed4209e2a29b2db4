"""Ctrl-C for a job by several workers: one for all of them, once an orderly end, twice the end now."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from crun_batch.errors import SIGNALS, wanted_signals
from crun_batch.options import RunOptions
from crun_batch.records import Halt


class Stoppable(Protocol):
    """Workers, whoever carries them."""

    def stop(self, halt: Halt) -> None:
        """All drain."""

    def abandon(self) -> None:
        """All end now."""


@contextmanager
def signals_to(crew: Stoppable, options: RunOptions, timeout_seconds: float) -> Iterator[None]:
    """Once: all workers drain. Twice: all end now."""
    is_main = threading.current_thread() is threading.main_thread()
    loop, wanted = asyncio.get_running_loop(), wanted_signals() if options.handle_signals and is_main else ()
    caught_before: list[signal.Signals] = []
    former = {number: signal.getsignal(number) for number in wanted}

    def caught(number: signal.Signals) -> None:
        exit_code, name = SIGNALS[number]
        if caught_before:
            if number is not signal.SIGHUP:
                options.say(f"{name} again: ending now, what is in flight is left with unknown outcome")
                crew.abandon()
            return
        caught_before.append(number)
        options.say(
            f"{name}: no new requests; waiting for what is in flight, at most {timeout_seconds:g} s (once more: "
            "end now, its outcome stays unknown)"
        )
        crew.stop(Halt(exit_code, name))

    for number in wanted:
        loop.add_signal_handler(number, caught, number)
    try:
        yield
    finally:
        for number, handler in former.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
