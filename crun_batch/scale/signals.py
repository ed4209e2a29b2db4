"""Ctrl-C for a job by several workers: one for all of them, once an orderly end, twice the end now."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from crun_batch.errors import SIGNALS
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.session.signals import signals_told


class Stoppable(Protocol):
    """Workers, whoever carries them."""

    def stop(self, halt: Halt) -> None:
        """All drain."""

    def abandon(self) -> None:
        """All end now."""


@contextmanager
def signals_to(crew: Stoppable, options: RunOptions, timeout_seconds: float) -> Iterator[None]:
    """Once: all workers drain. Twice: all end now."""
    caught_before: list[signal.Signals] = []

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

    with signals_told(caught, wanted=options.handle_signals):
        yield
