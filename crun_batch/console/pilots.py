"""A pilot in words: what the whole run is going to cost and to take, and what the balance says of the price."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from crun_batch.console.amounts import UNKNOWN, count, credit_amount, duration, limited, usd
from crun_batch.console.packing import agreement_phrases

_MONEY: Mapping[str, Callable[[Decimal, str], str]] = {"cost_usd": usd, "cost_credits": credit_amount}


def pilot_lines(pilot: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(label, phrase) for each thing that a pilot told; `pilot` is that key of summary.json."""
    finished, total = count(pilot["rows_finished"]), count(pilot["rows_total"])
    lines = [("pilot", f"{finished} random rows of {total}; with 95 % certainty the whole run comes to")]
    for key, show in _MONEY.items():
        lines += [("bill", _amounts(pilot[key], show))] if pilot[key] is not None else []
    lines.append(("output", f"{_numbers(pilot['output_tokens'])} tokens"))
    seconds = pilot["seconds"]
    if seconds["expected"] is not None:
        lines.append(("time", f"{_durations(seconds)} more, {limited(seconds['limited_by'])}"))
    lines += [("packed", phrase) for phrase in agreement_phrases(pilot.get("packing"))]
    lines.append(("price", pilot["sentence"]))
    if pilot["measured"] is not None:
        measured = pilot["measured"]
        show = _MONEY[f"cost_{measured['unit']}"]
        lines.append(
            ("measured", f"{show(Decimal(measured['per_row']), ROUND_CEILING)} per row, from the balance")
        )
    return [*lines, *(("note", note) for note in pilot["notes"])]


def _amounts(span: Mapping[str, str | None], show: Callable[[Decimal, str], str]) -> str:
    def text(end: str, rounding: str) -> str:
        value = span[end]
        return UNKNOWN if value is None else show(Decimal(value), rounding)

    return (
        f"{text('low', ROUND_FLOOR)} to {text('high', ROUND_CEILING)}, expected {text('expected', ROUND_CEILING)}"
    )


def _numbers(span: Mapping[str, int | None]) -> str:
    low, high, expected = (
        UNKNOWN if value is None else count(value) for value in (span["low"], span["high"], span["expected"])
    )
    return f"{low} to {high}, expected {expected}"


def _durations(span: Mapping[str, Any]) -> str:
    if span["low"] is None or span["high"] is None:
        return duration(span["expected"])
    low, high = duration(span["low"]), duration(span["high"])
    return low if low == high else f"{low} to {high}"
