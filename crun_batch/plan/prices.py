"""What a token costs, and so what a request did cost and what it may cost at most.

Owns: where a price comes from (the reply's own cost > the job file > the gateway's model list > public list
prices > unknown) and the arithmetic on it. Resolved once per model (genai-prices takes 0.2 ms a call), applied
to every request. Must not know: who asks, what else was spent, the clock (a date is passed in).

All arithmetic is on integers: atto (10**-18) per token, rounded once, half to even, to pico (10**-12). A price
or cost that is not known is None, never 0 and never a guess: list prices hold only at the provider's own host,
and a price at CRUN without its minimum per request is half a price, so unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec.structs
from msgspec import Struct

from crun_batch.records import PICO, Cost, CostSource, Hold, Price, Usage

CRUN_HOST = "api.crun.ai"
ATTO = 10**18
ATTO_PER_PICO = ATTO // PICO
TOKENS_PER_MTOK = 10**6

_PER_MTOK_FIELDS = {
    "input_atto": "input_per_mtok",
    "output_atto": "output_per_mtok",
    "cached_input_atto": "cached_input_per_mtok",
    "cache_write_atto": "cache_write_per_mtok",
}
_LIST_FIELDS = {
    "input_atto": "input_mtok",
    "output_atto": "output_mtok",
    "cached_input_atto": "cache_read_mtok",
    "cache_write_atto": "cache_write_mtok",
}
_UNPRICEABLE_LIST_KEYS = ("output_reasoning_mtok", "output_citation_mtok", "input_text_messages_kcount")
"""A model that bills these has charges that its token counts do not show: its price counts as unknown."""


class Quote(Protocol):
    """What a gateway's model list says: dollars per token, per request; None where it says nothing."""

    @property
    def input_usd(self) -> Decimal | None: ...
    @property
    def output_usd(self) -> Decimal | None: ...
    @property
    def cached_input_usd(self) -> Decimal | None: ...
    @property
    def cache_write_usd(self) -> Decimal | None: ...
    @property
    def request_usd(self) -> Decimal | None: ...


class PriceChoice(Struct, frozen=True):
    """The price of one model, or None, and the reason in words."""

    price: Price | None
    reason: str


def choose_price(
    model: str, base_url: str, *, job_spec: object = None, quote: Quote | None = None, at: datetime
) -> PriceChoice:
    """The price to use for `model` at `base_url`: the job's, else the gateway's, else the public list's.

    `job_spec` is the job's `prices.models[model]` (mapping or object), `quote` the gateway's own, `at` the
    moment whose list prices count (some depend on the date or hour).
    """
    behind_crun = _host(base_url) == CRUN_HOST
    if job_spec is not None:
        if behind_crun and _get(job_spec, "minimum_per_request") is None:
            return PriceChoice(None, _NO_MINIMUM.format(model=model))
        return PriceChoice(price_from_job(job_spec), f"prices.models.{model} of the job file")
    if behind_crun:
        return PriceChoice(None, _NO_CRUN_PRICE.format(model=model))
    if quote is not None and (price := price_from_quote(quote)) is not None:
        return PriceChoice(price, "the gateway's model list")
    if (price := price_from_list(model, base_url, at=at)) is not None:
        return PriceChoice(price, f"public list price on {at:%Y-%m-%d} (genai-prices)")
    return PriceChoice(None, _NO_PRICE.format(model=model))


_NO_MINIMUM = (
    "prices.models.{model} has no minimum_per_request: CRUN charges a minimum for every request (usually 0.01), "
    "so without it the price is unknown; add minimum_per_request, 0 if there is none"
)
_NO_CRUN_PRICE = (
    "CRUN tells no prices by API and list prices do not hold there; add prices.models.{model} to the job file, "
    "from CRUN's price page, with its minimum_per_request"
)
_NO_PRICE = (
    "no price is known for {model} at this gateway; add prices.models.{model} to the job file "
    "(currency, input_per_mtok, output_per_mtok)"
)


