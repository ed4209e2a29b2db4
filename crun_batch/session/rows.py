"""The rows of a session: what is open of them is sent, until all of it is done or something says stop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crun_batch.load.job.output_schema import shape_of
from crun_batch.records import Halt, Row
from crun_batch.session.lifecycle import send_until_done
from crun_batch.session.packing.opening import in_packs
from crun_batch.session.recorder import RowRecorder
from crun_batch.session.resources import Resources
from crun_batch.session.sharing import Sharing, recorded_answers
from crun_batch.session.source import Batches, RowTickets
from crun_batch.session.tools import Made, Tools
from crun_batch.session.warming import MOST_HELD, WarmedTickets, Warming
from crun_batch.state.run_state import RunContext
from crun_batch.workload.conversation import Conversation


async def send_rows(context: RunContext, resources: Resources, rows: Iterator[list[Row]]) -> Halt | None:
    """Send what is open of these rows; returns why it stopped early, None when it did not. Raises DiskFailed."""
    variants, output = context.workload.variants, context.workload.output

    def make(tools: Tools) -> Made:
        shape = None if output is None else shape_of(output)
        conversations = tuple(Conversation(variant, shape) for variant in variants)
        sharing = _sharing(context, conversations)
        rows_together = max((variant.job.pack.rows for variant in variants if variant.job.pack), default=1)
        warming = Warming(tools.wake, MOST_HELD // rows_together) if _warms(context) else None
        recorder = RowRecorder(context, tools, conversations, sharing, warming)
        batches = Batches(rows, resources.executor)
        source = RowTickets(
            context, tools, batches, unsent=recorder, sharing=sharing, by_variant=warming is not None
        )
        made: Made = recorder, source
        if rows_together > 1:
            made = in_packs(context, tools, resources.bill, conversations, recorder, source, sharing)
        return made if warming is None else (made[0], WarmedTickets(made[1], warming))

    return await send_until_done(context, resources, variants, make)


def _warms(context: RunContext) -> bool:
    """Whether one request goes ahead to warm a cache: not in batches, where its answer may take a day."""
    workload = context.workload
    return workload.job.lane == "live" and any(variant.hints is not None for variant in workload.variants)


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
