"""The rows of a session: what is open of them is sent, until all of it is done or something says stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import partial

from crun_batch.gateway.pool import Pool
from crun_batch.load.job.output_schema import shape_of
from crun_batch.records import Halt, Row
from crun_batch.session.attempts import AttemptRecorder
from crun_batch.session.lanes import pool_of, routes_of
from crun_batch.session.lifecycle import send_until_done
from crun_batch.session.recorder import RowRecorder
from crun_batch.session.resources import Resources
from crun_batch.session.sealing import Sealer
from crun_batch.session.sharing import Sharing, recorded_answers
from crun_batch.session.source import Batches, RowTickets
from crun_batch.session.tally import UnitTally
from crun_batch.state.run_state import RunContext
from crun_batch.store.journal import Journal
from crun_batch.workload.conversation import Conversation
from crun_batch.workload.tickets import Tickets, TokenRatio


async def send_rows(context: RunContext, resources: Resources, rows: Iterator[list[Row]]) -> Halt | None:
    """Send what is open of these rows; returns why it stopped early, None when it did not. Raises DiskFailed."""
    return await send_until_done(context, resources, partial(_begin, context, resources, rows))


def _begin(
    context: RunContext, resources: Resources, rows: Iterator[list[Row]], journal: Journal, sealer: Sealer
) -> tuple[RowRecorder, Pool]:
    """Recorder, tickets and pool, each made of those before it."""
    workload, loop = context.workload, asyncio.get_running_loop()

    def stop(halt: Halt) -> None:
        pool.stop(halt)

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: pool.wake())

    token_ratio = TokenRatio()
    targets = tuple(variant.name for variant in workload.variants)
    attempts = AttemptRecorder(
        context, resources, targets=targets, journal=journal, sealer=sealer, token_ratio=token_ratio
    )
    shape = None if workload.output is None else shape_of(workload.output)
    conversations = tuple(Conversation(variant, shape) for variant in workload.variants)
    tickets = Tickets(resources.bill.price_of, resources.bill.credits_per_usd, token_ratio)
    sharing = _sharing(context, conversations)
    recorder = RowRecorder(
        context,
        attempts=attempts,
        tally=UnitTally(targets, workload.job.limits.stop_at_error_rate, stop),
        journal=journal,
        conversations=conversations,
        tickets=tickets,
        sharing=sharing,
    )
    batches = Batches(rows, resources.executor)
    source = RowTickets(context, batches, tickets=tickets, unsent=recorder, sharing=sharing, wake=wake)
    routes = routes_of(workload.variants, resources.endpoints[: len(workload.variants)], resources)
    pool = pool_of(context, resources, routes, source, recorder)
    return recorder, pool


def _sharing(context: RunContext, conversations: Sequence[Conversation]) -> Sharing | None:
    """Where identical requests are sent once: with the answers that are recorded already."""
    workload, state = context.workload, context.state
    if not workload.job.share_identical:
        return None
    sharing = Sharing()
    if state.recovered is not None:
        reopened = frozenset(ending.partition(":")[0] for ending in state.done.replaced.values())

        def output_of(variant: int, text: str | None) -> str | None:
            return conversations[variant].output_of(text)

        for unit, part in recorded_answers(state.directory.path, workload, output_of, reopened):
            sharing.remember(unit, part)
    return sharing
