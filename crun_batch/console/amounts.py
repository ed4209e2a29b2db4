"""Amounts as people read them: money, counts, durations, rates.

Owns the number of digits. Money stays integer or decimal to the last step, and what is not known is said to be
unknown, never shown as 0. Must not know runs or terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal

UNKNOWN = "unknown"
SIGNIFICANT_DIGITS = 4
"""Of an amount below 1; from 1 on there are two decimals."""

_EXACT = Context(prec=60)
_PICO = Decimal(1).scaleb(-12)


def from_pico(pico: int | None) -> Decimal | None:
    """Integer pico-units as an exact decimal; None stays None."""
    return None if pico is None else _EXACT.multiply(Decimal(pico), _PICO)


def usd(amount: Decimal | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """Dollars: $1,234.57, $0.10, $0.004213, unknown."""
    if amount is None:
        return UNKNOWN
    return f"{'-' if amount < 0 else ''}${_digits(abs(amount), 2, rounding)}"


def credit_amount(amount: Decimal | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """Credits: 12.5 credits, 1 credit, 0.01 credits, unknown."""
    if amount is None:
        return UNKNOWN
    digits = _digits(amount, 0, rounding)
    return f"{digits} {'credit' if digits == '1' else 'credits'}"


def money(dollars: Decimal | None, credits: Decimal | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """An amount in the units in which it is known: $0.0625 (12.5 credits), 12.5 credits, unknown.

    Nothing is nothing in every unit: $0.00, also where no price has to do with credits.
    """
    if dollars is None:
        return credit_amount(credits, rounding)
    if credits is None or dollars == credits == 0:
        return usd(dollars, rounding)
    return f"{usd(dollars, rounding)} ({credit_amount(credits, rounding)})"


def apart_money(dollars: Decimal | None, credits: Decimal | None, rounding: str = ROUND_HALF_EVEN) -> str:
    """What was paid in dollars, and what was paid in credits besides: $0.0625 and 12.5 credits.

    Of some requests only the one is known, of others only the other: it is not one amount in two units.
    """
    if dollars and credits:
        return f"{usd(dollars, rounding)} and {credit_amount(credits, rounding)}"
    return money(dollars or None, credits or None, rounding) if dollars or credits else money(dollars, credits)


def shown_as(parts: Iterable[tuple[object | None, object | None]]) -> ShowMoney:
    """How a sum is told of which these are parts, each in dollars and in credits; None: unknown in that unit."""
    is_apart = any((usd is None) != (credits is None) for usd, credits in parts)
    return apart_money if is_apart else money


Ends = tuple[Decimal | None, Decimal | None]
ShowMoney = Callable[..., str]


def bill_between(low: Ends, high: Ends, show: ShowMoney = money) -> str:
    """What a bill lies between, each end as (dollars, credits): between $4.99 and $5.00.

    The low end is rounded as the known cost is wherever else it is shown, so that they never contradict each
    other; the high end up.
    """
    return f"between {show(*low)} and {show(*high, ROUND_CEILING)}"


def _digits(amount: Decimal, least_decimals: int, rounding: str) -> str:
    """Two decimals from 1 on, below it `SIGNIFICANT_DIGITS`, without zeros at the end past `least_decimals`."""
    small = amount != 0 and amount.adjusted() < 0
    decimals = SIGNIFICANT_DIGITS - 1 - amount.adjusted() if small else 2
    rounded = amount.quantize(Decimal(1).scaleb(-decimals), rounding, _EXACT)
    whole, _, fraction = f"{rounded:,f}".partition(".")
    fraction = fraction.rstrip("0").ljust(least_decimals, "0")
    return f"{whole}.{fraction}" if fraction else whole


def count(number: int) -> str:
    """1,319."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """1 row, 1,319 rows; 1 batch, 2 batches."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def noun_of(units_per_row: int) -> str:
    """What is sent and finished one by one: a row; a unit, where a row has several (its variants and repeats)."""
    return "row" if units_per_row == 1 else "unit"


def share(part: int, whole: int) -> str:
    """Percent, rounded down: 100 % is said only where nothing is missing. 26.3 %."""
    thousandths = 1000 if whole == 0 else part * 1000 // whole
    return f"{thousandths // 10} %" if thousandths % 10 == 0 else f"{thousandths // 10}.{thousandths % 10} %"


_PAIRS_OF_UNITS = (
    (3_599.5, 1, "s", 60, "min"),
    (86_370.0, 60, "min", 60, "h"),
    (float("inf"), 3_600, "h", 24, "d"),
)
"""Below how many seconds; the smaller unit, its seconds and name; how many of it make the larger, its name."""


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h: the two largest units, from 10 s on in whole ones."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    _, size, small, per_large, large = next(pair for pair in _PAIRS_OF_UNITS if seconds < pair[0])
    high, low = divmod(round(seconds / size), per_large)
    parts = [f"{high} {large}" if high else "", f"{low} {small}" if low else ""]
    return " ".join(part for part in parts if part)


def limited(by: str) -> str:
    """What sets the pace: limited by concurrency, or not limited."""
    return by if by == "not limited" else f"limited by {by}"


def rate(per_second: float, noun: str = "row") -> str:
    """12,100 rows/s, 85.2 rows/s, 0.04 units/s."""
    decimals = 0 if per_second >= 100 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{decimals}f} {noun}s/s"
