"""An estimate in words, from its plain document (the same that --json prints)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from crun_batch.tell.amounts import UNKNOWN, count, credit_amount, duration, usd
from crun_batch.tell.words import table

MONEY = {"cost_usd": ("dollars", usd), "cost_credits": ("credits", credit_amount)}
ENDS = ("low", "expected", "high")


def estimate_text(estimate: Mapping[str, Any], width: int | None = None) -> str:
    """Rows, tokens, cost low / expected / high, balance, time, and what to note."""
    lines = [
        f"{estimate['name']}: {count(estimate['open_rows'])} rows, {count(estimate['requests'])} requests to send"
    ]
    lines.append(
        table(
            ("variant", "model", "requests", "input tokens", "output tokens", "cost"), _rows(estimate), width=width
        )
    )
    lines += [
        f"cost in {name}: {_span(estimate[key], show)}"
        for key, (name, show) in MONEY.items()
        if _known(estimate[key])
    ]
    lines += _minimum_lines(estimate)
    balance = estimate.get("balance")
    if balance is not None:
        lines.append(f"balance: {balance['amount'] or 'unlimited'} {balance['unit']}")
    needed = estimate["time"]["expected"] if estimate["time"]["expected"]["seconds"] else estimate["time"]["low"]
    if needed["seconds"]:
        lines.append(f"time: at least {duration(needed['seconds'])}, limited by {needed['limited_by']}")
    notes = [note for variant in estimate["variants"] for note in variant["notes"]]
    lines += [f"note: {note}" for note in dict.fromkeys([*estimate["notes"], *notes, *estimate["checks"]])]
    return "\n".join(lines)


def _rows(estimate: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            variant["name"],
            variant["model"],
            count(variant["requests"]),
            ("" if variant["counter_exact"] else "~") + count(variant["input_tokens"]),
            _range(variant["output_tokens"]),
            _cost(variant),
        )
        for variant in estimate["variants"]
    ]


def _range(span: Mapping[str, int | None]) -> str:
    known = [count(value) for value in (span[end] for end in ENDS) if value is not None]
    return (
        " to ".join(dict.fromkeys(known))
        if span["high"] is not None
        else f"{known[0]} or more"
        if known
        else UNKNOWN
    )


def _cost(variant: Mapping[str, Any]) -> str:
    spans = [(variant[key], show) for key, (_, show) in MONEY.items() if _known(variant[key])]
    return ", ".join(_span(span, show) for span, show in spans) or UNKNOWN


def _known(span: Mapping[str, str | None]) -> bool:
    return any(span[end] is not None for end in ENDS)


def _span(span: Mapping[str, str | None], show: Any) -> str:
    def text(end: str) -> str:
        value = span[end]
        return UNKNOWN if value is None else show(Decimal(value))

    middle = f", expected {text('expected')}" if span["expected"] is not None else ""
    return f"{text('low')} to {text('high')}{middle}"


def _minimum_lines(estimate: Mapping[str, Any]) -> list[str]:
    lines = []
    for variant in estimate["variants"]:
        minimum = variant["minimum_charge"]
        if minimum is not None:
            adds = minimum["adds_beyond_tokens"]
            most = f" to {adds['high']}" if adds["high"] is not None else ""
            lines.append(
                f"of it, the minimum of {minimum['minimum_per_request']} {minimum['currency']} per request adds "
                f"{adds['low']}{most} {minimum['currency']} beyond tokens ({variant['name']})"
            )
    return lines
