"""The end of a session, however it ended: score, publish, and write the summary."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from crun_batch.records import Halt
from crun_batch.scoring.computed import Graders
from crun_batch.scoring.docket import Docket
from crun_batch.scoring.stored import score_answers
from crun_batch.session.late_columns import publish_filled
from crun_batch.session.summaries import place_of
from crun_batch.state.commands import under_caps
from crun_batch.state.job_document import record_scores
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import ending_of, summary_of
from crun_batch.store.directory import write_json


def close(context: RunContext, graders: Graders, docket: Docket, halt: Halt | None) -> dict[str, Any]:
    """Score and publish what is there; the summary, as written. Raises DiskFailed, RunDamaged."""
    workload, state = context.workload, context.state
    record_scores(workload, state)
    score_answers(context, graders, docket)
    publish_filled(context)
    totals, open_count = state.account.totals(), context.open_units
    halt, caps = _going_on(context, halt)
    ending = ending_of(
        halt,
        totals,
        open_count,
        units_per_row=workload.slots.per_row,
        is_pilot=context.options.pilot is not None,
        failed_verdicts=state.failed_verdicts,
    )
    seconds = state.account.seconds
    place = place_of(context)
    command = under_caps(place.resume_command, caps)
    place = structs.replace(place, resume_command=command)
    summary = summary_of(state.account, place, ending, open_count=open_count, seconds=seconds)
    write_json(state.directory, state.directory.summary, summary)
    return summary


def _going_on(context: RunContext, halt: Halt | None) -> tuple[Halt | None, dict[str, int]]:
    """The halt with what to do next, and the caps under which the rest would fit."""
    if halt is None:
        return None, {}
    from crun_batch.preflight.affordability import caps_to_go_on, how_to_go_on

    return how_to_go_on(halt, context), caps_to_go_on(halt, context)


def refused(context: RunContext, halt: Halt) -> dict[str, Any]:
    """The summary of a session that ended before its first request. Nothing is written: all stays as it was."""
    account, open_count, place = context.state.account, context.open_units, place_of(context)
    ending = ending_of(halt, account.totals(), open_count, units_per_row=place.units_per_row, is_pilot=False)
    return summary_of(account, place, ending, open_count=open_count, seconds=account.seconds)
