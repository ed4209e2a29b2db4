"""From an open journal to an orderly end: one phase of sending, whoever is asked.

Everything with a lifetime of its own is opened and closed here: the journal, the sealing thread, signal handlers,
the tasks beside the pool.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from crun_batch.gateway.pool_seams import Sender
from crun_batch.records import Halt
from crun_batch.session.leftovers import conclude_leftovers, leave_in_flight
from crun_batch.session.resources import Resources
from crun_batch.session.sealing import Sealer, open_journal
from crun_batch.session.senders import leaves_in_flight, make_sender
from crun_batch.session.signals import SignalHandling, signals_told
from crun_batch.session.tools import Make, Recorder
from crun_batch.session.watching import Meter, keep_summary, pace_of, replace_summary, show, tell_standstill
from crun_batch.state.run_state import RunContext
from crun_batch.workload.target import Target


async def send_until_done(
    context: RunContext, resources: Resources, targets: Sequence[Target], make: Make
) -> Halt | None:
    """Open the journal, conclude what the last session left, send until all is done or it stops, close.

    Returns why it stopped early; None: everything is done. Raises DiskFailed.
    """
    state, options = context.state, context.options
    state.account.began_us = options.clock.epoch_us()
    journal = open_journal(context)
    sealer = Sealer(state, journal, in_place=resources.executor is None)
    try:
        conclude_leftovers(context, journal, resources.bill)
        if state.recovered is not None:
            sealer.begin_segment()
        recorder, pool = make_sender(context, resources, targets, journal, sealer, make)
        started = options.clock.monotonic()
        timeout_seconds = context.workload.job.limits.attempt_timeout_seconds
        waits_seconds = None if leaves_in_flight(targets) else timeout_seconds
        ending = SignalHandling(pool, options.say, waits_seconds)
        with signals_told(ending.caught, wanted=options.handle_signals), _settled_heap():
            halt = await _run_watched(context, resources, pool, recorder)
        state.account.seconds += options.clock.monotonic() - started
        state.account.began_us = None
        leave_in_flight(context, journal, recorder.attempts.in_flight)
        sealer.finish()
        return halt
    finally:
        sealer.wait()
        journal.close()


async def _run_watched(context: RunContext, resources: Resources, pool: Sender, recorder: Recorder) -> Halt | None:
    """The pool; beside it the display, the summary and the balance."""
    options, clock = context.options, context.options.clock.monotonic
    meter = Meter(pool, recorder, resources, options.clock)
    started = clock()

    def summary() -> Mapping[str, Any]:
        summed = resources.summary(recorder.tally.finished_units, clock() - started)
        return {**summed, "pace": pace_of(meter.read())}

    every_seconds, directory = options.platform.summary_every_seconds, context.state.directory
    replace_summary(directory, summary(), options.say)  # before the first request: a kill finds it said
    beside = [
        keep_summary(directory, summary, options.say, every_seconds),
        tell_standstill(options.say, options.platform.standstill_every_seconds),
    ]
    if options.watch is not None:
        beside.append(show(options.watch, meter))
    if resources.keep_balance is not None:
        beside.append(resources.keep_balance(recorder.attempts.reservations, pool.leave_out))
    watchers = [asyncio.create_task(watcher) for watcher in beside]
    try:
        return await pool.run()
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        if options.watch is not None:
            options.watch(meter.read())


@contextmanager
def _settled_heap() -> Iterator[None]:
    """What is in memory now stays: the garbage collector need not go through it again while rows come and go."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
