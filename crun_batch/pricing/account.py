"""What is known of the work so far: open units and sums, folded from events, live and on recovery alike.

Pure: the session calls `ended` and `finished` for each event it writes or reads back, so that a run that goes on
knows exactly what an uninterrupted one would know. All amounts are integers of pico.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.pricing.finished import Finished, FinishedRequests
from crun_batch.records import FREE_OUTCOMES, Cost, CostSource, Failure, Hold, Purpose, Reply, Tries, Usage

UnitKey = tuple[str, str, int]
"""(id as text, variant name, repeat)."""

_COUNTS = tuple(name for name in Usage.__struct_fields__ if name.endswith("_tokens"))


class Answered(Struct, frozen=True):
    """A recorded answer that did not end its unit: of an earlier turn, not valid, or not yet made a result."""

    turn: int
    purpose: Purpose
    request_hash: str
    """The request that it answers."""
    reply: Reply


class UnitSoFar(Struct):
    """Attempts of a unit that has no final result yet: its counters and its sums."""

    attempts: int = 0
    counted: int = 0
    unknown: int = 0
    unknown_retries: int = 0
    usage: Usage | None = None
    cost_usd: int | None = None
    cost_credits: int | None = None
    cost_source: CostSource | None = None
    started_at: int | None = None
    answers: list[Answered] = msgspec.field(default_factory=list)
    """The conversation so far, in order."""
    failure: Failure | None = None
    """The recorded end of the unit, not yet made its result: the process ended in between."""
    failure_hash: str | None = None
    """The request that `failure` is about."""
    goes_alone: bool = False
    """A request that held it with others brought no answer to it: it is not asked with others again."""
    goes_live: bool = False
    """A batch has left its request undone: where batches are followed by live requests, it is asked live."""

    @property
    def tries(self) -> Tries:
        return Tries(counted=self.counted, unknown=self.unknown_retries)


class Sums(Struct):
    """Sums over the attempts, and counts over the finished units, of one variant or of all."""

    attempts: int = 0
    beside: int = 0
    """Of them those of rows that stood in a request behind another row: that one's attempt counts the request."""
    done: int = 0
    rejected: int = 0
    not_sent: int = 0
    unknown: int = 0
    unbounded_usd: int = 0
    """Attempts whose cost is unknown and that had no hold: nothing bounds what they may have cost in dollars."""
    unbounded_credits: int = 0
    unpriced: int = 0
    """Attempts that were done and whose cost is known in no unit."""
    priced_usd: int = 0
    priced_credits: int = 0
    cost_usd: int = 0
    cost_credits: int = 0
    held_usd: int = 0
    """Holds of the attempts whose cost is unknown: what they may have cost at most."""
    held_credits: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    latency_us: int = 0
    """Sum over the attempts that were done."""
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    error_kinds: dict[str, int] = msgspec.field(default_factory=dict)
    shared: int = 0
    """Finished units that were given the answer to an identical request."""
    reused: int = 0
    """Finished units whose answer is an earlier run's."""
    saved_usd: int = 0
    """What those answers had cost there, as far as it is known."""
    saved_credits: int = 0
    saved_unknown: int = 0
    """Those whose cost is known in no unit."""

    @property
    def requests(self) -> int:
        """How many requests the attempts were: one of several rows is one."""
        return self.attempts - self.beside

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        return Sums(**{name: _plus(getattr(self, name), getattr(other, name)) for name in self.__struct_fields__})


class BookedAttempt(Struct, frozen=True, gc=False):
    """One attempt's end, as far as sums go."""

    outcome: str
    usage: Usage | None
    cost: Cost
    hold: Hold
    tries: Tries
    latency_us: int = 0
    endpoint: str | None = None
    """Where it went, of several by name."""
    goes_alone: bool = False
    pack_place: int | None = None
    """Of a row in a request with others: its number among them, from 1."""
    goes_live: bool = False


