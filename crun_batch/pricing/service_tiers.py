"""What a request costs by the tier at which a gateway serves it: flex at half the price, priority at twice.

Owns: which names mean the standard price, and which prices a request may have by the tier that it asks for. A tier
that a price does not name has no price: it is unknown, and never the standard one. Pure.
"""

from __future__ import annotations

from crun_batch.records import AUTO_TIER, STANDARD_TIERS, Price


def price_at(price: Price | None, tier: str | None) -> Price | None:
    """What a request costs that was served at this tier; None: it said none, which is the standard one."""
    if price is None or tier is None:
        return price
    name = tier.lower()
    own = dict(price.service_tiers).get(name)
    if own is not None:
        return own
    return price if name in STANDARD_TIERS else None


def prices_by_request(price: Price | None, asked: str | None) -> tuple[Price | None, ...]:
    """What a request may cost that asks for this tier, the likeliest first: a gateway may serve it at another.

    Who asks for a tier may get the standard one (OpenAI: the reply says which it was), who asks for `auto` any.
    """
    if price is None or asked is None or asked.lower() in STANDARD_TIERS:
        return (price,)
    if asked.lower() == AUTO_TIER:
        return (price, *(own for _, own in price.service_tiers))
    own = price_at(price, asked)
    return (own,) if own is None else (own, price)


def tier_without_price(model: str, tier: str) -> str:
    """Why a request has no price, in words."""
    return (
        f"no price is known for {model} at the service tier {tier!r}; add "
        f"prices.models.{model}.service_tiers.{tier} to the job file (input_per_mtok, output_per_mtok)"
    )
