"""What is done with what workers say, whoever carries it: a pipe, a connection, a cluster's calls.

One giver keeps the book of one job. What each worker may use is decided in `leases`; how its words come here, and
who starts it, is not known here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from crun_batch.errors import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OUT_OF_MONEY,
    EXIT_ROWS_FAILED,
    EXIT_TERMINATED,
)
from crun_batch.records import Halt
from crun_batch.scale.leases import LeaseBook, WorkerReport
from crun_batch.scale.messages import Ended, Failed, Figured, FromWorker, Granted, Progressed, Reported, Sentence
from crun_batch.session.metrics import Figures

GOES_ON_WITHOUT = (EXIT_OK, EXIT_ROWS_FAILED, EXIT_OUT_OF_MONEY, EXIT_INTERRUPTED, EXIT_TERMINATED)
"""Exit codes of a worker that the others do not end for: done, its part of the money is used up, told to stop."""


class WorkerEnd(Struct, frozen=True):
    """How a worker's shard ended: its exit code, and its summary or what it said instead."""

    exit_code: int
    summary: Mapping[str, Any] | None = None
    message: str | None = None
    advice: str = ""


def end_told_by(summary: Mapping[str, Any]) -> WorkerEnd | None:
    """How a shard has ended that is done, or out of money, as its summary says; None: it says neither."""
    exit_code = int(summary["exit_code"] or 0)
    if summary["status"] != "finished" and exit_code != EXIT_OUT_OF_MONEY:
        return None
    return WorkerEnd(exit_code, summary, summary["stop_reason"])


class AllEnds(Struct, frozen=True):
    """What came of all workers."""

    ends: Sequence[WorkerEnd]
    largest_hold_pico: tuple[int, int]
    """In dollars and credits what one request of theirs may cost at most."""


def _not_known(_: int) -> WorkerEnd | None:
    """Nobody has looked."""
    return None


class Watchers(Struct, frozen=True):
    """Who is told what happens, and knows what stands on the disk."""

    say: Callable[[str], None]
    said: Callable[[int, str], None]
    """A sentence of a worker, by its number from 0."""
    moved: Callable[[int, Any], None]
    """How far a worker is: its number from 0, and its progress."""
    figured: Callable[[int, Figures], None]
    """A worker's figures, by its number from 0."""
    committed: Callable[[int], tuple[int, int]]
    """What a worker's run directory has used, dollars and credits, once its process has ended."""
    ended: Callable[[int], WorkerEnd | None] = _not_known
    """How a worker's run directory says that it has ended; None: it does not say so."""


class Giver:
    """Answers workers out of one book, tells those who watch, and knows why all were told to stop."""

    def __init__(self, book: LeaseBook, watchers: Watchers) -> None:
        self.book = book
        self.watchers = watchers
        self.lock = threading.RLock()
        """Whoever changes the totals has it, and whoever grants where that is another thread."""
        self.halt: Halt | None = None
        """Why all are to stop, if they are. The first reason given stays."""

    def renewed(self, number: int, epoch: int, report: WorkerReport, now: float) -> Granted | None:
        """The answer to a report; None: another process has taken this worker's place."""
        grant = self.book.renew(number, epoch, report, now)
        return None if grant is None else Granted(grant)

    def told(self, number: int, message: FromWorker) -> WorkerEnd | None:
        """Pass on what a worker says of itself; how it ended, where it says that."""
        match message:
            case Progressed(progress):
                self.watchers.moved(number, progress)
            case Figured(figures):
                self.watchers.figured(number, figures)
            case Sentence(sentence):
                self.watchers.said(number, sentence)
            case Ended(summary):
                return WorkerEnd(int(summary["exit_code"] or 0), summary, summary["stop_reason"])
            case Failed(exit_code, words, advice):
                return WorkerEnd(exit_code, message=words, advice=advice)
            case Reported():
                pass  # answered by `renewed`
        return None

    def stop(self, halt: Halt) -> bool:
        """All are to stop; whether that is new."""
        is_new = self.halt is None
        self.halt = self.halt or halt
        return is_new

    def halt_after(self, end: WorkerEnd) -> Halt | None:
        """What ends one worker for a reason that is everybody's ends all: one process would send nothing more."""
        if end.exit_code in GOES_ON_WITHOUT:
            return None
        return Halt(end.exit_code, end.message or "a worker has ended")