class Account(Struct):
    """The state of a run: sums for each variant, and the open units that have been tried."""

    variants: dict[str, Sums] = msgspec.field(default_factory=dict)
    open_units: dict[UnitKey, UnitSoFar] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    """Time that earlier sessions spent sending."""
    began_us: int | None = None
    """When the session that is sending began, in microseconds since 1970; None: none is."""
    judges: dict[str, Sums] = msgspec.field(default_factory=dict)
    """The same for each judge, by its name: its requests belong to no unit's result."""
    endpoints: dict[str, Sums] = msgspec.field(default_factory=dict)
    """The same once more for each named endpoint: what its gateway may bill."""
    packed: dict[str, Sums] = msgspec.field(default_factory=dict)
    """The same once more by variant, of the attempts of rows that stood in a request with others."""

    def session_killed(self, last_us: int) -> None:
        """Book the time of a session that wrote its last event then and never ended."""
        if self.began_us is not None:
            self.seconds += max(0, last_us - self.began_us) / 1e6
            self.began_us = None

    def totals(self) -> Sums:
        """The sums over all variants and judges."""
        total = Sums()
        for sums in (*self.variants.values(), *self.judges.values()):
            total = total.plus(sums)
        return total

    def ended(self, key: UnitKey, started_at: int, end: BookedAttempt, *, judge: str | None = None) -> UnitSoFar:
        """Book an attempt that is over; returns its unit's sums, this attempt included.

        An attempt of a `judge` belongs to no unit's result: it stands in the judge's sums, and for itself.
        """
        if end.endpoint is not None:
            _book(UnitSoFar(), self.endpoints.setdefault(end.endpoint, Sums()), end)
        if judge is not None:
            question = UnitSoFar(started_at=started_at)
            _book(question, self.judges.setdefault(judge, Sums()), end)
            return question
        unit = self.open_units.get(key)
        if unit is None:
            unit = self.open_units[key] = UnitSoFar(started_at=started_at)
        if end.pack_place is not None:
            _book(UnitSoFar(), self.packed.setdefault(key[1], Sums()), end)
        _book(unit, self.variants.get(key[1]) or self._new_sums(key[1]), end)
        return unit

    def finished(
        self,
        key: UnitKey,
        status: str,
        error_kind: str | None,
        *,
        replaces: str | None = None,
        shared: bool = False,
        saved: Cost | None = None,
    ) -> None:
        """Book a unit's final result; `replaces` is the ending (`status:error_kind`) that it had before.

        `saved`: what an answer of an earlier run had cost there.
        """
        self.open_units.pop(key, None)
        sums = self.variants.get(key[1]) or self._new_sums(key[1])
        sums.shared += shared
        if saved is not None:
            _book_saved(sums, saved)
        sums.statuses[status] = sums.statuses.get(status, 0) + 1
        if replaces is not None:
            former_status, _, former_kind = replaces.partition(":")
            sums.statuses[former_status] -= 1
            if former_kind:
                sums.error_kinds[former_kind] -= 1
        if error_kind is not None:
            sums.error_kinds[error_kind] = sums.error_kinds.get(error_kind, 0) + 1

    def finished_requests(self) -> FinishedRequests:
        """What the requests that brought a reply cost: what an estimate expects of the next ones."""
        packed = {name: _finished(sums) for name, sums in self.packed.items()}
        alone = {name: _finished(sums).less(packed.get(name)) for name, sums in self.variants.items()}
        return FinishedRequests(alone, packed, {name: _finished(sums) for name, sums in self.judges.items()})

    def to_checkpoint(self) -> dict[str, Any]:
        """JSON-able; `from_checkpoint` gives the same account back."""
        return {
            "variants": msgspec.to_builtins(self.variants),
            "open_units": [[*key, msgspec.to_builtins(unit)] for key, unit in self.open_units.items()],
            "seconds": self.seconds,
            "began_us": self.began_us,
            "judges": msgspec.to_builtins(self.judges),
            "endpoints": msgspec.to_builtins(self.endpoints),
            "packed": msgspec.to_builtins(self.packed),
        }

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any]) -> Account:
        """The account that `to_checkpoint` wrote."""
        units = {
            (row_id, variant, repeat): msgspec.convert(unit, UnitSoFar)
            for row_id, variant, repeat, unit in checkpoint["open_units"]
        }
        variants, judges, endpoints, packed = (
            msgspec.convert(checkpoint.get(name, {}), dict[str, Sums])
            for name in ("variants", "judges", "endpoints", "packed")
        )
        return cls(variants, units, checkpoint["seconds"], checkpoint.get("began_us"), judges, endpoints, packed)

    def _new_sums(self, variant: str) -> Sums:
        sums = self.variants[variant] = Sums()
        return sums


