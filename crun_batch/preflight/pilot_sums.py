"""What the rows of a pilot did: sums over their attempts, row by row, read from the run."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from msgspec import Struct, structs

from crun_batch.load.table.arrays import array_of
from crun_batch.pricing.pilot import Forecast, forecast
from crun_batch.records import Row, known_pico
from crun_batch.state.run_state import RunState
from crun_batch.stats.intervals import t_quantile
from crun_batch.store.schema import quoted
from crun_batch.store.views import connect

MICROSECONDS = 10**6
_WEIGHT = "10 * coalesce(input_tokens, 0) - 9 * coalesce(cached_input_tokens, 0) + 60 * coalesce(output_tokens, 0)"


class PilotRowSums(Struct, frozen=True):
    """What the attempts of one finished row did together; amounts in pico, None: not known of all of them."""

    output_tokens: int
    tokens: int
    latency_us: int
    cost_usd: int | None
    cost_credits: int | None
    weight: int = 0
    """Tokens, weighed as price lists do: cached input a tenth of input, output six times as much."""
    compared_weight: int = 0
    """Of what was asked only to compare a packed answer with another, which is not in the other sums."""


def row_sums(state: RunState, rows: Sequence[Row]) -> list[PilotRowSums]:
    """What the finished rows did, in no order. Of attempts of unknown outcome what is known counts: no cost.

    What a pilot asks only to compare packed answers with others is not in it: the rest of the run does not ask it.
    """
    if not rows:
        return []
    row_id, told = quoted(state.schema.id_name), "filter (purpose <> 'alone')"
    tokens = "coalesce(input_tokens, 0) + coalesce(output_tokens, 0)"
    with connect(state.directory.path) as connection:
        ids = array_of([str(row.row_id) for row in rows], pa.string())
        connection.register("pilot_rows", pa.table([ids], names=["id"]))
        found = connection.execute(f"""
            select coalesce(sum(output_tokens) {told}, 0)::bigint,
                coalesce(sum({tokens}) {told}, 0)::bigint,
                (coalesce(sum(latency_seconds) {told}, 0) * {MICROSECONDS})::bigint,
                case when count(*) filter (purpose <> 'alone' and outcome = 'done' and cost_usd is null) = 0
                    then coalesce(sum(cost_usd) {told}, 0) end,
                case when count(*) filter (purpose <> 'alone' and outcome = 'done' and cost_credits is null) = 0
                    then coalesce(sum(cost_credits) {told}, 0) end,
                coalesce(sum({_WEIGHT}) {told}, 0)::bigint,
                coalesce(sum({_WEIGHT}) filter (purpose = 'alone'), 0)::bigint
            from pilot_rows left join attempts on attempts.{row_id}::varchar = pilot_rows.id
            group by pilot_rows.id
        """).fetchall()
    return [
        PilotRowSums(output_tokens, whole, latency_us, known_pico(cost_usd), known_pico(cost_credits), *weights)
        for output_tokens, whole, latency_us, cost_usd, cost_credits, *weights in found
    ]


class OpenUnits(Struct, frozen=True):
    """How many units are still to be sent, of a job whose rows have so many each."""

    units: int
    per_row: int

    @property
    def rows(self) -> int:
        """As whole rows, rounded up."""
        return -(-self.units // self.per_row)


def forecast_of(values: Sequence[int], still_open: OpenUnits) -> Forecast:
    """The sum over the known rows and all open units, by the project's one t quantile: exact from two rows on.

    Rows of which something is done already add only the share of a row that is open: as whole rows they would
    be counted twice.
    """
    found = forecast(values, len(values) + still_open.rows, t_quantile)
    known, units, whole = found.known, still_open.units, still_open.rows * still_open.per_row
    if units == whole:
        return found

    def part(end: int | None, up: int = 0) -> int | None:
        return None if end is None else known + ((end - known) * units + up) // whole

    ends = {"low": part(found.low), "expected": part(found.expected), "high": part(found.high, whole - 1)}
    return structs.replace(found, **ends)


def run_sums(state: RunState) -> PilotRowSums:
    """The same sums over all attempts of the run; a cost is None where none is known."""
    totals = state.account.totals()
    return PilotRowSums(
        output_tokens=totals.output_tokens,
        tokens=totals.input_tokens + totals.output_tokens,
        latency_us=totals.latency_us,
        cost_usd=totals.cost_usd if totals.priced_usd else None,
        cost_credits=totals.cost_credits if totals.priced_credits else None,
    )
