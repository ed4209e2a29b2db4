"""Who acts beside a session's sending: whoever leases to it, the time at which it stops, people, their figures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from crun_batch.errors import CrunBatchError
from crun_batch.options import RunOptions
from crun_batch.session.beside import heard
from crun_batch.session.resources import Resources
from crun_batch.session.steering import Steering
from crun_batch.state.job_document import record_steering
from crun_batch.state.run_state import RunContext
from crun_batch.state.steered import steering_after

if TYPE_CHECKING:
    from crun_batch.session.prometheus import FiguresServer


METRICS_PATH = "/metrics"


@asynccontextmanager
async def steered_session(
    context: RunContext, resources: Resources, server: FiguresServer | None
) -> AsyncIterator[None]:
    """All of them at work, as long as the session sends. `server`: for the figures; None: nobody asks there."""
    options, steering = context.options, resources.steering
    async with AsyncExitStack() as stack:
        if server is not None or options.otel or options.figures is not None:
            await _give_figures(context, steering, server, stack)
        others = () if options.steer is None else (options.steer(steering),)
        place, keep = context.state.directory.path, partial(_record, context)
        await stack.enter_async_context(heard(steering, keep, place, options, others))
        yield


def place_for_figures(options: RunOptions) -> FiguresServer | None:
    """The port that figures were asked for on; None: on none. Raises InputError: no port, or no extra for them."""
    if options.otel:
        from crun_batch.session.open_telemetry import need_extra

        need_extra()
    if options.metrics_port is None:
        return None
    from crun_batch.session.prometheus import bound

    return bound(options.metrics_port)


async def _give_figures(
    context: RunContext, steering: Steering, server: FiguresServer | None, stack: AsyncExitStack
) -> None:
    """What serves and exports them is loaded only where somebody wants them."""
    from crun_batch.session.metrics import SessionMetrics
    from crun_batch.session.open_telemetry import exported
    from crun_batch.session.prometheus import FiguresFromLoop, metrics_text, served

    options, metrics = context.options, SessionMetrics(context, steering)
    steering.watch_pools(metrics.timed)
    if options.figures is not None:
        options.figures(metrics.read)
    if server is not None:
        figures = FiguresFromLoop(metrics)
        pages = {METRICS_PATH: lambda: metrics_text([({}, figures.read())])}
        options.say(f"metrics: {await stack.enter_async_context(served(server, pages))}{METRICS_PATH}")
    if options.otel:
        await stack.enter_async_context(exported(metrics, instance=_instance(context)))


def _instance(context: RunContext) -> str | None:
    """What tells the figures of one worker from those of the others."""
    shard = context.workload.shard
    return None if shard is None else f"shard {shard.which.number} of {shard.which.count}"


async def _record(context: RunContext, told: Mapping[str, Any]) -> None:
    """Into job.json, what holds already."""
    state = context.state
    state.steering = steering_after(state.steering, told)
    try:
        await asyncio.to_thread(record_steering, state.directory, state.steering)
    except CrunBatchError as error:
        words = f"it holds, and could not be written into job.json: {error}"
        raise type(error)(words, advice=error.advice) from error
