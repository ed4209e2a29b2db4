"""From N random rows to the bill of all of them, with an interval; and what the balance says about the price.

Owns: the statistics of a pilot. Must not know: how the rows were drawn and sent, files, the clock.

The interval. Output lengths are skewed to the right: a few long answers are much of the bill, and a sample that
missed them has too low a mean and too small a spread at once. Of 100 true bills the plain t interval then covers
88, the percentile bootstrap 89, BCa 90, the studentised bootstrap 92 (lognormal, sigma 1.5, N = 200:
tests/measurements/pilot_interval.py); Cox's interval holds only while costs are lognormal to the last cent. Used
here: Hall's cubic transformation of the studentised total (P. Hall, "On the removal of skewness by
transformation", J. R. Statist. Soc. B 54, 1992), its coefficients extended to sampling without replacement. It
covers 92 at its nominal level; at the levels 1.5 % below and 1 % above it covers 95 in the worst case measured and
97 in tame ones.
No resampling: the same rows give the same interval. Statistics are in floats, as an interval is no amount of
money: the rows' own costs are added as integers and the ends are rounded outwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

from msgspec import Struct, structs

from crun_batch.records import PICO

LEVELS = (0.015, 0.010)
"""How often the bill may lie below and above the interval, before skewness takes its part."""
TOLERANCE = Decimal("0.5")
"""Measured and priced credits that differ by more than half of the priced ones: one of them is wrong."""

Quantile = Callable[[float, int], float]
"""Student's t: of a probability above 0.5 and the degrees of freedom. Given, as the project has one of it."""

Verdict = Literal["agree", "differ", "too_coarse", "not_measured"]


class Forecast(Struct, frozen=True):
    """The sum over all rows of some quantity: known for the pilot's rows, expected for the rest.

    `low` and `high` are a 95 % interval; None where fewer than two rows are known. Same unit as the input.
    """

    rows_known: int
    rows_total: int
    known: int
    expected: int | None
    low: int | None
    high: int | None

    def to_dict(self) -> dict[str, int | None]:
        return structs.asdict(self)


class Measured(Struct, frozen=True):
    """What the fall of the balance says: credits per row, and how far off its rounding may put that."""

    rows: int
    fall_pico: int
    uncertainty_pico: int
    """Of the fall: both readings are rounded to the last place that either of them shows."""
    credits_per_row_pico: int


class Agreement(Struct, frozen=True):
    """Whether the measured fall and the priced sum tell the same; `differ` refuses to go on (exit 3)."""

    verdict: Verdict
    sentence: str


def forecast(
    values: Sequence[int], rows_total: int, quantile: Quantile, *, highest_per_row: int | None = None
) -> Forecast:
    """Sum over `rows_total` rows of a quantity known for `len(values)` rows drawn at random from them.

    `values` are per row, over all its variants and repeats: pico for money, tokens as they are; none is
    negative. `highest_per_row` caps the upper end where a hard bound is known (a row's hold). ValueError where
    the values are more than the rows.
    """
    known_rows, known = len(values), sum(values)
    rest = rows_total - known_rows
    if rest < 0:
        raise ValueError(f"{known_rows} values for {rows_total} rows")
    if rest == 0:
        return Forecast(known_rows, rows_total, known, known, known, known)
    if known_rows == 0:
        return Forecast(0, rows_total, 0, None, None, None)
    expected = known + rest * known // known_rows
    if known_rows == 1:
        return Forecast(1, rows_total, known, expected, None, None)
    below, above = interval_offsets(values, rest, quantile)
    low = max(known, expected - math.ceil(below))
    high = expected + math.ceil(above)
    if highest_per_row is not None:
        high = max(expected, min(high, known + rest * highest_per_row))
    return Forecast(known_rows, rows_total, known, expected, low, high)


