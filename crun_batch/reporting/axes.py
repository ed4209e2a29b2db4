"""Axes of a plot: where a value lies, which values are marked, how they read. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from msgspec import Struct

SECOND = 1_000_000


class Axis(Struct, frozen=True):
    """Maps values low..high to positions start..end, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The position of a value, to a tenth of a pixel; what lies outside is put at the end."""
        low, high, value = (math.log(each) if self.logarithmic else each for each in (self.low, self.high, value))
        share = (min(high, max(low, value)) - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int) -> list[float]:
        """At most about `count` round values within the axis."""
        return (
            _logarithmic_ticks(self.low, self.high, count)
            if self.logarithmic
            else ticks(self.low, self.high, count)
        )


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values from low to high, about `count` of them: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * scale for scale in (1, 2, 5, 10) if power * scale >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _logarithmic_ticks(low: float, high: float, count: int) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for scales in ((1, 2, 5), (1, 3), (1,)):
        found = [scale * 10.0**exponent for exponent in exponents for scale in scales]
        found = [float(f"{value:.12g}") for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= count:
            return found
    return found[:: math.ceil(len(found) / count)]


def rounded_up(value: float, count: int = 3) -> float:
    """The smallest round value that is not below `value`: the end of an axis from 0."""
    if value <= 0:
        return 1.0
    step = ticks(0, value, count)
    size = step[1] - step[0] if len(step) > 1 else value
    return float(f"{size * math.ceil(value / size - 1e-9):.12g}")


def number_text(value: float) -> str:
    """0, 0.02, 350, 1,200, 12k, 1.5M: short enough for an axis."""
    for least, size, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / size:,.4g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def seconds_text(value: float) -> str:
    """0 s, 20 ms, 1.5 s, 3 min, 2 h: short enough for an axis."""
    if 0 < value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 7_200 else f"{value / 3_600:.3g} h"


def moment_text(moment: int, bin_seconds: float, *, with_day: bool) -> str:
    """A moment in UTC as fine as the bins are: 22 Nov 08:45, 08:45:43, 08:45:43.88."""
    at = datetime.fromtimestamp(moment // SECOND, UTC)
    pattern = "%H:%M" if bin_seconds >= 30 else "%H:%M:%S"
    fraction = f".{moment % SECOND // 10_000:02d}" if bin_seconds < 0.5 else ""
    day = f"{at.day} {at:%b} " if with_day else ""
    return f"{day}{at.strftime(pattern)}{fraction}"


def spread_apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places, moved as little as needed to be `gap` apart and within low..high, in the same order of size."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    if order and moved[order[-1]] > high:
        moved[order[-1]] = high
        for after, before in zip(order[::-1], order[-2::-1], strict=False):
            moved[before] = min(moved[before], moved[after] - gap)
    return [max(low, place) for place in moved]
