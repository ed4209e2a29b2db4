"""What results cost, under the prices frozen for a session."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from msgspec import Struct

from crun_batch.pricing.costs import charge, charges
from crun_batch.records import FREE_OUTCOMES, Cost, Failure, Price, Reply, Usage


class Bill(Struct, frozen=True):
    """What results cost, under the prices frozen for this session."""

    price_of: Callable[[str | None, str | None], Price | None]
    """By model, and by the endpoint that served it where that has a name."""
    credits_per_usd: Decimal | None
    charges: dict[Any, Callable[[Usage], Cost]] = {}
    """By model, or by model and endpoint, as far as asked for: what usage costs."""

    def cost(self, model: str | None, result: Reply | Failure, endpoint: str | None = None) -> Cost:
        """The cost of a result. What was refused or never sent cost nothing; an unknown outcome has no cost."""
        if isinstance(result, Failure):
            if result.outcome in FREE_OUTCOMES:
                return self.nothing(model, endpoint)
            if result.outcome == "unknown":
                return Cost()
        reported = result.reported_usd
        if result.usage is None or reported is not None:
            price = self.price_of(model, endpoint)
            return charge(price, result.usage, reported_usd=reported, credits_per_usd=self.credits_per_usd)
        sold = model if endpoint is None else (model, endpoint)
        of = self.charges.get(sold)
        if of is None:
            of = self.charges[sold] = charges(self.price_of(model, endpoint), self.credits_per_usd)
        return of(result.usage)

    def nothing(self, model: str | None, endpoint: str | None = None) -> Cost:
        """Zero in the units in which the run is priced; in the others even zero would be a guess."""
        price = self.price_of(model, endpoint)
        if price is None:
            return Cost()
        if self.credits_per_usd is not None:
            return Cost(0, 0, price.source)
        return Cost(0, None, price.source) if price.currency == "usd" else Cost(None, 0, price.source)