def price_from_job(spec: object) -> Price:
    """Price of the job file: {currency, input_per_mtok, output_per_mtok, ...}, amounts as Decimal.

    `tiers` is a list of the same fields with `above_input_tokens`; what a tier leaves out is as in the base.
    """
    base = {name: _per_mtok(_get(spec, key)) for name, key in _PER_MTOK_FIELDS.items()}
    currency = _get(spec, "currency")
    minimum = _get(spec, "minimum_per_request")
    minimum_pico = 0 if minimum is None else pico_of(minimum)
    tiers = []
    for tier in _get(spec, "tiers") or ():
        stated = {name: _per_mtok(_get(tier, key)) for name, key in _PER_MTOK_FIELDS.items()}
        rates = {name: base[name] if value is None else value for name, value in stated.items()}
        price = _price(currency, "job", rates, minimum_pico=minimum_pico)
        tiers.append((int(_get(tier, "above_input_tokens")), price))
    return _price(currency, "job", base, minimum_pico=minimum_pico, tiers=tuple(sorted(tiers, key=_threshold)))


def price_from_quote(quote: Quote) -> Price | None:
    """Price of a gateway's model list; None where it names no input or output price.

    None also for a negative one (OpenRouter's -1: it depends on where the request ends up).
    """
    amounts = {
        "input_atto": quote.input_usd,
        "output_atto": quote.output_usd,
        "cached_input_atto": quote.cached_input_usd,
        "cache_write_atto": quote.cache_write_usd,
    }
    stated = [amount for amount in (*amounts.values(), quote.request_usd) if amount is not None]
    if quote.input_usd is None or quote.output_usd is None or not all(map(_is_amount, stated)):
        return None
    rates = {name: None if amount is None else _scaled(amount, ATTO) for name, amount in amounts.items()}
    fee = 0 if quote.request_usd is None else pico_of(quote.request_usd)
    return _price("usd", "models", rates, request_pico=fee)


def price_from_list(model: str, base_url: str, *, at: datetime) -> Price | None:
    """Public list price (genai-prices, bundled with its release) of `model`, at the provider's own host only.

    Charges that token counts do not show (web searches, audio, images) are not in it. None for an unknown
    host or model, and for a model whose text is billed by anything but input and output tokens.
    """
    from genai_prices import data_snapshot  # loads in 0.4 s: only where a list price is asked for

    snapshot = data_snapshot.get_snapshot()
    try:
        provider = snapshot.find_provider(None, None, base_url)
        if not _is_own_host(provider.api_pattern, base_url):
            return None
        _, found = snapshot.find_provider_model(model, provider, None, None)
    except LookupError:
        return None
    prices: dict[str, Any] = {key: value for key, value in vars(found.get_prices(at)).items() if value is not None}
    if "input_mtok" not in prices or "output_mtok" not in prices or prices.keys() & set(_UNPRICEABLE_LIST_KEYS):
        return None
    requests_kcount = prices.get("requests_kcount")
    if hasattr(requests_kcount, "tiers"):
        return None
    fee = 0 if requests_kcount is None else pico_of(requests_kcount / 1000)
    listed = {name: prices.get(key) for name, key in _LIST_FIELDS.items()}
    thresholds = sorted({tier.start for value in listed.values() for tier in getattr(value, "tiers", ())})
    tiers = tuple((start, _list_price(listed, start + 1, fee)) for start in thresholds)
    base = _list_price(listed, 0, fee)
    return msgspec.structs.replace(base, tiers=tiers)


def charge(
    price: Price | None,
    usage: Usage | None,
    *,
    reported_usd: str | None = None,
    credits_per_usd: Decimal | None = None,
) -> Cost:
    """What a request cost: max(minimum, fee + tokens x price); unknown without both a price and token counts.

    A cost that the reply itself states wins (source `reply`, in dollars). Cached and cache-write tokens have
    their own price; where none was given, the input price. The other unit comes from `credits_per_usd`, or
    stays None.
    """
    cost = Cost()
    if price is not None and usage is not None:
        usd, credits_ = both_units(price.currency, _amount_atto(price, usage), credits_per_usd)
        cost = Cost(usd, credits_, price.source)
    reported = None if reported_usd is None else reported_amount(reported_usd)
    if reported is None:
        return cost
    usd, credits_ = both_units("usd", _scaled(reported, ATTO), credits_per_usd)
    return Cost(usd, cost.credits_pico if credits_ is None else credits_, "reply")


