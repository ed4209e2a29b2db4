"""How sure a figure is: 95 % intervals of rates, paired differences with their p, several comparisons at once.

Owns the statistics; everything comes from sums over rows, so that a million rows cost as much as ten. The row is
the unit of chance: repeats of a row are never counted as if they were rows of their own. Must not know frames,
variants or words. The methods were chosen by their figures: tests/measurements/intervals.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from msgspec import Struct

CONFIDENCE = 0.95
_NORMAL = NormalDist()


class Rate(Struct, frozen=True):
    """A share between 0 and 1 with its interval. `rows` is how many rows it rests on."""

    value: float
    low: float
    high: float
    rows: int


class Difference(Struct, frozen=True):
    """A mean paired difference with its interval, its two-sided p, and the number of rows that both sides have."""

    value: float
    low: float
    high: float
    p: float
    rows: int
    method: str


class RowSums(Struct, frozen=True):
    """Sums over rows of what each adds to a ratio: y above the line, x below it, 0 <= y <= x in every row.

    A mean score: y the sum of a row's scores, x its graded replies. A recall: y its replies that found the class,
    x its replies that should have. `rows` counts those with x > 0.
    """

    rows: int
    y: float
    x: float
    yy: float
    xy: float
    xx: float

    @property
    def is_binomial(self) -> bool:
        """Whether every row adds one yes or no."""
        return self.x == self.xx == self.rows and self.y == self.yy


def wilson_interval(rate: float, size: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a rate seen in `size` independent trials; the size may be an effective one."""
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    shrink = 1 + z * z / size
    centre = (rate + z * z / (2 * size)) / shrink
    reach = z * math.sqrt(rate * (1 - rate) / size + z * z / (4 * size * size)) / shrink
    return max(0.0, min(rate, centre - reach)), min(1.0, max(rate, centre + reach))


def rate_of(sums: RowSums, confidence: float = CONFIDENCE) -> Rate | None:
    """The ratio y / x with its interval; None where there is nothing below the line.

    One yes or no per row: Wilson. Otherwise Wilson at the effective size (Korn and Graubard 1998): the number of
    independent yes-or-no trials that would vary as much as the rows do, a row with its repeats being one
    observation. Rows that do not vary at all count once each.
    """
    if sums.x == 0:
        return None
    value = min(1.0, max(0.0, sums.y / sums.x))
    size = float(sums.rows) if sums.is_binomial else _effective_size(sums, value, confidence)
    low, high = wilson_interval(value, size, confidence)
    return Rate(value, low, high, sums.rows)


def _effective_size(sums: RowSums, value: float, confidence: float) -> float:
    squares = sums.yy - 2 * value * sums.xy + value * value * sums.xx
    if sums.rows < 2 or not 0 < value < 1 or squares <= 1e-9 * sums.xx:
        return float(sums.rows)
    variance = squares / (sums.x * sums.x) * sums.rows / (sums.rows - 1)
    level = (1 + confidence) / 2
    caution = _NORMAL.inv_cdf(level) / t_quantile(level, sums.rows - 1)
    return value * (1 - value) / variance * caution * caution


def paired_difference(
    rows: int, total: float, squares: float, largest: float, confidence: float = CONFIDENCE
) -> Difference | None:
    """The mean of the rows' differences by Student's t, with two pseudo-rows of plus and minus the largest one.

    `total`, `squares`, `largest`: the sum, the sum of squares and the largest absolute value of the differences.
    For yes-or-no scores the pseudo-rows are Bonett and Price's (2012); they keep the interval honest where few
    rows differ at all. None without rows.
    """
    if rows == 0:
        return None
    step = largest or 1.0
    size = rows + 2
    mean = total / size
    variance = max(0.0, squares + 2 * step * step - size * mean * mean) / (size - 1)
    error = math.sqrt(variance / size)
    reach = t_quantile((1 + confidence) / 2, size - 1) * error
    p = 2 * t_tail(abs(mean) / error, size - 1) if error else 0.0
    value = total / rows
    low, high = min(value, mean - reach), max(value, mean + reach)
    return Difference(value, max(-1.0, low), min(1.0, high), min(1.0, p), rows, "paired t, rows as clusters")


def paired_binary_difference(
    rows: int, better: int, worse: int, confidence: float = CONFIDENCE
) -> Difference | None:
    """The difference of two yes-or-no rates on the same rows: McNemar's mid-p test, Bonett and Price's interval.

    `better`, `worse`: rows where only the first, only the second was right. None without rows.
    """
    found = paired_difference(rows, better - worse, better + worse, 1.0, confidence)
    if found is None:
        return None
    p = mcnemar_mid_p(better, worse)
    return Difference(found.value, found.low, found.high, p, rows, "McNemar's mid-p test")


def mcnemar_mid_p(better: int, worse: int) -> float:
    """Two-sided mid-p of McNemar's exact test: how likely so uneven a split of the rows that differ is by chance.

    Fagerland, Lydersen and Laake 2013: nearly always within its level, and far less cautious than the exact test.
    """
    trials, fewer = better + worse, min(better, worse)
    if trials == 0:
        return 1.0
    log_term = math.lgamma(trials + 1) - math.lgamma(fewer + 1) - math.lgamma(trials - fewer + 1)
    term = at_end = math.exp(log_term - trials * math.log(2))
    tail = 0.0
    for successes in range(fewer, 0, -1):
        term *= successes / (trials - successes + 1)
        tail += term
        if term < tail * 1e-17:
            break
    return min(1.0, 2 * tail + at_end)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p values adjusted for being several (Holm 1979), in the same order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def jackknife_interval(
    value: float, without: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Student's t interval of a statistic from its values `without` each of the equal groups of rows."""
    groups = len(without)
    if groups < 2:
        return None
    mean = math.fsum(without) / groups
    variance = (groups - 1) / groups * math.fsum((one - mean) ** 2 for one in without)
    reach = t_quantile((1 + confidence) / 2, groups - 1) * math.sqrt(variance)
    return value - reach, value + reach


def t_tail(statistic: float, degrees: int) -> float:
    """P(T > statistic) of Student's t, for statistic >= 0: half the incomplete beta function."""
    if math.isinf(statistic):
        return 0.0
    square = statistic * statistic
    return 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + square), square / (degrees + square))


def t_quantile(probability: float, degrees: int) -> float:
    """The t that a share `probability` (above 0.5) of Student's law lies below.

    By Newton's steps from the normal quantile, which lies below it; the tail is convex, so none leads too far.
    """
    t, beyond = _NORMAL.inv_cdf(probability), 1 - probability
    half = (degrees + 1) / 2
    log_front = math.lgamma(half) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    for _ in range(100):
        density = math.exp(log_front - half * math.log1p(t * t / degrees))
        step = (t_tail(t, degrees) - beyond) / density
        t += step
        if abs(step) <= 1e-12 * t:
            break
    return t


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function at x = 1 - rest, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, rest, x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    fraction, c, d = 1.0, 1.0, 0.0
    for step in range(500):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        else:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        fraction *= c * d
        if abs(1 - c * d) < 1e-15:
            break
    return math.exp(log_front) * (fraction - 1) / a