def interval_offsets(
    values: Sequence[int], rest: int, quantile: Quantile, levels: tuple[float, float] = LEVELS
) -> tuple[float, float]:
    """How far the sum over `rest` further rows may lie below and above its expectation.

    With f the sampled share, n values, mean m, deviation s, skewness g, the studentised error T of the total has
    mean -k (1 - f) / 2 and third cumulant -k (2 - f), where k = g / sqrt(n (1 - f)) (for f = 0 the textbook's
    -g / (2 sqrt n) and -2 g / sqrt n). T + a T^2 + a^2 T^3 / 3 + b with a = k (2 - f) / 6 and
    b = k (1 - f) / 2 - a is then free of skewness to that order, monotone, and inverted in closed form.
    """
    count = len(values)
    mean = math.fsum(values) / count
    deviations = [value - mean for value in values]
    variance = math.fsum(d * d for d in deviations) / (count - 1)
    if variance == 0.0:
        return 0.0, 0.0
    spread = math.sqrt(variance)
    skewness = math.fsum((d / spread) ** 3 for d in deviations) / count
    share = count / (count + rest)
    k = skewness / math.sqrt(count * (1 - share))
    a = k * (2 - share) / 6
    b = k * (1 - share) / 2 - a
    error = rest * spread * math.sqrt(1 / count + 1 / rest)
    below = _untransform(quantile(1 - levels[0], count - 1), a, b) * error
    above = -_untransform(-quantile(1 - levels[1], count - 1), a, b) * error
    return max(0.0, below), max(0.0, above)


def measure(before: Decimal, after: Decimal, rows: int) -> Measured | None:
    """Credits per row from the balance before and after `rows` rows. None where it rose or no row was sent.

    The balance may lag behind use, and others may spend from it: read it until it stands still.
    """
    fall = before - after
    if rows == 0 or fall < 0:
        return None
    last_place = Decimal(1).scaleb(min(_exponent(before), _exponent(after)))
    fall_pico = int(fall * PICO)
    return Measured(rows, fall_pico, int(last_place * PICO), fall_pico // rows)


def measured_versus_priced(
    measured: Measured | None,
    priced_pico: int | None,
    held_pico: int = 0,
    unit: Literal["credits", "usd"] = "credits",
) -> Agreement:
    """Compare the balance's fall with the sum that the price gives for the same rows, both in pico of `unit`.

    `held_pico` is what the rows' requests of unknown outcome may have cost on top of the priced sum. The fall is
    taken at the end of its rounding that is nearest to the price: only a difference that rounding cannot explain
    counts.
    """
    if measured is None or priced_pico is None:
        return Agreement("not_measured", "no price, or no single balance, is known: nothing to compare")
    fall, slack = measured.fall_pico, measured.uncertainty_pico
    tolerance_pico = int(TOLERANCE * priced_pico)
    priced = _amount(priced_pico, unit)
    told = f"over {measured.rows:,} rows the balance fell by {_amount(fall, unit)} and the price gives {priced}"
    if fall + slack < priced_pico - tolerance_pico or fall - slack > priced_pico + held_pico + tolerance_pico:
        why = _why_apart(fall)
        return Agreement("differ", f"{told}: they differ by more than half; {why}")
    if slack > tolerance_pico + held_pico:
        return Agreement("too_coarse", f"{told}: the balance is too coarse to tell; a larger pilot can")
    return Agreement("agree", f"{told}: they agree")


def _why_apart(fall_pico: int) -> str:
    if fall_pico == 0:
        return "the balance has not moved: it lags, or these rows are free; read it again, or correct prices"
    return "correct prices (or credits_per_usd) in the job file, or make sure that nobody else uses this key"


def _untransform(u: float, a: float, b: float) -> float:
    """The t whose transform is u: ((1 + a t)^3 - 1) / (3 a) + b = u."""
    if abs(a) < 1e-9:
        return u - b
    cube = 1 + 3 * a * (u - b)
    return (math.copysign(math.pow(abs(cube), 1 / 3), cube) - 1) / a


def _exponent(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return min(exponent, 0) if isinstance(exponent, int) else 0


def _amount(pico: int, unit: str) -> str:
    amount = f"{(Decimal(pico) / PICO).normalize():,f}"
    return f"${amount}" if unit == "usd" else f"{amount} credits"
