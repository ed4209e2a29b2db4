"""What a report says in sentences, on the page and in the terminal: the lead, warnings, exact amounts."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from crun_batch.console.amounts import (
    UNKNOWN,
    ShowMoney,
    bill_between,
    count,
    counted,
    credit_amount,
    duration,
    money,
    rate,
    shown_as,
)
from crun_batch.reporting.data import Amount, ReportData

HINTS = {
    "truncated": "The answer ended at the output limit: raise max_output_tokens, then run with --retry truncated.",
    "invalid": "The answer does not fit output_schema, also after its repairs; its text is kept in output_text.",
    "refused": "The model declined to answer.",
    "timeout": "No whole reply within attempt_timeout_seconds.",
    "connection": "The connection failed or broke.",
    "rate_limited": "The gateway asked to slow down until the attempts were used up: lower the limits.",
    "server": "The gateway failed (5xx): run with --retry server when it is well again.",
    "bad_request": "The gateway does not take the request as it is: see the message.",
    "too_long": "The prompt does not fit into the model's context.",
    "content_filter": "A filter of the gateway or of the provider stepped in.",
    "bad_reply": "The reply could not be read; its bytes are kept in attempts.",
    "not_found": "The gateway does not know what was asked for: model or address.",
    "unknown_outcome": "Sent, and no reply was recorded: it may have been billed.",
}
"""What a status or kind of error means and what can be done."""


def money_text(amount: Amount) -> str:
    """Rounded as people read it: $0.0625 (12.5 credits), unknown."""
    return money(amount.usd, amount.credits)


def _shown(data: ReportData) -> ShowMoney:
    return shown_as((line.cost.usd, line.cost.credits) for line in data.bill)


def sum_text(data: ReportData, amount: Amount) -> str:
    """An amount over all requests: dollars and credits of different ones stand beside each other."""
    return _shown(data)(amount.usd, amount.credits)


def exact_text(amount: Decimal | None) -> str:
    """Every digit: 1,234.000000000001; unknown."""
    if amount is None:
        return UNKNOWN
    text = f"{amount:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percentage(part: int, whole: int) -> str:
    """98.2 %; 0 % and 100 % only where it is none or all."""
    if not whole:
        return "-"
    value = 100 * part / whole
    if 0 < value < 0.05:
        return "< 0.1 %"
    if part < whole and value >= 99.95:
        return "> 99.9 %"
    return f"{value:.1f}".removesuffix(".0") + " %"


def units_of(amounts: Sequence[Amount]) -> tuple[str, ...]:
    """The units in which any of the amounts is known: usd, credits."""
    return tuple(
        unit for unit in ("usd", "credits") if any(getattr(amount, unit) is not None for amount in amounts)
    )


def rows_sentence(data: ReportData) -> str:
    """All 1,319 rows are ok. / 1,297 of 1,319 rows are ok (98.3 %): 12 truncated, 10 error."""
    still_open, noun = data.units_total - data.finished, data.noun
    if not data.finished:
        return f"No {noun} has finished yet; {counted(data.units_total, noun)} to do."
    if data.ok == data.units_total:
        return f"The only {noun} is ok." if data.ok == 1 else f"All {count(data.ok)} {noun}s are ok."
    parts = [(number, status) for status, number in data.by_status.items() if status != "ok"]
    others = ", ".join(
        f"{count(number)} {name}" for number, name in [*parts, (still_open, "still open")] if number
    )
    of_all = f"{count(data.ok)} of {counted(data.units_total, noun)}"
    return f"{of_all} {'is' if data.ok == 1 else 'are'} ok ({percentage(data.ok, data.units_total)}); {others}."


def cost_sentence(data: ReportData) -> str:
    """It cost $1.17: $0.0009 a row. / What it cost is unknown."""
    if not data.requests:
        return "Nothing has come back yet." if data.out else "Nothing was sent."
    if not data.cost.is_known and not data.uncertain:
        return "Nothing was billed: no request was answered."
    if not data.cost.is_known:
        return "What it cost is unknown."
    known = "It cost at least" if data.uncertain else "It cost"
    each = sum_text(data, data.cost.per(data.finished))
    return f"{known} {sum_text(data, data.cost)}" + (f": {each} a {data.noun}." if data.finished else ".")


def reused_sentence(data: ReportData) -> str:
    """40 answers of earlier runs, which had cost $0.2, were taken over; "" where none was."""
    return f"Taken over: {data.reused}." if data.reused else ""


def cache_sentence(data: ReportData) -> str:
    """46 % of the input was read from the provider's cache, which saved $0.12; "" where nothing was cached."""
    cache = data.cache
    if cache is None:
        return ""
    read = f"{percentage(cache.cached_tokens, cache.input_tokens)} of the input was read from the provider's cache"
    written = (
        f", {percentage(cache.written_tokens, cache.input_tokens)} was written to it"
        if cache.written_tokens
        else ""
    )
    known = [amount for amount in (cache.saved.usd, cache.saved.credits) if amount is not None]
    if not known:
        return f"{read}{written}."
    amount = money_text(
        Amount(*(None if one is None else abs(one) for one in (cache.saved.usd, cache.saved.credits)))
    )
    return f"{read}{written}, which {f'saved {amount}' if known[0] > 0 else f'cost {amount} more than it saved'}."