def hold(
    price: Price | None,
    input_bound_tokens: int | None,
    output_bound_tokens: int | None,
    credits_per_usd: Decimal | None = None,
) -> Hold:
    """The most that a request can cost, rounded up; Hold() where the price or one of the bounds is unknown.

    Every input token at the dearest of its prices, the dearest tier within reach, all of the output limit.
    """
    if input_bound_tokens is None:
        return Hold()
    return holds(price, output_bound_tokens, credits_per_usd)(input_bound_tokens)


def holds(
    price: Price | None, output_bound_tokens: int | None, credits_per_usd: Decimal | None
) -> Callable[[int], Hold]:
    """`hold` for many requests of the same price and output limit, as a function of their input bounds."""
    if price is None or output_bound_tokens is None:
        unknown = Hold()
        return lambda input_bound_tokens: unknown
    lines = [
        (above, *_ceiling_line(tier, output_bound_tokens), tier.minimum_pico * ATTO_PER_PICO)
        for above, tier in ((-1, price), *price.tiers)
    ]
    currency = price.currency

    def at(input_bound_tokens: int) -> Hold:
        atto = 0
        for above, per_token_atto, fixed_atto, minimum_atto in lines:
            if input_bound_tokens > above:
                atto = max(atto, minimum_atto, input_bound_tokens * per_token_atto + fixed_atto)
        return Hold(*both_units(currency, atto, credits_per_usd, up=True))

    return at


def decimal_text(pico: int) -> str:
    """An amount in pico-units as plain decimal text, exact, without trailing zeros: 10**10 -> "0.01"."""
    sign, (whole, part) = "-" if pico < 0 else "", divmod(abs(pico), PICO)
    return f"{sign}{whole}.{part:012d}".rstrip("0").rstrip(".")


def pico_of(amount: Decimal) -> int:
    """An amount in pico-units, rounded half to even."""
    return _scaled(amount, PICO)


def reported_amount(text: str) -> Decimal | None:
    """A cost stated by a reply, in dollars. None for what is no amount: NaN, negative, absurdly large."""
    if len(text) > 64:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    if not _is_amount(amount):
        return None
    return amount if amount.adjusted() > -30 else Decimal(0)


def price_as_text(price: Price) -> dict[str, object]:
    """The price as a person writes it, amounts as decimal text per million tokens; for job.json and --json."""
    text: dict[str, object] = {"currency": price.currency, "source": price.source}
    for name, key in _PER_MTOK_FIELDS.items():
        value = getattr(price, name)
        text[key] = None if value is None else decimal_text(value)  # atto per token = pico per mtok
    text["minimum_per_request"] = decimal_text(price.minimum_pico)
    text["fee_per_request"] = decimal_text(price.request_pico)
    text["tiers"] = [{"above_input_tokens": above, **price_as_text(tier)} for above, tier in price.tiers]
    return text


def _amount_atto(price: Price, usage: Usage) -> int:
    tokens = usage.input_tokens
    for threshold, tier in price.tiers:
        if tokens > threshold:
            price = tier
    input_atto = price.input_atto
    cached_atto = input_atto if price.cached_input_atto is None else price.cached_input_atto
    write_atto = input_atto if price.cache_write_atto is None else price.cache_write_atto
    cached, written = usage.cached_input_tokens, usage.cache_write_tokens
    atto = (
        max(0, tokens - cached - written) * input_atto
        + cached * cached_atto
        + written * write_atto
        + usage.output_tokens * price.output_atto
        + price.request_pico * ATTO_PER_PICO
    )
    return max(price.minimum_pico * ATTO_PER_PICO, atto)


