"""One worker: a process that runs one shard and may use what it is granted. `python -m crun_batch.scale.worker`.

It reads its order and its grants from standard input and writes reports to standard output. Where the process
that grants is gone, it sends nothing more, keeps what is in flight, and ends: whoever goes on with the job finds
its shard in order, and its lock free.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, structs

from crun_batch.errors import EXIT_TERMINATED, CrunBatchError
from crun_batch.gateway.steering import SteeredSession
from crun_batch.options import RunOptions, Shard
from crun_batch.pipeline import run_job
from crun_batch.records import Halt
from crun_batch.scale.granted import LOOKED_EVERY_SECONDS, GrantedPart
from crun_batch.scale.messages import (
    Ended,
    Failed,
    Figured,
    Order,
    Progressed,
    Reported,
    Sentence,
    decode_order,
    decode_to_worker,
    line,
)
from crun_batch.scale.orders import options_of_order
from crun_batch.session.metrics import Figures

GONE = Halt(EXIT_TERMINATED, "the process that started this worker is gone")


class Lines(Struct, frozen=True):
    """Where messages come from and go to: the descriptors of two pipes."""

    incoming: int
    outgoing: int

    def send(self, message: Struct) -> None:
        """Write a message; nobody may be listening any more."""
        rest = memoryview(line(message))
        try:
            while rest:
                rest = rest[os.write(self.outgoing, rest) :]
        except BrokenPipeError:
            return

    def first(self) -> bytes:
        """The first line, and not a byte more."""
        found = b""
        while not found.endswith(b"\n") and (byte := os.read(self.incoming, 1)):
            found += byte
        return found


class PipedPart:
    """Steers the session by what comes through the pipe: asks again and again, and obeys the answers."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._part = GrantedPart()
        self._figures: Callable[[], Figures] | None = None

    def given(self, figures: Callable[[], Figures]) -> None:
        """What reads the session's figures."""
        self._figures = figures

    async def __call__(self, session: SteeredSession) -> None:
        """Beside the sending, to its end."""
        incoming, loop = asyncio.create_task(self._obey(session)), asyncio.get_running_loop()
        try:
            while not incoming.done():
                report = self._part.report_if_due(session, loop.time())
                if report is not None:
                    self._tell_figures()
                    self._lines.send(Reported(report))
                await asyncio.sleep(LOOKED_EVERY_SECONDS)
            incoming.result()
        finally:
            incoming.cancel()
            self._tell_figures()

    def _tell_figures(self) -> None:
        if self._figures is not None:
            self._lines.send(Figured(self._figures()))

    async def _obey(self, session: SteeredSession) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=2**20)
        pipe = os.fdopen(os.dup(self._lines.incoming), "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while text := await reader.readline():
                self._part.take(session, decode_to_worker.decode(text), loop.time())
        finally:
            transport.close()
        session.stop(GONE)
        await asyncio.Event().wait()  # until the session has drained and ends this too


def options_from(order: Order, lines: Lines) -> RunOptions:
    """How the shard is run: nothing is asked, the money is granted, what is shown goes to the parent."""
    part = PipedPart(lines)
    unattended = options_of_order(
        order,
        say=lambda sentence: lines.send(Sentence(sentence)),
        watch=lambda progress: lines.send(Progressed(progress)),
    )
    return structs.replace(
        unattended,
        shard=Shard(*order.shard, is_leased=True),
        handle_signals=True,
        until_budget=True,
        figures=part.given if order.figures else None,
        steer=part,
    )


def main() -> int:
    """Run the shard that the order names; the exit code, which the parent is told too."""
    from crun_batch.session.runtime import run_to_end

    lines = Lines(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # whatever else is printed is no message
    order = decode_order.decode(lines.first())
    try:
        summary = run_to_end(run_job(Path(order.job), None, options_from(order, lines)))
    except CrunBatchError as error:
        lines.send(Failed(error.exit_code, str(error), error.advice))
        return error.exit_code
    lines.send(Ended(summary))
    return int(summary["exit_code"] or 0)


if __name__ == "__main__":
    sys.exit(main())
