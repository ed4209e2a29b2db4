"""Who acts beside a session's sending: whoever leases to it, the time at which it stops, people, their figures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from crun_batch.options import RunOptions
from crun_batch.session.deadline import keep_deadline
from crun_batch.session.listener import Listener
from crun_batch.session.resources import Resources
from crun_batch.session.steering import Steering, steered
from crun_batch.state.run_state import RunContext
from crun_batch.store.control import ControlSocket

if TYPE_CHECKING:
    from crun_batch.session.prometheus import FiguresServer


METRICS_PATH = "/metrics"


@asynccontextmanager
async def steered_session(
    context: RunContext, resources: Resources, server: FiguresServer | None
) -> AsyncIterator[None]:
    """All of them at work, as long as the session sends. `server`: for the figures; None: nobody asks there."""
    options, steering = context.options, resources.steering
    by: list[Coroutine[Any, Any, None]] = []
    async with AsyncExitStack() as stack:
        if server is not None or options.otel or options.figures is not None:
            await _give_figures(context, steering, server, stack)
        listening = stack.enter_context(_listening(context))
        if listening is not None:
            by.append(Listener(context, steering).listen(listening.listening))
        if options.steer is not None:
            by.append(options.steer(steering))
        if options.deadline is not None:
            by.append(keep_deadline(options.deadline, steering, options))
        await stack.enter_async_context(steered(steering, by))
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


@contextmanager
def _listening(context: RunContext) -> Iterator[ControlSocket | None]:
    """The socket for people; None where the session is played, or its file system takes none, which is said."""
    options, folder = context.options, context.state.directory.path
    listening = None
    if not options.platform.in_place:
        try:
            listening = ControlSocket(folder)
        except OSError as error:
            why = error.strerror or str(error)
            options.say(f"{folder}: set, pause, resume and stop cannot reach this session ({why}); signals do")
    try:
        yield listening
    finally:
        if listening is not None:
            listening.close()
