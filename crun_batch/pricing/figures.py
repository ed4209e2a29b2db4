"""The figures of an estimate: values, and how they read as plain data (--json). No arithmetic beyond that.

Amounts are integers of pico and become decimal text; None is unknown, which is never 0.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from crun_batch.records import decimal_text


class Span(Struct, frozen=True):
    """A quantity's low, expected and high; None: unknown."""

    low: int | None = None
    expected: int | None = None
    high: int | None = None
    at_most: int | None = None
    """What it cannot exceed, retries and repairs left out; None: nothing that is known bounds it."""

    @property
    def best(self) -> int | None:
        """What to compare with a budget: expected where rows have finished, else low."""
        return self.low if self.expected is None else self.expected

    def as_amounts(self) -> dict[str, str | None]:
        """Pico-units as decimal text."""
        ends = {"low": self.low, "expected": self.expected, "high": self.high, "at_most": self.at_most}
        return {name: None if value is None else decimal_text(value) for name, value in ends.items()}

    def as_numbers(self) -> dict[str, int | None]:
        return {"low": self.low, "expected": self.expected, "high": self.high}


class MinimumCharge(Struct, frozen=True):
    """The part of the minimum per request, in the price's currency, at the low and the high end."""

    currency: str
    minimum_pico: int
    requests_low: int
    requests_high: int | None
    adds_low_pico: int
    adds_high_pico: int | None

    def to_dict(self) -> dict[str, Any]:
        high = None if self.adds_high_pico is None else decimal_text(self.adds_high_pico)
        return {
            "currency": self.currency,
            "minimum_per_request": decimal_text(self.minimum_pico),
            "requests_at_minimum": {"low": self.requests_low, "high": self.requests_high},
            "adds_beyond_tokens": {"low": decimal_text(self.adds_low_pico), "high": high},
        }


class Identical(Struct, frozen=True):
    """Requests that repeat an earlier one of the variant, and what sharing them saves (`share_identical`)."""

    requests: int
    at_least: bool
    saves_usd: Span
    saves_credits: Span
    shared: bool = False
    """Whether they are left out: only one of each is sent, and estimated."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "at_least": self.at_least,
            "saves_usd": self.saves_usd.as_amounts(),
            "saves_credits": self.saves_credits.as_amounts(),
            "shared": self.shared,
        }


class VariantEstimate(Struct, frozen=True):
    """One variant's requests still to be sent. `rows_read` < `rows`: scaled from that many random rows."""

    name: str
    model: str
    rows: int
    rows_read: int
    requests: int
    input_tokens: int
    input_tokens_error: int
    """Half of the 95 % interval of `input_tokens`; 0 where every row was read."""
    counter: str
    counter_exact: bool
    output_tokens: Span
    cost_usd: Span
    cost_credits: Span
    price_source: str | None
    minimum: MinimumCharge | None
    identical: Identical
    notes: tuple[str, ...] = ()
    rows_together: int = 1
    """How many rows each of the requests asks."""

    def to_dict(self) -> dict[str, Any]:
        plain = ("name", "model", "rows", "rows_together", "rows_read", "requests", "input_tokens")
        return {
            **{name: getattr(self, name) for name in plain},
            "input_tokens_error": self.input_tokens_error,
            "counter": self.counter,
            "counter_exact": self.counter_exact,
            "output_tokens": self.output_tokens.as_numbers(),
            "cost_usd": self.cost_usd.as_amounts(),
            "cost_credits": self.cost_credits.as_amounts(),
            "price_source": self.price_source,
            "minimum_charge": None if self.minimum is None else self.minimum.to_dict(),
            "identical": self.identical.to_dict(),
            "notes": list(self.notes),
        }


class Limits(Struct, frozen=True):
    """What bounds the speed. `latency_seconds`: of one request, where known (from finished rows)."""

    concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    latency_seconds: float | None = None


class TimeNeeded(Struct, frozen=True):
    """Seconds that the limits ask for at least, and which of them does; (None, None): nothing known limits."""

    seconds: float | None = None
    limited_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "limited_by": self.limited_by or "not limited"}


class Estimate(Struct, frozen=True):
    """All variants: sums of cost, unknown as soon as one variant's is; time under the limits."""

    variants: tuple[VariantEstimate, ...]
    requests: int
    cost_usd: Span
    cost_credits: Span
    time_low: TimeNeeded
    time_expected: TimeNeeded
    time_high: TimeNeeded
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "cost_usd": self.cost_usd.as_amounts(),
            "cost_credits": self.cost_credits.as_amounts(),
            "time": {
                "low": self.time_low.to_dict(),
                "expected": self.time_expected.to_dict(),
                "high": self.time_high.to_dict(),
            },
            "variants": [variant.to_dict() for variant in self.variants],
            "notes": list(self.notes),
        }
