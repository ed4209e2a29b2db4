"""What results cost, under the prices frozen for a session."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from msgspec import Struct

from crun_batch.pricing.costs import charge, charges
from crun_batch.records import Cost, Failure, Price, Reply, Usage

FREE_OUTCOMES = ("rejected", "not_sent")


class Bill(Struct, frozen=True):
    """What results cost, under the prices frozen for this session."""

    price_of: Callable[[str | None], Price | None]
    credits_per_usd: Decimal | None
    charges: dict[str | None, Callable[[Usage], Cost]] = {}
    """By model, as far as asked for: what usage costs."""

    def cost(self, model: str | None, result: Reply | Failure) -> Cost:
        """The cost of a result. What was refused or never sent cost nothing; an unknown outcome has no cost."""
        if isinstance(result, Failure):
            if result.outcome in FREE_OUTCOMES:
                return self.nothing(model)
            if result.outcome == "unknown":
                return Cost()
        reported = result.reported_usd if isinstance(result, Reply) else None
        if result.usage is None or reported is not None:
            price = self.price_of(model)
            return charge(price, result.usage, reported_usd=reported, credits_per_usd=self.credits_per_usd)
        of = self.charges.get(model)
        if of is None:
            of = self.charges[model] = charges(self.price_of(model), self.credits_per_usd)
        return of(result.usage)

    def nothing(self, model: str | None) -> Cost:
        """Zero in the units in which the run is priced; in the others even zero would be a guess."""
        price = self.price_of(model)
        if price is None:
            return Cost()
        if self.credits_per_usd is not None:
            return Cost(0, 0, price.source)
        return Cost(0, None, price.source) if price.currency == "usd" else Cost(None, 0, price.source)
