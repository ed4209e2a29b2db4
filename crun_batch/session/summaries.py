"""What summary.json says of a run: every few seconds while it sends, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs

from crun_batch.state.run_state import RunContext
from crun_batch.state.summary import RUNNING, RunFacts, summary_of

if TYPE_CHECKING:
    from crun_batch.preflight.pilot import Pilot


class Extent(Struct, frozen=True):
    """How much is to be done: units that were done before this session, and units that it is to finish."""

    done_before: int
    to_do: int


def extent_of(context: RunContext, pilot: Pilot | None) -> Extent:
    """How many units are done and how many are to be; of a pilot only its own."""
    workload, open_count = context.workload, context.open_units
    if pilot is None:
        return Extent(workload.selected_units - open_count, open_count)
    return Extent(0, sum(map(context.open_units_of, pilot.rows)))


def running_summary(context: RunContext) -> Callable[[int, float], Mapping[str, Any]]:
    """What summary.json says while the session goes on: of so many finished units after so many seconds."""
    place, account = place_of(context), context.state.account
    open_before = context.open_units

    def summary(finished_units: int, seconds: float) -> Mapping[str, Any]:
        open_count = open_before - finished_units
        facts = structs.replace(place, batches=context.state.batches.open)
        return summary_of(account, facts, RUNNING, open_count=open_count, seconds=account.seconds + seconds)

    return summary


def place_of(context: RunContext) -> RunFacts:
    """What a summary says of the run that no sum can tell."""
    state, options = context.state, context.options
    name, is_pilot = context.workload.job.name, options.pilot is not None
    shard = None if context.workload.shard is None else str(context.workload.shard.which)
    path, command = state.directory.path, options.resume_command
    return RunFacts(name, path, command, state.pilot, is_pilot, state.left_out, shard, state.batches.open)
