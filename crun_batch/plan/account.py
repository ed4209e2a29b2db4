"""What is known of the work so far: open units and totals, folded from events, live and on recovery alike.

Pure: the corridor calls `ended` and `finished` for each event it writes or reads back, so that a run that
goes on knows exactly what an uninterrupted one would know. All amounts are integer pico-units.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.records import Cost, Hold, Tries, Usage

UnitKey = tuple[str, str, int]
"""(id as text, variant name, repeat)."""


class UnitSoFar(Struct):
    """Attempts of a unit that has no final result yet: its counters and its sums."""

    attempts: int = 0
    counted: int = 0
    unknown: int = 0
    unknown_retries: int = 0
    usage: Usage | None = None
    cost_usd: int | None = None
    cost_credits: int | None = None
    started_at: int | None = None

    @property
    def tries(self) -> Tries:
        return Tries(counted=self.counted, unknown=self.unknown_retries)


class Totals(Struct):
    """Sums over all attempts and counts over all finished units of the run directory."""

    attempts: int = 0
    unknown_attempts: int = 0
    unpriced_attempts: int = 0
    cost_usd: int = 0
    cost_credits: int = 0
    held_usd: int = 0
    held_credits: int = 0
    unbounded_unknown: int = 0
    """Attempts of unknown outcome without a hold: nothing bounds what they may have cost."""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    error_kinds: dict[str, int] = msgspec.field(default_factory=dict)
    variants: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)


class Ended(Struct, frozen=True):
    """One attempt's end, as far as sums go."""

    outcome: str
    usage: Usage | None
    cost: Cost
    hold: Hold
    tries: Tries


class Account(Struct):
    """The state of a run: `totals`, and the open units that have been tried."""

    totals: Totals = msgspec.field(default_factory=Totals)
    open_units: dict[UnitKey, UnitSoFar] = msgspec.field(default_factory=dict)

    def ended(self, key: UnitKey, started_at: int, end: Ended) -> UnitSoFar:
        """Book an attempt that is over; returns its unit's sums, this attempt included."""
        unit = self.open_units.get(key)
        if unit is None:
            unit = self.open_units[key] = UnitSoFar(started_at=started_at)
        unit.attempts += 1
        unit.counted, unit.unknown_retries = end.tries.counted, end.tries.unknown
        self._book_money(unit, end)
        if end.usage is not None:
            unit.usage = end.usage if unit.usage is None else added(unit.usage, end.usage)
            self._book_tokens(end.usage)
        return unit

    def finished(self, key: UnitKey, status: str, error_kind: str | None, *, replaces: str | None = None) -> None:
        """Book a unit's final result; `replaces` is the status that an earlier result of it had."""
        self.open_units.pop(key, None)
        statuses = self.totals.variants.setdefault(key[1], {})
        for counts in (self.totals.statuses, statuses):
            counts[status] = counts.get(status, 0) + 1
            if replaces is not None:
                counts[replaces] -= 1
        if error_kind is not None and status == "error":
            kinds = self.totals.error_kinds
            kinds[error_kind] = kinds.get(error_kind, 0) + 1

    def to_checkpoint(self) -> dict[str, Any]:
        """JSON-able; `from_checkpoint` gives the same account back."""
        units = [[*key, msgspec.to_builtins(unit)] for key, unit in self.open_units.items()]
        return {"totals": msgspec.to_builtins(self.totals), "open_units": units}

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Account:
        if not checkpoint:
            return cls()
        totals = msgspec.convert(checkpoint["totals"], Totals)
        units = {
            (row_id, variant, repeat): msgspec.convert(unit, UnitSoFar)
            for row_id, variant, repeat, unit in checkpoint["open_units"]
        }
        return cls(totals, units)

    def _book_money(self, unit: UnitSoFar, end: Ended) -> None:
        totals = self.totals
        totals.attempts += 1
        if end.outcome == "unknown":
            unit.unknown += 1
            totals.unknown_attempts += 1
            totals.held_usd += end.hold.usd_pico or 0
            totals.held_credits += end.hold.credits_pico or 0
            totals.unbounded_unknown += end.hold.usd_pico is None and end.hold.credits_pico is None
            return
        usd, credits_ = end.cost.usd_pico, end.cost.credits_pico
        totals.unpriced_attempts += usd is None and credits_ is None and end.outcome == "done"
        if usd is not None:
            totals.cost_usd += usd
            unit.cost_usd = usd + (unit.cost_usd or 0)
        if credits_ is not None:
            totals.cost_credits += credits_
            unit.cost_credits = credits_ + (unit.cost_credits or 0)

    def _book_tokens(self, usage: Usage) -> None:
        totals = self.totals
        totals.input_tokens += usage.input_tokens
        totals.cached_input_tokens += usage.cached_input_tokens
        totals.cache_write_tokens += usage.cache_write_tokens
        totals.output_tokens += usage.output_tokens
        totals.reasoning_tokens += usage.reasoning_tokens


def added(left: Usage, right: Usage) -> Usage:
    """Token counts of two attempts together."""
    return Usage(
        input_tokens=left.input_tokens + right.input_tokens,
        cached_input_tokens=left.cached_input_tokens + right.cached_input_tokens,
        cache_write_tokens=left.cache_write_tokens + right.cache_write_tokens,
        output_tokens=left.output_tokens + right.output_tokens,
        reasoning_tokens=left.reasoning_tokens + right.reasoning_tokens,
    )
