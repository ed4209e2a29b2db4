"""What a request did cost, and what it may cost at most: the arithmetic on a price.

Owns: the integers. Prices are atto (10**-18) per token; a cost is rounded once, half to even, to pico (10**-12), a
hold up. What is not known is None, never 0. Must not know: where a price is from, who asks, what else was spent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Literal

from crun_batch.pricing.service_tiers import price_at
from crun_batch.records import PICO, CacheTtl, Cost, Hold, Price, Usage, divide_half_even, scaled

ATTO = 10**18
ATTO_PER_PICO = ATTO // PICO
MOST_TIMES_INPUT = 2
"""What a token written to a cache costs at most, times the input price, where no price of its own is given.

Anthropic's pricing page: 1.25 times for five minutes, 2 times for an hour.
"""
HOLDS_KEPT = 4096
"""Many prompts are of the same length, and so have the same hold."""
Rate = tuple[int, int]
"""A fraction: pico of a unit per atto of the price's currency."""


def charge(
    price: Price | None,
    usage: Usage | None,
    *,
    reported_usd: str | None = None,
    credits_per_usd: Decimal | None = None,
) -> Cost:
    """What a request cost: max(minimum, fee + tokens x price); unknown without both a price and token counts.

    A cost that the reply itself states wins (source `reply`, in dollars). Cached tokens have their own price;
    where none was given, the input price, which bounds it. Tokens written to a cache have theirs, and cost more
    than input (Anthropic: 1.25 times for five minutes, 2 for an hour): where none was given, the cost is unknown.
    The other unit comes from `credits_per_usd`, or stays None. A request is charged as at the service tier that
    served it: unknown where the price names no such tier, and where it was billed for more than its tokens.
    """
    cost = Cost() if usage is None else charges(price, credits_per_usd)(usage)
    reported = None if reported_usd is None else reported_amount(reported_usd)
    if reported is None:
        return cost
    usd, credits_ = both_units("usd", scaled(reported, ATTO), credits_per_usd)
    return Cost(usd, cost.credits_pico if credits_ is None else credits_, "reply", cost.beyond_hold)


def charges(price: Price | None, credits_per_usd: Decimal | None) -> Callable[[Usage], Cost]:
    """`charge` for many requests of the same price whose replies state no cost, as a function of their usage."""
    unknown = Cost()
    if price is None:
        return lambda usage: unknown
    rates, source = _rates(price.currency, credits_per_usd), price.source

    def of(usage: Usage) -> Cost:
        if usage.other_charges is not None:
            return Cost(beyond_hold=usage.other_charges)
        served_at = price if usage.service_tier is None else price_at(price, usage.service_tier)
        if served_at is None:
            return Cost(beyond_hold=f"the service tier {usage.service_tier!r}")
        amount_atto = _amount_atto(served_at, usage)
        if amount_atto is None:
            return unknown
        return Cost(*_converted(amount_atto, rates, divide_half_even), source)

    return of


def hold(
    price: Price | None,
    input_bound_tokens: int | None,
    output_bound_tokens: int | None,
    credits_per_usd: Decimal | None = None,
    *,
    cache_ttl: CacheTtl = "",
) -> Hold:
    """The most that a request can cost, rounded up; Hold() where the price or one of the bounds is unknown.

    Every input token at the dearest of its prices, the dearest tier within reach, all of the output limit.
    Where tokens may be written to a cache and no price of that is given, at MOST_TIMES_INPUT the input price.
    """
    if input_bound_tokens is None:
        return Hold()
    at = holds(price, output_bound_tokens, credits_per_usd, cache_ttl=cache_ttl)
    return at(input_bound_tokens)


def holds(
    price: Price | None,
    output_bound_tokens: int | None,
    credits_per_usd: Decimal | None,
    *,
    cache_ttl: CacheTtl = "",
) -> Callable[[int], Hold]:
    """`hold` for many requests of the same price and output limit, as a function of their input bounds."""
    if price is None or output_bound_tokens is None:
        unknown = Hold()
        return lambda input_bound_tokens: unknown
    lines = [
        (
            above,
            dearest_input_atto(tier, cache_ttl=cache_ttl),
            output_bound_tokens * tier.output_atto + tier.request_pico * ATTO_PER_PICO,
            tier.minimum_pico * ATTO_PER_PICO,
        )
        for above, tier in ((-1, price), *price.tiers)
    ]
    rates = _rates(price.currency, credits_per_usd)

    @lru_cache(maxsize=HOLDS_KEPT)
    def at(input_bound_tokens: int) -> Hold:
        atto = 0
        for above, per_token_atto, fixed_atto, minimum_atto in lines:
            if input_bound_tokens > above:
                atto = max(atto, minimum_atto, input_bound_tokens * per_token_atto + fixed_atto)
        return Hold(*_converted(atto, rates, _divide_up))

    return at


