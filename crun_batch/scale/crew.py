"""The processes of several workers: started, granted their parts, started again when killed, ended together.

Owns the processes and their pipes. What each may use is decided in `leases`; that nobody else is at work on a
shard is told by the lock of its run directory. A worker that was killed leaves a journal that its successor goes
on with, under the next epoch; what was in flight is of unknown outcome, as after any kill.
"""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from msgspec import Struct, structs

from crun_batch.errors import EXIT_BUG
from crun_batch.interpreter import python_module
from crun_batch.records import Halt
from crun_batch.scale.giver import Giver, WorkerEnd
from crun_batch.scale.leases import WorkerReport
from crun_batch.scale.messages import Order, Reported, Stop, Wave, decode_from_worker, line
from crun_batch.scale.restarts import LOST_TOO_OFTEN, Restarts

LONGEST_LINE_BYTES = 2**24


class Crew:
    """Workers, one for each order. One use; `run` returns how each ended."""

    def __init__(self, orders: Sequence[Order], environ: Mapping[str, str], giver: Giver) -> None:
        self._orders = orders
        self._environ = dict(environ)
        self._giver = giver
        self._processes: dict[int, Process] = {}
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
        if self._giver.stop(halt):
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
        return self._giver.halt

    async def _to_its_end(self, number: int) -> WorkerEnd:
        end = await self._keep(number)
        halt = self._giver.halt_after(end)
        if halt is not None:
            self.stop(halt)
        return end

    async def _keep(self, number: int) -> WorkerEnd:
        """One worker to its end, through kills."""
        restarts = Restarts()
        while True:
            restarts.start(time.monotonic())
            end, exit_code = await self._started(number)
            if end is not None:
                return end
            if self.halt is not None:
                return WorkerEnd(self.halt.exit_code, message=self.halt.words)
            said = f"worker {number + 1} ended without a word (exit code {exit_code})"
            if self._is_over:
                return WorkerEnd(EXIT_BUG, message=said)
            if not restarts.may_start(time.monotonic()):
                return WorkerEnd(EXIT_BUG, message=f"{said}, and {LOST_TOO_OFTEN}")
            self._giver.watchers.say(f"{said}: started again; what it had in flight may be billed twice")

    async def _started(self, number: int) -> tuple[WorkerEnd | None, int]:
        """One process of a worker; how it says that it ended (None: it was killed), and its exit code."""
        process = await asyncio.create_subprocess_exec(
            *python_module("crun_batch.scale.worker"),
            stdin=PIPE,
            stdout=PIPE,
            env=self._environ,
            start_new_session=True,  # Ctrl-C is for the one who started them, who tells them
            limit=LONGEST_LINE_BYTES,
        )
        self._processes[number] = process
        epoch = self._giver.book.join(number)
        self._send(number, self._orders[number])
        if self.halt is not None:
            self._send(number, Stop(self.halt.exit_code, self.halt.words))
        end = None
        assert process.stdout is not None
        while text := await process.stdout.readline():
            end = self._heard(number, epoch, text) or end
        exit_code = await process.wait()
        self._giver.book.leave(number, epoch, self._giver.watchers.committed(number), time.monotonic())
        return end, exit_code

    def _heard(self, number: int, epoch: int, text: bytes) -> WorkerEnd | None:
        message = decode_from_worker.decode(text)
        if not isinstance(message, Reported):
            return self._giver.told(number, message)
        now, report = time.monotonic(), message.report
        granted = self._giver.renewed(number, epoch, report, now)
        if granted is not None:
            self._send(number, granted)
        known = structs.replace(report, cooling_until={})
        self._spread_wave(number, self._giver.book.waves(known, now), report)
        return None

    def _spread_wave(self, number: int, waves: dict[str, float], report: WorkerReport) -> None:
        """A wave at one worker pauses all at once, and not only when they ask next."""
        own = {lane: until for lane, until in waves.items() if lane in report.cooling_until}
        for other in self._processes if own else ():
            if other != number:
                self._send(other, Wave(own))

    def _send(self, number: int, message: Struct) -> None:
        process = self._processes[number]
        if process.returncode is None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(line(message))
