"""What the units still to be sent will cost: rows rendered, counted and priced, for an estimate.

Owns which rows are read for it, and what they stand for. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
from msgspec import Struct, structs

from crun_batch.errors import InputError
from crun_batch.load.job.lanes import goes_in_batches
from crun_batch.load.prompt.rejections import REJECTED_ADVICE, Rejections
from crun_batch.preflight.counting import OpenWork
from crun_batch.preflight.finished import finished_requests
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.estimate import SAMPLE_ABOVE_ROWS, SAMPLE_ROWS, combine
from crun_batch.pricing.figures import Estimate, Limits, Span
from crun_batch.records import Row, decimal_text, pico_of
from crun_batch.scoring.docket import Backlog
from crun_batch.scoring.questions import Questions
from crun_batch.state.run_state import RunContext

REJECTIONS_SHOWN = 20
ESTIMATE_SEED = 0
NOTHING_WAITS = Backlog()


class Reused(Struct, frozen=True):
    """Units that are given an earlier run's answer and not sent, and what those had cost there, in pico."""

    rows: int = 0
    of_known_cost: int = 0
    usd_pico: int = 0
    credits_pico: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As a summary says it."""
        usd, credits_ = (decimal_text(one) if one else None for one in (self.usd_pico, self.credits_pico))
        known = self.of_known_cost
        return {"rows": self.rows, "of_known_cost": known, "saved_usd": usd, "saved_credits": credits_}


class Assessment(Struct, frozen=True):
    """An estimate of what is still to be sent, with the rows that were read for it."""

    estimate: Estimate
    open_rows: int
    rejections: Rejections
    limit_of: Callable[[int], int]
    """The value of `limit_option` that takes in so many of the open rows."""
    limit_option: str = "--limit"
    open_units: int | None = None
    """Of the open rows; a row has one for each of its variants and repeats that is not finished."""
    reused: Reused = Reused()

    def refuse_rejected(self, job_source: str) -> None:
        """Rows without a prompt are mistakes in the table or the templates: nothing is sent with them."""
        if self.rejections.rows:
            raise InputError(self.rejections.mistakes(job_source, is_all=False), advice=REJECTED_ADVICE)


class RowsRead(Struct, frozen=True):
    """The rows that an estimate is made from."""

    batches: Iterable[list[Row]]
    stands_for: int | None = None
    """How many rows these random ones stand for; None: for themselves."""


def columns_read(context: RunContext) -> tuple[str, ...]:
    """What an estimate must read of each row."""
    workload = context.workload
    return Questions(workload).columns if workload.judges else workload.columns


def everything(context: RunContext) -> RowsRead:
    """All selected rows."""
    workload = context.workload
    return RowsRead(workload.table.rows(columns_read(context)))


def enough(context: RunContext) -> RowsRead:
    """All open rows, or above SAMPLE_ABOVE_ROWS of them random ones from evenly spread places, which is said."""
    workload, done = context.workload, context.state.done
    table, columns = workload.table, columns_read(context)
    is_new = done.open_slots() == workload.unit_slots
    wanted = None if is_new else done.open_rows(workload.slots.per_row)
    rows = table.count(wanted)
    if rows <= SAMPLE_ABOVE_ROWS:
        return RowsRead(table.rows(columns, wanted=wanted))
    context.options.say(
        f"estimated from {SAMPLE_ROWS:,} random rows of {rows:,}, from places spread evenly over them; "
        "`estimate` reads them all"
    )
    return RowsRead([table.spread_rows(SAMPLE_ROWS, ESTIMATE_SEED, columns, wanted)], rows)


def assess(
    context: RunContext,
    prices: Prices,
    reading: RowsRead,
    waiting: Backlog = NOTHING_WAITS,
    left_out: Collection[str] = (),
) -> Assessment:
    """Render and count the open units of the rows that are read; `options.tick` is told how many rows that were.

    `waiting`: the questions about stored answers, which come on top. `left_out`: variants that are not sent.
    """
    workload, work = context.workload, OpenWork(context, prices, left_out)
    for batch in reading.batches:
        work.add(batch)
        context.options.tick(work.read_rows)
        if work.rejections.rows >= REJECTIONS_SHOWN:
            break
    read_rows = work.read_rows
    whole = partial(_scaled, read=read_rows, total=read_rows if reading.stands_for is None else reading.stands_for)
    total_open = whole(work.open_rows)
    limits = workload.job.limits
    finished = finished_requests(context, prices)
    estimates = [tallied.estimate(whole, finished) for tallied in work.tallies]
    estimates += work.judges.estimates(max(total_open, work.open_rows), waiting, finished.judges)
    latency_seconds = _latency_seconds(context)
    combined = combine(
        [estimate for group in estimates for estimate in group],
        speed_limits(context, limits.concurrency, latency_seconds),
    )
    return Assessment(
        combined,
        total_open,
        work.rejections,
        partial(_limit_of, context),
        open_units=whole(work.open_units),
        reused=Reused(*(whole(sum(one)) for one in zip(*(each.reused for each in work.tallies), strict=True))),
    )


def speed_limits(context: RunContext, concurrency: int, latency_seconds: float | None) -> Limits:
    """What bounds the speed: the limits per minute of all endpoints together; none as soon as one has none.

    Nothing of ours bounds that of batches.
    """
    if goes_in_batches(context.workload.job.lane):
        return Limits(concurrency)
    each = [one.limits for one in context.workload.job.at_each_endpoint]
    requests = _together([one.requests_per_minute for one in each])
    return Limits(concurrency, requests, _together([one.tokens_per_minute for one in each]), latency_seconds)


def _together(limits: Sequence[int | None]) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def _latency_seconds(context: RunContext) -> float | None:
    """Of a request that was answered; None before the first."""
    totals = context.state.account.totals()
    return totals.latency_us / 1e6 / totals.done if totals.done else None


def _limit_of(context: RunContext, open_rows: int) -> int:
    """How many of the first rows, those of other shards too, have at most so many open ones of ours among them."""
    rows, workload = 0, context.workload
    table = workload.table if workload.shard is None else workload.shard.undivided
    is_ours = memoryview(workload.table.selected.cast(pa.uint8()).buffers()[1])
    for batch in table.rows(()):
        for row in batch:
            open_rows -= bool(is_ours[row.position]) and context.has_open(row)
            if open_rows < 0:
                return rows
            rows += 1
    return rows


def with_measured(assessment: Assessment, pilot: Mapping[str, Any] | None) -> Assessment:
    """Where no price is known, the cost to expect by what a pilot's balance has measured per row."""
    measured = None if pilot is None else pilot["measured"]
    if pilot is None or measured is None:
        return assessment
    unit, estimate = measured["unit"], assessment.estimate
    span: Span = getattr(estimate, f"cost_{unit}")
    if span.low is not None or span.expected is not None:
        return assessment
    expected = pico_of(Decimal(measured["per_row"])) * assessment.open_rows
    note = (
        f"measured: {measured['per_row']} {unit} per row, from the fall of the balance over a pilot of "
        f"{measured['rows']:,} rows"
    )
    changes = {f"cost_{unit}": Span(expected=expected), "notes": (*estimate.notes, note)}
    return structs.replace(assessment, estimate=structs.replace(estimate, **changes))


def _scaled(count: int, read: int, total: int) -> int:
    return count * total // read if read else 0
