"""A coordinator at work: its book, its port, its display, its end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from crun_batch.errors import SIGNALS
from crun_batch.options import RunOptions
from crun_batch.records import Halt
from crun_batch.scale.coordinator import Coordinator
from crun_batch.scale.figures import FiguresOfAll, figures_served
from crun_batch.scale.giver import AllEnds, WorkerEnd
from crun_batch.scale.giving import SaidOnce, coordinator_of
from crun_batch.scale.kept_leases import KeptLeases
from crun_batch.scale.serving import Listening, served
from crun_batch.session.beside import heard
from crun_batch.session.signals import signals_told
from crun_batch.state.run_state import RunContext

LOOKED_EVERY_SECONDS = 0.2
LINGERS_SECONDS = 1.0
"""After the last end: whoever told it is answered."""


async def given_to_workers(
    context: RunContext,
    places: Sequence[Path],
    words: SaidOnce,
    kept: KeptLeases,
    listening: Listening,
) -> AllEnds | None:
    """Serve until all shards have ended; how each did. None: this process was told to go, the workers were not.

    Raises what stands in the way of giving: DiskFailed, RunInUse.
    """
    figures = FiguresOfAll.of(context.workload.job)
    coordinator, job = coordinator_of(context, places, words, kept, figures)
    async with figures_served(figures, context.options), heard(job, job.keep, kept.folder, context.options):
        return await _served_to_their_ends(coordinator, context.options, len(places), listening)


async def _served_to_their_ends(
    coordinator: Coordinator, options: RunOptions, count: int, listening: Listening
) -> AllEnds | None:
    with (
        served(coordinator, listening) as address,
        _signals(coordinator, options, listening.successor(address)) as gone,
    ):
        worker = f"crun-batch run JOB --shard I/{count} --coordinator {address}"
        options.say(f"coordinator: {address} (workers: {worker})")
        ends = await _ends(coordinator, gone)
        if ends is None:
            return None
        await asyncio.sleep(LINGERS_SECONDS)
    return AllEnds(ends, coordinator.largest_hold_pico)


async def _ends(coordinator: Coordinator, gone: asyncio.Event) -> list[WorkerEnd] | None:
    while not gone.is_set():
        if coordinator.failure is not None:
            raise coordinator.failure
        ends = coordinator.ends
        if ends is not None:
            return ends
        await asyncio.to_thread(coordinator.look_after)
        await asyncio.sleep(LOOKED_EVERY_SECONDS)
    return None


@contextmanager
def _signals(coordinator: Coordinator, options: RunOptions, successor: str) -> Iterator[asyncio.Event]:
    """Ctrl-C ends the job: all workers drain; twice, without waiting for them. SIGTERM ends this process alone."""
    gone = asyncio.Event()
    caught_before: list[signal.Signals] = []

    def caught(number: signal.Signals) -> None:
        exit_code, name = SIGNALS[number]
        if number is signal.SIGINT and not caught_before:
            caught_before.append(number)
            options.say(f"{name}: all workers are told to stop; waiting for them (once more: end now)")
            coordinator.stop(Halt(exit_code, name))
        else:
            options.say(f"{name}: ending now; workers go on with what they are leased, then wait for {successor}")
            gone.set()

    with signals_told(caught, wanted=options.handle_signals):
        yield gone
