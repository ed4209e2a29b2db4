"""What the units still to be sent will cost: rows rendered, counted and priced, for an estimate.

Owns which rows are read for it and how they are told apart by variant, model and turn. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
from msgspec import Struct, structs

from crun_batch.load.prompt.rejections import Rejections, RowRejected
from crun_batch.preflight.finished import finished_requests
from crun_batch.preflight.judge_costs import JudgeTally
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.estimate import SAMPLE_ABOVE_ROWS, SAMPLE_ROWS, Finished, Limits, Tally, Terms, combine
from crun_batch.pricing.figures import Estimate, Span
from crun_batch.pricing.tokens import Counter, count_body, remembering, token_counter
from crun_batch.records import Row, Unit, decimal_text, pico_of
from crun_batch.scoring.docket import Backlog
from crun_batch.scoring.questions import Questions
from crun_batch.state.run_state import RunContext
from crun_batch.workload.request import Request, Variant

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
    workload, done, repeats = context.workload, context.state.done, range(context.workload.repeats)
    judges = _Judges(context, prices)
    tallies = [_Tallies(variant, prices, context) for variant in workload.variants if variant.name not in left_out]
    is_new = done.open_slots() == workload.unit_slots
    rejections = Rejections()
    read_rows = open_rows = open_units = 0
    for batch in reading.batches:
        for row in batch:
            read_rows += 1
            units_before = open_units
            for tallied in tallies:
                to_ask = repeats if is_new else _open_repeats(context, row, tallied.index)
                if to_ask:
                    open_units += len(to_ask)
                    tallied.add(row, to_ask, rejections)
                    judges.add(row, tallied.variant, len(to_ask))
            is_open = open_units > units_before
            open_rows += is_open
            judges.row(is_open=is_open)
        context.options.tick(read_rows)
        if rejections.rows >= REJECTIONS_SHOWN:
            break
    whole = partial(_scaled, read=read_rows, total=read_rows if reading.stands_for is None else reading.stands_for)
    total_open = whole(open_rows)
    limits = workload.job.limits
    finished, judged = finished_requests(context, prices)
    estimates = [t.estimate(whole, finished) for t in tallies]
    estimates += judges.estimates(max(total_open, open_rows), waiting, judged)
    latency_seconds = _latency_seconds(context)
    combined = combine(
        [estimate for group in estimates for estimate in group],
        speed_limits(context, limits.concurrency, latency_seconds),
    )
    return Assessment(
        combined,
        total_open,
        rejections,
        partial(_limit_of, context),
        open_units=whole(open_units),
        reused=Reused(*(whole(sum(one)) for one in zip(*(tallied.reused for tallied in tallies), strict=True))),
    )


def speed_limits(context: RunContext, concurrency: int, latency_seconds: float | None) -> Limits:
    """What bounds the speed: the limits per minute of all endpoints together; none as soon as one has none."""
    each = [one.limits for one in context.workload.job.at_each_endpoint]
    requests = _together([one.requests_per_minute for one in each])
    return Limits(concurrency, requests, _together([one.tokens_per_minute for one in each]), latency_seconds)


def _together(limits: Sequence[int | None]) -> int | None:
    known = [limit for limit in limits if limit is not None]
    return sum(known) if len(known) == len(limits) else None


def _open_repeats(context: RunContext, row: Row, variant: int) -> Sequence[int]:
    workload, done = context.workload, context.state.done
    return [
        repeat
        for repeat in range(workload.repeats)
        if done.is_open(workload.slots.of(row.position, variant, repeat))
    ]


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


class _Judges:
    """The tallies of all judges; nothing where there are none."""

    def __init__(self, context: RunContext, prices: Prices) -> None:
        workload = context.workload
        self._questions = Questions(workload)
        self._tallies = [JudgeTally(judge, workload, prices) for judge in workload.judges]

    def add(self, row: Row, variant: Variant, repeats: int) -> None:
        for tally in self._tallies:
            tally.add(self._questions, row, variant, repeats)

    def row(self, *, is_open: bool) -> None:
        for tally in self._tallies if is_open else ():
            tally.row()

    def estimates(self, rows: int, waiting: Backlog, finished: Mapping[str, Finished]) -> list[list[Any]]:
        return [tally.estimates(rows, waiting, finished) for tally in self._tallies]


def _scaled(count: int, read: int, total: int) -> int:
    return count * total // read if read else 0


class _Tallies:
    """One variant's tallies, for each model that its requests name, each turn, with and without cache writes."""

    def __init__(self, variant: Variant, prices: Prices, context: RunContext) -> None:
        self.index = variant.index
        self.variant = variant
        self._prices = prices
        self._job = context.workload.job
        self._taken_over = context.taken_over
        self.reused = [0, 0, 0, 0]
        """As the fields of Reused."""
        self._tallies: dict[tuple[str | None, int, bool, str | None], tuple[Tally, Counter]] = {}

    def add(self, row: Row, repeats: Sequence[int], rejections: Rejections) -> None:
        try:
            request = self.variant.request(row)
            later = self.variant.later_bodies(row) if request.whole_hash is not None else ()
        except RowRejected as error:
            rejections.add(error)
            return
        unit_hash = request.unit_hash
        to_send = len(repeats) if self._job.reuse is None else self._not_taken_over(row, repeats, unit_hash)
        if not to_send:
            return
        for turn, body in enumerate((request.body, *later)):
            key = request.model, turn, self.variant.may_write_cache(body), request.service_tier
            known = self._tallies.get(key)
            if known is None:
                known = self._tallies[key] = self._tally(request, *key[1:3])
            tally, counter = known
            counted = count_body(body, counter)
            tally.row()
            bound_tokens = request.input_bound_tokens if turn == 0 else None  # no answer is there yet
            tally.add(counted.tokens, unit_hash, counted.uncounted_parts, to_send, bound_tokens)

    def _not_taken_over(self, row: Row, repeats: Sequence[int], unit_hash: str) -> int:
        """How many of these repeats must be sent; those that an earlier run answered are counted."""
        to_send = 0
        for repeat in repeats:
            unit = Unit(row.position, row.row_id, self.index, repeat)
            taken = self._taken_over(unit, self.variant.name, unit_hash)
            if taken is None:
                to_send += 1
                continue
            told = (1, taken.has_known_saving, taken.saved_usd or 0, taken.saved_credits or 0)
            self.reused = [so_far + one for so_far, one in zip(self.reused, told, strict=True)]
        return to_send

    def _tally(self, request: Request, turn: int, may_write_cache: bool) -> tuple[Tally, Counter]:
        model = request.model
        counter = remembering(token_counter(model or ""))
        choice, *others = self._prices.choices(model, request.service_tier)
        terms = Terms(
            name=self.variant.name if turn == 0 else f"{self.variant.name}, turn {turn + 1}",
            model=model or "",
            price=choice.price,
            price_reason=choice.reason,
            max_output_tokens=request.output_bound_tokens,
            may_write_cache=may_write_cache,
            earlier_answers=turn,
            shares_identical=self._job.share_identical,
            counter_name=counter.name,
            counter_exact=counter.exact,
            credits_per_usd=self._job.prices.credits_per_usd,
            other_prices=tuple(other.price for other in others),
            service_tier=request.service_tier,
            reserved_at_once=self._job.lane == "batch",
        )
        return Tally(terms), counter

    def estimate(self, whole: Callable[[int], int], finished: Mapping[str, Finished]) -> list[Any]:
        """`whole`: rows that were read -> the rows that they stand for; only those open in this variant count."""
        return [
            tally.estimate(whole(tally.rows_read), finished.get(self.variant.name))
            for tally, _ in self._tallies.values()
        ]