def _ceiling_line(price: Price, output_tokens: int) -> tuple[int, int]:
    """(atto per input token, atto whatever the input) of the most that a request can cost."""
    dearest = max(price.input_atto, price.cached_input_atto or 0, price.cache_write_atto or 0)
    return dearest, output_tokens * price.output_atto + price.request_pico * ATTO_PER_PICO


def both_units(
    currency: Literal["usd", "credits"], atto: int, credits_per_usd: Decimal | None, *, up: bool = False
) -> tuple[int | None, int | None]:
    """(dollars, credits) in pico of an amount in atto; each is rounded once, from the exact value."""
    divide = _divide_up if up else _divide_half_even
    own = divide(atto, ATTO_PER_PICO)
    if credits_per_usd is None:
        return (own, None) if currency == "usd" else (None, own)
    above, below = _ratio(credits_per_usd)
    if currency == "usd":
        return own, divide(atto * above, below * ATTO_PER_PICO)
    return divide(atto * below, above * ATTO_PER_PICO), own


@lru_cache(maxsize=16)
def _ratio(credits_per_usd: Decimal) -> tuple[int, int]:
    return credits_per_usd.as_integer_ratio()


def _divide_half_even(dividend: int, divisor: int) -> int:
    quotient, rest = divmod(dividend, divisor)
    twice = 2 * rest
    return quotient + (twice > divisor or (twice == divisor and quotient & 1))


def _divide_up(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _scaled(amount: Decimal, scale: int) -> int:
    above, below = amount.as_integer_ratio()
    return _divide_half_even(above * scale, below)


def _is_amount(amount: Decimal) -> bool:
    """Finite, not negative, below ten trillion: no exponent in it can blow an integer up."""
    return amount.is_finite() and amount >= 0 and amount.adjusted() <= 12


def _per_mtok(amount: Decimal | None) -> int | None:
    return None if amount is None else _scaled(amount, ATTO // TOKENS_PER_MTOK)


def _price(
    currency: Literal["usd", "credits"], source: CostSource, rates: Mapping[str, int | None], **more: Any
) -> Price:
    input_atto, output_atto = rates["input_atto"], rates["output_atto"]
    if input_atto is None or output_atto is None:
        raise ValueError("a price needs input_per_mtok and output_per_mtok")
    return Price(
        currency=currency,
        source=source,
        input_atto=input_atto,
        output_atto=output_atto,
        cached_input_atto=rates["cached_input_atto"],
        cache_write_atto=rates["cache_write_atto"],
        **more,
    )


def _list_price(listed: Mapping[str, Any], input_tokens: int, fee_pico: int) -> Price:
    """The list price that holds for a request of that many input tokens."""
    rates = {}
    for name, value in listed.items():
        amount = getattr(value, "base", value)
        for tier in getattr(value, "tiers", ()):
            if input_tokens > tier.start:
                amount = tier.price
        rates[name] = _per_mtok(amount)
    return _price("usd", "list", rates, request_pico=fee_pico)


def _threshold(tier: tuple[int, Price]) -> int:
    return tier[0]


def _get(spec: object, name: str) -> Any:
    return spec.get(name) if isinstance(spec, Mapping) else getattr(spec, name, None)


def _host(base_url: str) -> str:
    return (urlsplit(base_url).hostname or "").lower()


def _is_own_host(pattern: str, base_url: str) -> bool:
    """Whether the pattern covers the whole host; one that ends in a dot (`api.moonshot.`) leaves one label open.

    genai-prices matches prefixes only, and api.openai.com.example.org is not OpenAI.
    """
    parts = urlsplit(base_url)
    names_a_path = re.search(r"[\w)]/", pattern) is not None
    match = re.match(pattern, base_url if names_a_path else f"{parts.scheme}://{parts.netloc}")
    if match is None:
        return False
    matched_host = match.group().rpartition("://")[2].partition("/")[0]
    rest = parts.netloc.removeprefix(matched_host).partition(":")[0]
    return rest == "" or (matched_host.endswith(".") and "." not in rest)
