"""A pilot: some random rows for real, then the bill to expect from what they did, and the price from the balance.

Owns which rows those are, how a balance is read until it stands still, and what is told in the end. The rows are
those with the smallest hashes of their ids: a larger pilot has all rows of a smaller one and sends only the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from crun_batch.errors import EXIT_REFUSED_TO_START, RefusedToStart
from crun_batch.gateway.control import Balance
from crun_batch.options import Platform
from crun_batch.preflight.assessment import RowsRead, columns_read
from crun_batch.preflight.balance import ReadBalance, balance_reader
from crun_batch.preflight.gateway_facts import GatewayFacts
from crun_batch.preflight.pilot_outlook import outlook
from crun_batch.preflight.pilot_sums import OpenUnits, PilotRowSums, forecast_of, row_sums, run_sums
from crun_batch.pricing.account import Sums
from crun_batch.pricing.pilot import Agreement, Forecast, Measured, measure, measured_versus_priced
from crun_batch.records import Halt, Row, decimal_text
from crun_batch.state.run_state import RunContext, RunState

PILOT_SEED = 0


class Pilot(Struct):
    """A pilot that is under way: its rows, and how things stood when it began."""

    rows: list[Row]
    open_rows: int
    """Of them those that are still to be sent."""
    before: Balance | None
    spent: Sums
    """The account's totals before the first request."""
    former: Mapping[str, Any] | None
    """What the run's last pilot told."""

    @property
    def reading(self) -> RowsRead:
        """The rows, to be estimated."""
        return RowsRead([self.rows])

    def batches(self) -> Iterator[list[Row]]:
        """The rows, as a table gives them."""
        return iter([self.rows])


async def begin_pilot(context: RunContext, gateways: Sequence[GatewayFacts]) -> Pilot | None:
    """Choose the rows and read the balance before the first of them is sent; None where no pilot is asked for."""
    workload, options, state = context.workload, context.options, context.state
    if options.pilot is None:
        return None
    rows = workload.table.random_rows(options.pilot, PILOT_SEED, columns_read(context))
    open_rows = sum(context.has_open(row) for row in rows)
    before, read = None, balance_reader(gateways, options.platform)
    if read is not None and open_rows:
        before = await standing_balance(read, options.platform, is_enough=lambda _: True)
    return Pilot(rows, open_rows, before, state.account.totals(), state.pilot)


async def conclude_pilot(
    context: RunContext, gateways: Sequence[GatewayFacts], pilot: Pilot, halt: Halt | None
) -> Halt | None:
    """Record what the pilot told; a halt where the balance contradicts the price. A stopped one waits no more."""
    state, platform = context.state, context.options.platform
    if halt is not None:
        platform = structs.replace(platform, balance_reads=1)
    state.pilot = await pilot_document(context, pilot, balance_reader(gateways, platform), platform)
    return halt_of(state.pilot) or halt


async def pilot_document(
    context: RunContext, pilot: Pilot, read: ReadBalance | None, platform: Platform
) -> dict[str, Any]:
    """Read the balance again, and tell what the pilot told, for summary.json.

    Sums are over the whole run: known, expected, and the ends of a 95 % interval.
    """
    workload, state = context.workload, context.state
    finished = [row for row in pilot.rows if not context.has_open(row)]
    sent = Sent(pilot.open_rows - len(pilot.rows) + len(finished), state.account.totals())
    weighed = await _weighed(pilot, sent, read, platform)
    sums = row_sums(state, finished)
    still_open = OpenUnits(context.open_units, len(workload.variants) * workload.repeats)
    totals = run_sums(state)
    output_tokens = forecast_of([row.output_tokens for row in sums], still_open)
    return {
        "rows": len(pilot.rows),
        "rows_finished": len(finished),
        "rows_sent": pilot.open_rows,
        "rows_total": workload.table.selected_rows,
        "seed": PILOT_SEED,
        "output_tokens": _whole(output_tokens, totals.output_tokens),
        "cost_usd": _cost([row.cost_usd for row in sums], still_open, totals.cost_usd),
        "cost_credits": _cost([row.cost_credits for row in sums], still_open, totals.cost_credits),
        "notes": _notes(state.account.totals().unknown),
        **outlook(context, sums, still_open, PILOT_SEED),
        **_told_of_price(pilot, weighed, state, sums),
    }


def refuse_wrong_price(former: Mapping[str, Any] | None, prices: Mapping[str, Any]) -> None:
    """After a pilot whose bill was another one than the price said, nothing is sent under that price."""
    if former is not None and former["verdict"] == "differ" and former["prices"] == prices:
        raise RefusedToStart(
            f"the last pilot: {former['sentence']}",
            advice="Correct prices in the job file, or measure again with a larger --pilot.",
        )


