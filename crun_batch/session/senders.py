"""Who sends in a phase, with the same hooks: the pool, request by request, or the batch lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crun_batch.gateway.pool_seams import Sender
from crun_batch.records import Halt
from crun_batch.session.batching.opening import batch_sender
from crun_batch.session.batching.then_live import BatchThenLive
from crun_batch.session.lanes import pool_of, settings_of
from crun_batch.session.resources import Resources
from crun_batch.session.sealing import Sealer
from crun_batch.session.tools import Make, Recorder, SenderEnds, make_tools
from crun_batch.state.run_state import RunContext
from crun_batch.store.journal import Journal
from crun_batch.workload.target import Target


def make_sender(
    context: RunContext,
    resources: Resources,
    targets: Sequence[Target],
    journal: Journal,
    sealer: Sealer,
    make: Make,
) -> tuple[Recorder, Sender]:
    """Recorder, tickets and sender for these targets, each made of those before it."""
    loop = asyncio.get_running_loop()

    def refuse(target: int, halt: Halt) -> None:
        sender.refuse(target, halt)

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: sender.wake())

    tools = make_tools(context, resources, targets, journal, sealer, SenderEnds(refuse, wake))
    recorder, source = make(tools)
    hooks = resources.steering.watched(recorder)
    settings = settings_of(context, resources, targets, source)
    sender: Sender
    if not targets[0].goes_in_batches:
        sender = pool_of(context, resources, targets, source, hooks, settings)
    elif not targets[0].is_followed_live:
        sender = batch_sender(context, resources, tools, hooks, source, settings, None)
    else:
        sender = BatchThenLive(
            hooks,
            settings,
            lambda hooks, settings, left: batch_sender(context, resources, tools, hooks, source, settings, left),
            lambda hooks, settings, left: pool_of(context, resources, targets, left, hooks, settings),
        )
    resources.steering.attach(sender, recorder.attempts.reservations, leaves_in_flight=leaves_in_flight(targets))
    return recorder, sender


def leaves_in_flight(targets: Sequence[Target]) -> bool:
    """Whether all that these are asked stays where it is when a session stops: it is in batches."""
    return targets[0].goes_in_batches and not targets[0].is_followed_live
