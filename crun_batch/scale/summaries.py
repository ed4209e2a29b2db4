"""The summary of a job by several workers as long as no run is merged: all of its shards told as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.gateway.pool_seams import NO_ROOM
from crun_batch.preflight.affordability import caps_to_go_on, how_to_go_on
from crun_batch.records import Halt
from crun_batch.scale.whole import places_begun
from crun_batch.session.summaries import place_of
from crun_batch.state.commands import under_caps
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import ending_of, summary_of


def told(context: RunContext, places: Sequence[Path], halt: Halt) -> dict[str, Any]:
    """`shards`: where results are as long as there is no merged run; `output_dir` is where that is to be.

    Where the budget was too small, its command names one under which what is open fits.
    """
    account, open_units, per_row = context.state.account, context.open_units, context.workload.slots.per_row
    going_on = how_to_go_on(halt, context) if halt.reason == NO_ROOM else halt  # a worker has said how
    command = under_caps(context.options.resume_command, caps_to_go_on(halt, context))
    ending = ending_of(going_on, account.totals(), open_units, units_per_row=per_row, is_pilot=False)
    place = structs.replace(place_of(context), directory=context.workload.job.output.dir, resume_command=command)
    summary = summary_of(account, place, ending, open_count=open_units, seconds=account.seconds)
    return {**summary, "shards": [str(one) for one in places_begun(places)]}
