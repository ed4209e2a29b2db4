"""Who sends in a phase, with the same hooks: the pool, request by request, or the batch lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from crun_batch.gateway.pool_seams import Sender
from crun_batch.records import Halt
from crun_batch.session.batching.opening import batch_sender
from crun_batch.session.lanes import pool_of, routes_of
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
    sender: Sender
    if targets[0].goes_in_batches:
        sender = batch_sender(context, resources, tools, hooks, source)
    else:
        sender = pool_of(context, resources, routes_of(context, targets, resources), source, hooks)
    leaves = targets[0].goes_in_batches
    resources.steering.attach(sender, recorder.attempts.reservations, leaves_in_flight=leaves)
    return recorder, sender