def dearest_holds(
    prices: Sequence[Price | None],
    output_bound_tokens: int | None,
    credits_per_usd: Decimal | None,
    *,
    cache_ttl: CacheTtl = "",
) -> Callable[[int], Hold]:
    """`holds` for requests that may be charged at any of these prices: the most in each unit, or unknown there."""
    each = [holds(price, output_bound_tokens, credits_per_usd, cache_ttl=cache_ttl) for price in prices]
    if len(each) == 1:
        return each[0]

    def at(input_bound_tokens: int) -> Hold:
        found = [one(input_bound_tokens) for one in each]
        return Hold(most([one.usd_pico for one in found]), most([one.credits_pico for one in found]))

    return at


def least(amounts: Sequence[int | None]) -> int | None:
    """The smallest; None where one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return min(known) if len(known) == len(amounts) else None


def most(amounts: Sequence[int | None]) -> int | None:
    """The largest; None where one is unknown."""
    known = [amount for amount in amounts if amount is not None]
    return max(known) if len(known) == len(amounts) else None


def both_units(
    currency: Literal["usd", "credits"], atto: int, credits_per_usd: Decimal | None, *, up: bool = False
) -> tuple[int | None, int | None]:
    """(dollars, credits) in pico of an amount in atto; each is rounded once, from the exact value."""
    return _converted(atto, _rates(currency, credits_per_usd), _divide_up if up else divide_half_even)


@lru_cache(maxsize=16)
def _rates(
    currency: Literal["usd", "credits"], credits_per_usd: Decimal | None
) -> tuple[Rate | None, Rate | None]:
    """To dollars, and to credits."""
    own = (1, ATTO_PER_PICO)
    if credits_per_usd is None:
        return (own, None) if currency == "usd" else (None, own)
    above, below = credits_per_usd.as_integer_ratio()
    if currency == "usd":
        return own, (above, below * ATTO_PER_PICO)
    return (below, above * ATTO_PER_PICO), own


def _converted(
    atto: int, rates: tuple[Rate | None, Rate | None], divide: Callable[[int, int], int]
) -> tuple[int | None, int | None]:
    usd, credits_ = rates
    return (
        None if usd is None else divide(atto * usd[0], usd[1]),
        None if credits_ is None else divide(atto * credits_[0], credits_[1]),
    )


def _amount_atto(price: Price, usage: Usage) -> int | None:
    """None where a count or the price of what is billed is not known."""
    tokens = usage.input_tokens
    if tokens is None:
        return None
    for threshold, tier in price.tiers:
        if tokens > threshold:
            price = tier
    input_atto = price.input_atto
    cached_atto = input_atto if price.cached_input_atto is None else price.cached_input_atto
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    written_atto = _written_atto(price, usage) if written else 0
    if written_atto is None:
        return None
    fresh = tokens - cached - written
    atto = (
        (fresh * input_atto if fresh > 0 else 0)
        + cached * cached_atto
        + written_atto
        + usage.output_tokens * price.output_atto
        + price.request_pico * ATTO_PER_PICO
    )
    minimum_atto = price.minimum_pico * ATTO_PER_PICO
    return atto if atto > minimum_atto else minimum_atto


def _written_atto(price: Price, usage: Usage) -> int | None:
    """What the tokens written to a cache cost; None where one of the two prices of that is not known."""
    parts = (
        (usage.cache_write_tokens - usage.cache_write_1h_tokens, price.cache_write_atto),
        (usage.cache_write_1h_tokens, price.cache_write_1h_atto),
    )
    known = [tokens * atto for tokens, atto in parts if tokens and atto is not None]
    return sum(known) if len(known) == sum(tokens > 0 for tokens, _ in parts) else None


def dearest_input_atto(price: Price, *, cache_ttl: CacheTtl) -> int:
    """The most that a token of input can cost."""
    unknown = MOST_TIMES_INPUT * price.input_atto
    written = price.cache_write_atto
    if written is None:
        written = unknown if cache_ttl else 0
    if cache_ttl == "1h":
        written = max(written, unknown if price.cache_write_1h_atto is None else price.cache_write_1h_atto)
    return max(price.input_atto, price.cached_input_atto or 0, written)


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def reported_amount(text: str) -> Decimal | None:
    """A cost stated by a reply, in dollars. None for what is no amount: NaN, negative, absurdly large."""
    if len(text) > 64:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    if not is_amount(amount):
        return None
    return amount if amount.adjusted() > -30 else Decimal(0)


def is_amount(amount: Decimal) -> bool:
    """Finite, not negative, below ten trillion: no exponent in it can blow an integer up."""
    return amount.is_finite() and amount >= 0 and amount.adjusted() <= 12