def together(accounts: Iterable[Account]) -> Account:
    """The account of several runs that have no unit in common, as one run would keep it; times add up too."""
    whole = Account()
    for one in accounts:
        for book in ("variants", "judges", "endpoints", "packed"):
            mine, theirs = getattr(whole, book), getattr(one, book)
            mine |= {name: mine.get(name, Sums()).plus(sums) for name, sums in theirs.items()}
        whole.open_units |= one.open_units
        whole.seconds += one.seconds
    return whole


def _finished(sums: Sums) -> Finished:
    return Finished(
        requests=sums.done,
        input_tokens=sums.input_tokens,
        cached_input_tokens=sums.cached_input_tokens,
        output_tokens=sums.output_tokens,
        priced_requests=sums.done - sums.unpriced,
        cost_usd_pico=sums.cost_usd if sums.priced_usd else None,
        cost_credits_pico=sums.cost_credits if sums.priced_credits else None,
    )


def _book(unit: UnitSoFar, sums: Sums, end: BookedAttempt) -> None:
    unit.attempts += 1
    unit.counted, unit.unknown_retries = end.tries.counted, end.tries.unknown
    unit.failure = unit.failure_hash = None
    unit.unknown += end.outcome == "unknown"
    unit.goes_alone = unit.goes_alone or end.goes_alone
    unit.goes_live = unit.goes_live or end.goes_live
    sums.attempts += 1
    sums.beside += (end.pack_place or 1) > 1
    setattr(sums, end.outcome, getattr(sums, end.outcome) + 1)
    _book_cost(unit, sums, end)
    if end.cost.usd_pico is None or end.cost.credits_pico is None:
        _book_held(sums, end)
    usage = end.usage
    if usage is not None:
        unit.usage = usage if unit.usage is None else added(unit.usage, usage)
        sums.input_tokens += usage.input_tokens or 0
        sums.cached_input_tokens += usage.cached_input_tokens
        sums.cache_write_tokens += usage.cache_write_tokens
        sums.output_tokens += usage.output_tokens
        sums.reasoning_tokens += usage.reasoning_tokens


def _book_saved(sums: Sums, saved: Cost) -> None:
    sums.reused += 1
    sums.saved_usd += saved.usd_pico or 0
    sums.saved_credits += saved.credits_pico or 0
    sums.saved_unknown += saved.usd_pico is None and saved.credits_pico is None


def _book_held(sums: Sums, end: BookedAttempt) -> None:
    """What may have been billed and has no known cost keeps its hold. A refusal costs nothing in any unit."""
    if end.outcome in FREE_OUTCOMES:
        return
    if end.cost.usd_pico is None:
        sums.held_usd += end.hold.usd_pico or 0
        sums.unbounded_usd += end.hold.usd_pico is None
    if end.cost.credits_pico is None:
        sums.held_credits += end.hold.credits_pico or 0
        sums.unbounded_credits += end.hold.credits_pico is None


def _book_cost(unit: UnitSoFar, sums: Sums, end: BookedAttempt) -> None:
    usd, credits_ = end.cost.usd_pico, end.cost.credits_pico
    if end.outcome == "done":
        sums.latency_us += end.latency_us
        sums.unpriced += usd is None and credits_ is None
    unit.cost_source = end.cost.source or unit.cost_source
    if usd is not None:
        sums.priced_usd += 1
        sums.cost_usd += usd
        unit.cost_usd = usd + (unit.cost_usd or 0)
    if credits_ is not None:
        sums.priced_credits += 1
        sums.cost_credits += credits_
        unit.cost_credits = credits_ + (unit.cost_credits or 0)


def _plus(left: Any, right: Any) -> Any:
    if isinstance(left, dict):
        return {key: left.get(key, 0) + right.get(key, 0) for key in {**left, **right}}
    return left + right


def added(left: Usage, right: Usage) -> Usage:
    """Token counts of two attempts together; a count that only one of them told is that one's."""
    counts = {name: _known_sum(getattr(left, name), getattr(right, name)) for name in _COUNTS}
    return Usage(
        **counts,
        service_tier=right.service_tier or left.service_tier,
        other_charges=right.other_charges or left.other_charges,
    )


def _known_sum(left: Any, right: Any) -> Any:
    return left if right is None else right if left is None else left + right
