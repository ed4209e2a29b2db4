"""What was recorded under one price, under another: costs from stored tokens, holds from what they were.

Owns: how a frozen price reads back, how two prices differ in words, what a recorded cost and hold become.
Must not know: files, attempts, the clock. Amounts are integers of pico, rates integers of atto per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

from msgspec import structs

from crun_batch.pricing.costs import both_units, charge, dearest_input_atto, most
from crun_batch.pricing.prices import price_as_text, price_from_job
from crun_batch.pricing.service_tiers import price_at
from crun_batch.records import CacheTtl, Cost, Hold, Price, Usage, decimal_text, pico_of

_RATES = (
    *("input_per_mtok", "output_per_mtok", "cached_input_per_mtok"),
    *("cache_write_per_mtok", "cache_write_1h_per_mtok"),
)
_WORDS = {
    "input_per_mtok": "input",
    "cached_input_per_mtok": "cached input",
    "cache_write_per_mtok": "cache write",
    "cache_write_1h_per_mtok": "cache write for an hour",
    "output_per_mtok": "output",
    "minimum_per_request": "minimum",
    "fee_per_request": "fee",
}


def reprice(
    price: Price | None,
    usage: Usage | None,
    stored: Cost,
    credits_per_usd: Decimal | None = None,
    reported_usd: str | None = None,
) -> Cost:
    """A recorded cost under today's prices: stored tokens priced anew. What a reply stated stays as it was.

    `reported_usd`: how the reply wrote it, where that is recorded; the recorded cost is rounded.
    """
    reported = None
    if stored.source == "reply" and stored.usd_pico is not None:
        reported = reported_usd or decimal_text(stored.usd_pico)
    return charge(price, usage, reported_usd=reported, credits_per_usd=credits_per_usd)


def rebound(
    hold: Hold,
    before: Price | None,
    now: Price | None,
    credits_per_usd: Decimal | None = None,
    service_tier: str | None = None,
) -> Hold:
    """The most that a request can cost under another price, from what it held under the one before.

    Neither its bounds in tokens nor whether it could write a cache are recorded: the hold grows by the rate that
    rose most in either case, at the tier that it asked for or at the standard one, and is never below the new
    minimum. Hold() where either price is unknown or a rate rose from 0.
    """
    pairs = [(price_at(before, tier), price_at(now, tier)) for tier in dict.fromkeys((None, service_tier))]
    grown = [_grown(hold, *pair) for pair in pairs]
    largest = most(grown)
    if largest is None or now is None:
        return Hold()
    usd, credits_ = both_units(now.currency, largest * 10**6, credits_per_usd, up=True)
    return Hold(usd, credits_)


def _grown(hold: Hold, before: Price | None, now: Price | None) -> int | None:
    """In pico of the new price's currency; None: unknown."""
    if before is None or now is None:
        return None
    held = hold.usd_pico if before.currency == "usd" else hold.credits_pico
    factors = [_factor(*rates) for rates in zip(_rates(before, min), _rates(now, max), strict=True)]
    if held is None or None in factors:
        return None
    grown = held * max(factor for factor in factors if factor is not None)
    return max(now.minimum_pico, -(-grown.numerator // grown.denominator))


def price_from_text(text: Mapping[str, Any]) -> Price | None:
    """The price that `price_as_text` wrote; None where an unknown one was written."""
    if "currency" not in text:
        return None
    spec = {key: value if value is None else Decimal(value) for key, value in text.items() if key in _RATES}
    spec |= {"currency": text["currency"], "minimum_per_request": Decimal(text["minimum_per_request"])}
    tiers = [(tier["above_input_tokens"], price_from_text(tier)) for tier in text["tiers"]]
    service_tiers = [(name, price_from_text(own)) for name, own in text.get("service_tiers", {}).items()]
    return structs.replace(
        price_from_job(spec),
        source=text["source"],
        request_pico=pico_of(Decimal(text["fee_per_request"])),
        tiers=tuple((above, tier) for above, tier in tiers if tier is not None),
        service_tiers=tuple((name, own) for name, own in service_tiers if own is not None),
    )


def difference(before: Price | None, now: Price | None) -> str | None:
    """How a model's price has changed, in words; None where it has not. Where it comes from is no change."""
    if before is None or now is None:
        return None if before is now else f"{_words(before)} -> {_words(now)}"
    same = {"source": "job", "tiers": (), "service_tiers": ()}
    if structs.replace(before, **same) != structs.replace(now, **same):
        return f"{_words(before)} -> {_words(now)}"
    tiers = [[(above, _words(tier)) for above, tier in price.tiers] for price in (before, now)]
    if tiers[0] != tiers[1]:
        return "its tiers for long inputs"
    own, own_now = dict(before.service_tiers), dict(now.service_tiers)
    told = {name: difference(own.get(name), own_now.get(name)) for name in sorted({*own, *own_now})}
    return "; ".join(f"at {name} {words}" for name, words in told.items() if words is not None) or None


def _words(price: Price | None) -> str:
    if price is None:
        return "unknown"
    text = price_as_text(price)
    stated = [f"{words} {text[key]}" for key, words in _WORDS.items() if text[key] not in (None, "0")]
    return f"{', '.join(stated) or 'nothing'} {'USD' if price.currency == 'usd' else 'credits'}"


def _rates(price: Price, choose: Callable[[Iterable[int]], int]) -> Iterator[int]:
    """The rates that a hold is made of, of all tiers one: input without and with cache writes, output, the fee."""
    tiers = [price, *(tier for _, tier in price.tiers)]
    for cache_ttl in get_args(CacheTtl):
        yield choose(dearest_input_atto(tier, cache_ttl=cache_ttl) for tier in tiers)
    yield choose(tier.output_atto for tier in tiers)
    yield choose(tier.request_pico for tier in tiers)


def _factor(before: int, now: int) -> Fraction | None:
    if before == 0:
        return Fraction(0) if now == 0 else None
    return Fraction(now, before)
