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

from msgspec import Struct

from crun_batch.console.progress import Progress
from crun_batch.errors import EXIT_TERMINATED, CrunBatchError
from crun_batch.gateway.steering import Lease, MoneyStanding, SteeredSession
from crun_batch.options import RunOptions, Shard
from crun_batch.pipeline import run_job
from crun_batch.records import Halt
from crun_batch.scale.leases import WHOLE_SHARE, Grant, UnitMoney, WorkerReport
from crun_batch.scale.messages import (
    Ended,
    Failed,
    Order,
    Progressed,
    Reported,
    Sentence,
    Stop,
    ToWorker,
    Wave,
    decode_order,
    decode_to_worker,
    line,
)

RENEWED_EVERY_SECONDS = 1.0
LOOKED_EVERY_SECONDS = 0.05
WAITS_BETWEEN_SECONDS = 0.2
"""How often a worker that waits for money asks again."""
LEAST_SHARE = 1e-9
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


class GrantedPart:
    """Steers the session by what it is granted: asks again and again, and obeys the answers."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._grant: Grant | None = None
        self._is_asking = False
        self._asked_at = float("-inf")
        self._told: dict[str, float] = {}
        """The waves that were reported."""

    async def __call__(self, session: SteeredSession) -> None:
        """Beside the sending, to its end."""
        incoming = asyncio.create_task(self._obey(session))
        try:
            while not incoming.done():
                self._ask_if_due(session)
                await asyncio.sleep(LOOKED_EVERY_SECONDS)
            incoming.result()
        finally:
            incoming.cancel()

    async def _obey(self, session: SteeredSession) -> None:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=2**20)
        pipe = os.fdopen(os.dup(self._lines.incoming), "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while text := await reader.readline():
                self._take(session, decode_to_worker.decode(text))
        finally:
            transport.close()
        session.stop(GONE)
        await asyncio.Event().wait()  # until the session has drained and ends this too

    def _take(self, session: SteeredSession, message: ToWorker) -> None:
        if isinstance(message, Stop):
            session.stop(Halt(message.exit_code, message.reason))
        elif isinstance(message, Wave):
            self._heed(session, message.until)
        else:
            self._is_asking = False
            self._grant = message.grant
            session.lease(lease_of(message.grant, session))
            self._heed(session, message.grant.waves)

    def _heed(self, session: SteeredSession, waves: dict[str, float]) -> None:
        for lane, until in waves.items():
            session.heed_wave(lane, until)
            self._told[lane] = until

    def _ask_if_due(self, session: SteeredSession) -> None:
        """Once a second; at once where refusals came in a wave, soon where there is no money."""
        now, standing = asyncio.get_running_loop().time(), session.standing()
        is_new_wave = any(until > self._told.get(lane, 0.0) for lane, until in standing.cooling_until.items())
        every = WAITS_BETWEEN_SECONDS if standing.waits_for_money else RENEWED_EVERY_SECONDS
        if self._is_asking or not (is_new_wave or now - self._asked_at >= every):
            return
        self._is_asking, self._asked_at = True, now
        self._told |= standing.cooling_until
        grant = self._grant
        report = WorkerReport(
            in_flight=standing.in_flight,
            places=0 if grant is None else grant.places,
            share=0 if grant is None else grant.share,
            waits_for_money=standing.waits_for_money,
            usd=_money(standing.usd, grant),
            credits=_money(standing.credits, grant),
            cooling_until=dict(standing.cooling_until),
        )
        self._lines.send(Reported(report))


def _money(standing: MoneyStanding, grant: Grant | None) -> UnitMoney:
    cap = None if grant is None else standing.cap_pico
    return UnitMoney(cap, standing.committed_pico, standing.largest_hold_pico)


def lease_of(grant: Grant, session: SteeredSession) -> Lease:
    """The grant as the session takes it. What was committed since it was decided cannot be taken back any more."""
    standing = session.standing()
    caps = (grant.max_usd_pico, standing.usd), (grant.max_credits_pico, standing.credits)
    usd, credits = (None if cap is None else max(cap, money.committed_pico) for cap, money in caps)
    return Lease(
        until=grant.until,
        concurrency=grant.places if grant.share else 0,
        rate_share=max(LEAST_SHARE, grant.share / WHOLE_SHARE),
        max_usd_pico=usd,
        max_credits_pico=credits,
        more_may_come=grant.more_may_come,
    )


def options_from(order: Order, lines: Lines) -> RunOptions:
    """How the shard is run: nothing is asked, the money is granted, what is shown goes to the parent."""
    say: Callable[[str], None] = lambda sentence: lines.send(Sentence(sentence))  # noqa: E731
    watch: Callable[[Progress], None] = lambda progress: lines.send(Progressed(progress))  # noqa: E731
    return RunOptions(
        overrides=order.overrides,
        allow_paths=order.allow_paths,
        simulate=bool(order.simulators_at),
        simulators_at=order.simulators_at,
        deadline=order.deadline,
        shard=Shard(*order.shard, is_leased=True),
        until_budget=True,
        say=say,
        watch=watch,
        steer=GrantedPart(lines),
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