def time_sentence(data: ReportData) -> str:
    """It took 1.6 s (841 rows/s)."""
    if not data.seconds:
        return ""
    return f"It took {duration(data.seconds)} ({rate(data.finished / data.seconds, data.noun)})."


def bill_bounds(data: ReportData) -> str | None:
    """Between $1.17 and $1.20; None where all is known, and where no unit is bounded."""
    if not data.uncertain:
        return None
    bounds = {unit: _bounds(data, unit) for unit in ("usd", "credits")}
    lows = {unit: None if bound is None else bound[0] for unit, bound in bounds.items()}
    highs = {unit: None if bound is None else bound[1] for unit, bound in bounds.items()}
    if not Amount(**highs).is_known:
        return None
    return bill_between((lows["usd"], lows["credits"]), (highs["usd"], highs["credits"]), _shown(data))


def _bounds(data: ReportData, unit: str) -> tuple[Decimal, Decimal] | None:
    cost, held = getattr(data.cost, unit), getattr(data.held, unit)
    if any(getattr(line, f"unbounded_{unit}") for line in data.bill) or (cost is None and held is None):
        return None
    low = cost or Decimal(0)
    return low, low + (held or Decimal(0))


def warnings(data: ReportData) -> list[tuple[str, str]]:
    """(severity, sentence): what somebody must know before believing the figures. Severity: bad, or nothing."""
    found = []
    if data.stop_reason:
        found.append(
            ("bad" if data.status != "running" else "", f"{data.status.capitalize()}: {data.stop_reason}")
        )
    doubts = []
    if data.unknown:
        doubts.append(f"{counted(data.unknown, 'request')} may have been billed without a recorded answer")
    if data.unpriced:
        doubts.append(f"the cost of {counted(data.unpriced, 'answered request')} is unknown")
    if doubts:
        bounds = bill_bounds(data)
        bill = f"the bill is {bounds}" if bounds else "nothing bounds the bill"
        sentence = f"{' and '.join(doubts)}: {bill}."
        found.append(("", sentence[0].upper() + sentence[1:]))
    if data.out:
        found.append(("", f"{data.out}: none of it is in the cost yet."))
    still_open = data.units_total - data.finished
    if data.resume_command and still_open:
        found.append(("", f"{counted(still_open, data.noun)} still open. Resume with: {data.resume_command}"))
    return found


def held_text(data: ReportData, amount: Amount) -> str:
    """What may have been spent at most, rounded up."""
    if not amount.is_known:
        return UNKNOWN
    return _shown(data)(amount.usd, amount.credits, ROUND_CEILING)


def unit_title(unit: str, words: str) -> str:
    """Cost in $ / cost in credits."""
    return f"{words}, {'$' if unit == 'usd' else 'credits'}"


def short_amount(unit: str, value: float) -> str:
    """An amount at a tick of an axis."""
    decimal = Decimal(f"{value:.6g}")
    return (
        f"${decimal:,f}"
        if unit == "usd"
        else credit_amount(decimal).removesuffix(" credits").removesuffix(" credit")
    )
