"""An attempt that is over becomes money: priced, its hold settled, booked, in this order and in this one place."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from crun_batch.pricing.account import Account, BookedAttempt, UnitKey, UnitSoFar
from crun_batch.pricing.bill import Bill
from crun_batch.pricing.budget import FREE, Reservations
from crun_batch.records import FREE_OUTCOMES, Cost, Failure, Hold, OutcomeClass, Reply, Tries


class AttemptEnd(Struct, frozen=True, gc=False):
    """An attempt that is over: what was asked and what came, as far as money goes."""

    key: UnitKey
    started_at: int
    model: str | None
    result: Reply | Failure
    outcome: OutcomeClass
    hold: Hold
    tries: Tries
    """Of the unit, this attempt included."""
    latency_us: int
    endpoint: str | None = None
    judge: str | None = None
    cost: Cost | None = None
    """Of a row in a request with others: its part of what that cost. None: it is priced here."""
    goes_alone: bool = False
    """Whether its unit is not to be asked together with others again."""
    pack_place: int | None = None
    """Of a row in a request with others: its number among them."""
    goes_live: bool = False
    """Whether a batch has left it undone."""


class Bookkeeper(Struct, frozen=True):
    """Keeps the books of a session: what its requests cost, what is held for them, what each unit came to."""

    bill: Bill
    reservations: Reservations
    account: Account

    def book(self, ends: Sequence[AttemptEnd]) -> list[tuple[Cost, UnitSoFar]]:
        """The cost of each, and the sums of its unit with this attempt included."""
        return [self._booked(end) for end in ends]

    def _booked(self, end: AttemptEnd) -> tuple[Cost, UnitSoFar]:
        cost = end.cost
        if cost is None:
            cost = self.bill.cost(end.model, end.result, end.endpoint)
        self.reservations.settle(end.hold, FREE if end.outcome in FREE_OUTCOMES else cost)
        hold = end.hold
        if cost.beyond_hold is not None:
            self.reservations.meet_unbounded(cost)
            hold = Hold()
        booked = BookedAttempt(
            end.outcome,
            end.result.usage,
            cost,
            hold,
            end.tries,
            end.latency_us,
            end.endpoint,
            end.goes_alone,
            end.pack_place,
            end.goes_live,
        )
        return cost, self.account.ended(end.key, end.started_at, booked, judge=end.judge)