async def standing_balance(
    read: ReadBalance, platform: Platform, *, is_enough: Callable[[Balance | None], bool]
) -> Balance | None:
    """The balance, read until it stands still and may be true, at most `balance_reads` times: it lags behind use.

    None where a call fails.
    """
    last = await read()
    for _ in range(platform.balance_reads - 1):
        await asyncio.sleep(platform.balance_pause_seconds)
        balance = await read()
        if balance is None or (balance == last and is_enough(balance)):
            return balance
        last = balance
    return last


class Sent(Struct, frozen=True):
    """What a pilot has done so far: rows of its own that are finished, and the account's totals."""

    rows: int
    totals: Sums


class Weighed(Struct, frozen=True):
    """The balance after a pilot, what its fall measures, and whether the price agrees."""

    after: Balance | None
    measured: Measured | None
    agreement: Agreement


async def _weighed(pilot: Pilot, sent: Sent, read: ReadBalance | None, platform: Platform) -> Weighed:
    """Read the balance until it agrees with the price or is past waiting for."""
    before = pilot.before
    if read is None or before is None or not pilot.open_rows:
        return Weighed(None, None, measured_versus_priced(None, None))

    def is_enough(after: Balance | None) -> bool:
        weighed = _compared(pilot, before, after, sent)
        fell = weighed.measured is not None and weighed.measured.fall_pico > 0
        return fell and weighed.agreement.verdict != "differ"

    return _compared(pilot, before, await standing_balance(read, platform, is_enough=is_enough), sent)


def _compared(pilot: Pilot, before: Balance, after: Balance | None, sent: Sent) -> Weighed:
    if after is None or after.amount is None or before.amount is None:
        return Weighed(after, None, measured_versus_priced(None, None))
    measured = measure(before.amount, after.amount, sent.rows)
    unit = before.unit
    cost, held, unpriced = (
        getattr(sent.totals, name) - getattr(pilot.spent, name)
        for name in (f"cost_{unit}", f"held_{unit}", f"unbounded_{unit}")
    )
    priced = None if unpriced else cost
    return Weighed(after, measured, measured_versus_priced(measured, priced, held, unit))


def halt_of(document: Mapping[str, Any]) -> Halt | None:
    """A price that the balance contradicts ends the run before it costs more."""
    if document["verdict"] != "differ":
        return None
    return Halt(EXIT_REFUSED_TO_START, document["sentence"])


def _told_of_price(
    pilot: Pilot, weighed: Weighed, state: RunState, sums: Sequence[PilotRowSums]
) -> dict[str, Any]:
    """What the balance measured, under which prices. A pilot that sent nothing leaves what the last one told.

    `per_row` is of a row as the rest of the run asks it: without what was asked to compare packed answers with
    others, which a balance does not tell apart and which is taken off by the weight of its tokens.
    """
    if not pilot.open_rows and pilot.former is not None:
        return {key: pilot.former[key] for key in ("measured", "verdict", "sentence", "prices")}
    measured, before, after = weighed.measured, pilot.before, weighed.after
    told_weight = sum(row.weight for row in sums) or 1
    all_weight = told_weight + sum(row.compared_weight for row in sums)
    told = None
    if measured is not None and before is not None and after is not None:
        told = {
            "unit": before.unit,
            "rows": measured.rows,
            "balance_before": str(before.amount),
            "balance_after": str(after.amount),
            "fall": decimal_text(measured.fall_pico),
            "uncertainty": decimal_text(measured.uncertainty_pico),
            "per_row": decimal_text(measured.credits_per_row_pico * told_weight // all_weight),
        }
    return {
        "measured": told,
        "verdict": weighed.agreement.verdict,
        "sentence": weighed.agreement.sentence,
        "prices": state.prices,
    }


def _notes(unknown: int) -> list[str]:
    if not unknown:
        return []
    return [f"{unknown:,} attempts of unknown outcome are not in it: they may have cost something, or nothing"]


def _whole(found: Forecast, everywhere: int) -> dict[str, int | None]:
    """The forecast with what other finished rows did on top."""
    others = everywhere - found.known
    ends = {"expected": found.expected, "low": found.low, "high": found.high}
    return {"known": everywhere, **{name: None if end is None else end + others for name, end in ends.items()}}


def _cost(values: Sequence[int | None], still_open: OpenUnits, everywhere: int | None) -> dict[str, Any] | None:
    known = [value for value in values if value is not None]
    if everywhere is None or not known or len(known) < len(values):
        return None
    ends = _whole(forecast_of(known, still_open), everywhere)
    return {name: None if pico is None else decimal_text(pico) for name, pico in ends.items()}
