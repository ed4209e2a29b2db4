"""What summary.json says of a run: every few seconds while it sends, and at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from crun_batch.records import STATUSES
from crun_batch.state.commands import once_corrected
from crun_batch.state.done import rows_by_status
from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import RUNNING, RunFacts, summary_of

COUNTING_SHARE = 0.01
"""Of the time, at most, is spent on counting the rows of a run that goes on."""

if TYPE_CHECKING:
    from crun_batch.preflight.pilot import Pilot


class Extent(Struct, frozen=True):
    """How much is to be done: units that were done before this session, and units that it is to finish."""

    done_before: int
    to_do: int
    units_per_row: int = 1
    is_judging: bool = False
    """It is about questions to judges, not about units."""


def extent_of(context: RunContext, pilot: Pilot | None) -> Extent:
    """How many units are done and how many are to be; of a pilot only its own."""
    workload, open_count = context.workload, context.open_units
    per_row = workload.slots.per_row
    if pilot is None:
        return Extent(workload.selected_units - open_count, open_count, per_row)
    return Extent(0, sum(map(context.open_units_of, pilot.rows)), per_row)


def running_summary(context: RunContext) -> Callable[[int, float], Mapping[str, Any]]:
    """What summary.json says while the session goes on: of so many finished units after so many seconds."""
    place, account = place_of(context), context.state.account
    open_before, counts = context.open_units, _Counts(place.rows)

    def summary(finished_units: int, seconds: float) -> Mapping[str, Any]:
        open_count = open_before - finished_units
        now = structs.replace(place, rows=counts.now(context), batches=context.state.batches.open)
        return summary_of(account, now, RUNNING, open_count=open_count, seconds=account.seconds + seconds)

    return summary


def place_of(context: RunContext) -> RunFacts:
    """What a summary says of the run that no sum can tell."""
    state, options = context.state, context.options
    name, is_pilot = context.workload.job.name, options.pilot is not None
    return RunFacts(
        name,
        state.directory.path,
        once_corrected(options.resume_command) if state.prices else options.resume_command,
        state.pilot,
        is_pilot,
        state.left_out,
        None if context.workload.shard is None else str(context.workload.shard.which),
        context.workload.slots.per_row,
        _rows(context),
        state.batches.open,
        state.done.reopened,
    )


def _rows(context: RunContext) -> Mapping[str, int] | None:
    """The rows by status, where a row has several units, or had them: those of former repeats are in the sums."""
    workload, done = context.workload, context.state.done
    is_unit = workload.slots.per_row == 1 and not done.of_former_ways
    return None if is_unit else rows_by_status(workload, done, STATUSES)


class _Counts:
    """The rows by status of a run that goes on: counted anew as often as that costs next to nothing."""

    def __init__(self, rows: Mapping[str, int] | None) -> None:
        self._rows = rows
        self._next_at = 0.0

    def now(self, context: RunContext) -> Mapping[str, int] | None:
        began_at = time.perf_counter()
        if self._rows is not None and began_at >= self._next_at:
            self._rows = _rows(context)
            ended_at = time.perf_counter()
            self._next_at = ended_at + (ended_at - began_at) / COUNTING_SHARE
        return self._rows
