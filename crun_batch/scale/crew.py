"""The processes of several workers: started, granted their parts, started again when killed, ended together.

Owns the processes and their pipes. What each may use is decided in `leases`; that nobody else is at work on a
shard is told by the lock of its run directory. A worker that was killed leaves a journal that its successor goes
on with, under the next epoch; what was in flight is of unknown outcome, as after any kill.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OUT_OF_MONEY,
    EXIT_ROWS_FAILED,
    EXIT_TERMINATED,
)
from crun_batch.records import Halt
from crun_batch.scale.leases import LeaseBook
from crun_batch.scale.messages import (
    Ended,
    Failed,
    Granted,
    Order,
    Progressed,
    Reported,
    Sentence,
    Stop,
    Wave,
    decode_from_worker,
    line,
)

MOST_STARTS = 4
"""Of one worker's process, where it is killed again and again."""
GOES_ON_WITHOUT = (EXIT_OK, EXIT_ROWS_FAILED, EXIT_OUT_OF_MONEY, EXIT_INTERRUPTED, EXIT_TERMINATED)
"""Exit codes of a worker that the others do not end for: done, its part of the money is used up, told to stop."""
LONGEST_LINE_BYTES = 2**24


class WorkerEnd(Struct, frozen=True):
    """How a worker's shard ended: its exit code, and its summary or what it said instead."""

    exit_code: int
    summary: Mapping[str, Any] | None = None
    message: str | None = None
    advice: str = ""


class CrewEnd(Struct, frozen=True):
    """What came of all workers."""

    ends: Sequence[WorkerEnd]
    largest_hold_pico: tuple[int, int]
    """In dollars and credits what one request of theirs may cost at most."""


class Watchers(Struct, frozen=True):
    """Who is told what happens."""

    say: Callable[[str], None]
    said: Callable[[int, str], None]
    """A sentence of a worker, by its number from 0."""
    moved: Callable[[int, Any], None]
    """How far a worker is: its number from 0, and its progress."""
    committed: Callable[[int], tuple[int, int]]
    """What a worker's run directory has used, dollars and credits, once its process has ended."""


class Crew:
    """Workers, one for each order. One use; `run` returns how each ended."""

    def __init__(
        self, orders: Sequence[Order], environ: Mapping[str, str], book: LeaseBook, watchers: Watchers
    ) -> None:
        self._orders = orders
        self._environ = {**environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._book = book
        self._watchers = watchers
        self._processes: dict[int, Process] = {}
        self._halt: Halt | None = None
        self._is_over = False

    async def run(self) -> list[WorkerEnd]:
        """Until every worker has ended. None of their processes outlives this call."""
        try:
            return list(await asyncio.gather(*map(self._to_its_end, range(len(self._orders)))))
        finally:
            self.abandon()
            await asyncio.gather(*(process.wait() for process in self._processes.values()))

    def stop(self, halt: Halt) -> None:
        """No new requests from now on, anywhere; what is in flight is waited for. The first reason given stays."""
        if self._halt is None:
            self._halt = halt
            for number in self._processes:
                self._send(number, Stop(halt.exit_code, halt.words))

    def abandon(self) -> None:
        """End all processes now; what is in flight is of unknown outcome."""
        self._is_over = True
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()

    @property
    def halt(self) -> Halt | None:
        """Why all were told to stop, if they were."""
        return self._halt

    async def _to_its_end(self, number: int) -> WorkerEnd:
        """What ends one worker for a reason that is everybody's ends all: one process would send nothing more."""
        end = await self._keep(number)
        if end.exit_code not in GOES_ON_WITHOUT:
            self.stop(Halt(end.exit_code, end.message or "a worker has ended"))
        return end

    async def _keep(self, number: int) -> WorkerEnd:
        """One worker to its end, through kills."""
        said = ""
        for start in range(1, MOST_STARTS + 1):
            end, exit_code = await self._started(number)
            if end is not None:
                return end
            said = f"worker {number + 1} ended without a word (exit code {exit_code})"
            if self._is_over or self._halt is not None:
                break
            if start < MOST_STARTS:
                self._watchers.say(f"{said}: started again; what it had in flight may be billed twice")
        if self._halt is not None:
            return WorkerEnd(self._halt.exit_code, message=self._halt.words)
        return WorkerEnd(EXIT_BUG, message=said)

    async def _started(self, number: int) -> tuple[WorkerEnd | None, int]:
        """One process of a worker; how it says that it ended (None: it was killed), and its exit code."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "crun_batch.scale.worker"),
            stdin=PIPE,
            stdout=PIPE,
            env=self._environ,
            start_new_session=True,  # Ctrl-C is for the one who started them, who tells them
            limit=LONGEST_LINE_BYTES,
        )
        self._processes[number] = process
        epoch = self._book.join(number)
        self._send(number, self._orders[number])
        if self._halt is not None:
            self._send(number, Stop(self._halt.exit_code, self._halt.words))
        end = None
        assert process.stdout is not None
        while text := await process.stdout.readline():
            end = self._heard(number, epoch, text) or end
        exit_code = await process.wait()
        self._book.leave(number, epoch, self._watchers.committed(number), time.monotonic())
        return end, exit_code

    def _heard(self, number: int, epoch: int, text: bytes) -> WorkerEnd | None:
        message = decode_from_worker.decode(text)
        match message:
            case Reported(report):
                now = time.monotonic()
                grant = self._book.renew(number, epoch, report, now)
                if grant is not None:
                    self._send(number, Granted(grant))
                self._spread_wave(number, self._book.waves(structs.replace(report, cooling_until={}), now), report)
            case Progressed(progress):
                self._watchers.moved(number, progress)
            case Sentence(sentence):
                self._watchers.said(number, sentence)
            case Ended(summary):
                return WorkerEnd(int(summary["exit_code"] or 0), summary, summary["stop_reason"])
            case Failed(exit_code, words, advice):
                return WorkerEnd(exit_code, message=words, advice=advice)
        return None

    def _spread_wave(self, number: int, waves: dict[str, float], report: Any) -> None:
        """A wave at one worker pauses all at once, and not only when they ask next."""
        own = {lane: until for lane, until in waves.items() if lane in report.cooling_until}
        for other in self._processes if own else ():
            if other != number:
                self._send(other, Wave(own))

    def _send(self, number: int, message: Struct) -> None:
        process = self._processes[number]
        if process.returncode is None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line(message))
