"""The judges of a session: after the answers have been sent for, their judges are asked about them.

Each stored answer and each judge make one question. It goes the way of every other request: reserved under the
same budget, recorded before and after, retried by the same rules, under the limits of its endpoint and model. It
belongs to no unit's result: what came of it is read back from the attempts when scores are computed. A question
whose verdict is recorded is not asked again; one that failed for good is asked by the next session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from msgspec import structs

from crun_batch.gateway.pool import Pool
from crun_batch.records import Halt
from crun_batch.scoring.docket import Docket
from crun_batch.scoring.unjudged import Answered, Asker, stored_answers
from crun_batch.session.attempts import AttemptRecorder
from crun_batch.session.judge_recorder import JudgeRecorder
from crun_batch.session.judge_tickets import JudgeTickets
from crun_batch.session.lanes import pool_of, routes_of
from crun_batch.session.lifecycle import send_until_done
from crun_batch.session.resources import Extent, Resources
from crun_batch.session.sealing import Sealer
from crun_batch.session.source import Batches
from crun_batch.session.tally import UnitTally
from crun_batch.state.run_state import RunContext
from crun_batch.store.journal import Journal
from crun_batch.store.recover import recover
from crun_batch.workload.tickets import Tickets, TokenRatio


async def judge_answers(context: RunContext, resources: Resources, docket: Docket) -> Halt | None:
    """Ask for every verdict that is missing; returns why it stopped early. Raises DiskFailed."""
    workload, state, record = context.workload, context.state, docket.record
    if docket.may_be_late:
        record.forget()
    state.recovered = recover(state.directory)
    resources = _for_judges(resources, docket.waiting.calls + resources.extent.to_do * len(workload.judges))
    with closing(stored_answers(workload, docket.questions, docket.shelf)) as stored:
        batches = Batches(stored, resources.executor)
        tallies: list[UnitTally] = []
        begin = partial(_begin, context, resources, batches, docket, tallies.append)
        try:
            return await send_until_done(context, resources, begin)
        finally:
            state.failed_verdicts = sum(tally.failed_units for tally in tallies)
            if any(tally.finished_units for tally in tallies):
                record.forget()
            batches.settle()


def _for_judges(resources: Resources, calls: int) -> Resources:
    """The same, its progress in questions, of which there are at most so many: no row is finished any more."""
    of_rows, rows = resources.summary, resources.extent.to_do

    def summary(_finished_questions: int, seconds: float) -> Mapping[str, Any]:
        return of_rows(rows, seconds)

    return structs.replace(resources, extent=Extent(0, calls), summary=summary)


def _begin(
    context: RunContext,
    resources: Resources,
    batches: Batches[Answered],
    docket: Docket,
    remember: Callable[[UnitTally], None],
    journal: Journal,
    sealer: Sealer,
) -> tuple[JudgeRecorder, Pool]:
    workload, loop = context.workload, asyncio.get_running_loop()

    def stop(halt: Halt) -> None:
        pool.stop(halt)

    def wake() -> None:
        loop.call_soon_threadsafe(lambda: pool.wake())

    token_ratio = TokenRatio()
    targets = tuple(judge.name for judge in workload.judges)
    attempts = AttemptRecorder(
        context, resources, targets=targets, journal=journal, sealer=sealer, token_ratio=token_ratio
    )
    tally = UnitTally(targets, workload.job.limits.stop_at_error_rate, stop)
    remember(tally)
    recorder = JudgeRecorder(attempts, tally, journal)
    tickets = Tickets(resources.bill.price_of, resources.bill.credits_per_usd, token_ratio)
    asker = Asker(workload, docket.record, docket.questions)
    source = JudgeTickets(workload, batches, asker, tickets, wake)
    routes = routes_of(workload.judges, resources.endpoints[len(workload.variants) :], resources)
    pool = pool_of(context, resources, routes, source, recorder)
    return recorder, pool
