"""How a job by several workers ended: merged where every shard is done, else told as one, with what stopped it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from crun_batch.errors import (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_GATEWAY_REFUSED,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_OUT_OF_MONEY,
    EXIT_REFUSED_TO_START,
    EXIT_ROWS_FAILED,
    EXIT_RUN_DIRECTORY,
    EXIT_TERMINATED,
)
from crun_batch.gateway.pool_seams import NO_ROOM
from crun_batch.preflight.affordability import reservations_of
from crun_batch.pricing.budget import Reservations
from crun_batch.records import Halt
from crun_batch.scale.giver import AllEnds
from crun_batch.scale.merge import merge_shards
from crun_batch.scale.summaries import told
from crun_batch.scale.whole import shards_context
from crun_batch.state.run_state import RunContext
from crun_batch.state.status import status_of
from crun_batch.state.steered import job_of_workers

GRAVEST_FIRST = (
    EXIT_BUG,
    EXIT_DISK,
    EXIT_RUN_DIRECTORY,
    EXIT_INPUT,
    EXIT_REFUSED_TO_START,
    EXIT_GATEWAY_REFUSED,
    EXIT_OUT_OF_MONEY,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    EXIT_ROWS_FAILED,
    EXIT_OK,
)
"""Of several workers' exit codes the first in this order is that of the run."""


def concluded(before: RunContext, places: Sequence[Path], sent: AllEnds) -> dict[str, Any]:
    """The summary of the merged run; where a worker stopped early, of all shards as they are.

    `before`: the context under which they started. Raises what `merge_shards` raises.
    """
    options, ends, folder = before.options, sent.ends, before.workload.job.output.dir
    workload = structs.replace(before.workload, job=job_of_workers(before.workload.job))
    context = shards_context(workload, options, places)
    is_done = all(end.exit_code in (EXIT_OK, EXIT_ROWS_FAILED) for end in ends) and not context.open_units
    if is_done:
        summary = merge_shards(places, folder, clock=options.clock)
        kept = f"{places[0]} to {places[-1].name}"
        options.say(f"merged; the shards are still there, and no longer needed: {kept}")
        return summary
    context.state.bill_at_most = before.state.bill_at_most
    context.state.reservations = _reservations(context, sent)
    code = min((end.exit_code for end in ends), key=GRAVEST_FIRST.index)
    reasons = list(dict.fromkeys(end.message or "rows are still open" for end in ends if end.exit_code == code))
    halt = Halt(code, "; ".join(reasons))
    if code == EXIT_OUT_OF_MONEY and all(one.startswith(NO_ROOM) for one in reasons):
        halt = Halt(code, NO_ROOM)
    return told(context, places, halt)


def refused(context: RunContext, places: Sequence[Path], halt: Halt) -> dict[str, Any]:
    """The summary where the gateway refuses the job before the first request."""
    return told(context, places, halt)


def as_it_is(folder: Path) -> dict[str, Any]:
    """What a run directory says of itself, where there is nothing to do."""
    return status_of(folder)


def left_alone(context: RunContext, places: Sequence[Path]) -> dict[str, Any]:
    """The summary of all shards where their coordinator was told to go, and they were not."""
    now = shards_context(context.workload, context.options, places)
    return told(now, places, Halt(EXIT_TERMINATED, "the coordinator was ended, its workers were not"))


def _reservations(context: RunContext, sent: AllEnds) -> Reservations:
    """The money of all shards together, which no cap of one worker tells."""
    reservations = reservations_of(context)
    for purse, hold_pico in zip((reservations.usd, reservations.credits), sent.largest_hold_pico, strict=True):
        purse.asks(hold_pico)
    return reservations
