"""The judges of a session: after the answers have been sent for, their judges are asked about them.

Each stored answer and each judge make one question. It goes the way of every other request: reserved under the
same budget, recorded before and after, retried by the same rules, under the limits of its endpoint and model. It
belongs to no unit's result: what came of it is read back from the attempts when scores are computed. A question
whose verdict is recorded is not asked again; one that failed for good is asked by the next session.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from msgspec import structs

from crun_batch.records import Halt
from crun_batch.scoring.docket import Docket
from crun_batch.scoring.unjudged import Asker, stored_answers
from crun_batch.session.judge_recorder import JudgeRecorder
from crun_batch.session.judge_tickets import JudgeTickets
from crun_batch.session.lifecycle import send_until_done
from crun_batch.session.resources import Resources
from crun_batch.session.source import Batches
from crun_batch.session.summaries import Extent
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext
from crun_batch.store.recover import recover


async def judge_answers(context: RunContext, resources: Resources, docket: Docket) -> Halt | None:
    """Ask for every verdict that is missing; returns why it stopped early. Raises DiskFailed."""
    workload, state, record = context.workload, context.state, docket.record
    if docket.may_be_late:
        record.forget()
    state.recovered = recover(state.directory)
    resources = _for_judges(resources, docket.waiting.calls + resources.extent.to_do * len(workload.judges))
    with closing(stored_answers(workload, docket.questions, docket.shelf)) as stored:
        batches = Batches(stored, resources.executor)
        made: list[JudgeRecorder] = []

        def make(tools: Tools) -> tuple[JudgeRecorder, JudgeTickets]:
            made.append(JudgeRecorder(tools))
            asker = Asker(workload, record, docket.questions)
            return made[0], JudgeTickets(context, tools, batches, asker)

        try:
            return await send_until_done(context, resources, workload.judges, make)
        finally:
            state.failed_verdicts = sum(recorder.tally.failed_units for recorder in made)
            if any(recorder.tally.finished_units for recorder in made):
                record.forget()
            batches.settle()


def _for_judges(resources: Resources, calls: int) -> Resources:
    """The same, its progress in questions, of which there are at most so many: no row is finished any more."""
    of_rows, rows = resources.summary, resources.extent.to_do

    def summary(_finished_questions: int, seconds: float) -> Mapping[str, Any]:
        return of_rows(rows, seconds)

    return structs.replace(resources, extent=Extent(0, calls, is_judging=True), summary=summary)
