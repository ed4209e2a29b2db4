"""What a token costs: where a price comes from.

Owns: the order of the sources (the job file > the gateway's model list > public list prices > unknown; a reply's
own cost goes before all, see `costs`). Resolved once per model (genai-prices takes 0.2 ms a call). Must not know:
who asks, what was spent, the clock (a date is passed in).

A price that is not known is None, never 0 and never a guess: list prices hold only at the provider's own host, and
a price at CRUN without its minimum per request is half a price, so unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import msgspec.structs
from msgspec import Struct

from crun_batch.pricing.costs import ATTO, is_amount
from crun_batch.records import STANDARD_TIERS, CostSource, Price, decimal_text, pico_of, scaled

CRUN_HOST = "api.crun.ai"
TOKENS_PER_MTOK = 10**6
BATCH_TIER = "batch"

_PER_MTOK_FIELDS = {
    "input_atto": "input_per_mtok",
    "output_atto": "output_per_mtok",
    "cached_input_atto": "cached_input_per_mtok",
    "cache_write_atto": "cache_write_per_mtok",
    "cache_write_1h_atto": "cache_write_1h_per_mtok",
}
_LIST_FIELDS = {
    "input_atto": "input_mtok",
    "output_atto": "output_mtok",
    "cached_input_atto": "cache_read_mtok",
    "cache_write_atto": "cache_write_mtok",
    "cache_write_1h_atto": "cache_write_1h_mtok",
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
    "CRUN gives no prices by API and list prices do not hold there; add prices.models.{model} to the job file, "
    "from CRUN's price page, with its minimum_per_request"
)
_NO_PRICE = (
    "no price is known for {model} at this gateway; add prices.models.{model} to the job file "
    "(currency, input_per_mtok, output_per_mtok)"
)


_NO_BATCH_PRICE = (
    "no price in a batch is known for {model}; add prices.batch_share to the job file (0.5: half of the price), "
    "or prices.models.{model}.service_tiers.batch"
)


def price_from_job(spec: object) -> Price:
    """Price of the job file: {currency, input_per_mtok, output_per_mtok, ...}, amounts as Decimal.

    `tiers` is a list of the same fields with `above_input_tokens`; what a tier leaves out is as in the base.
    `service_tiers` are whole prices by name, in the same currency; without a minimum theirs is the model's.
    """
    currency, minimum = _get(spec, "currency"), _get(spec, "minimum_per_request")
    service_tiers = _get(spec, "service_tiers") or {}
    price = _price_at_one_tier(spec, currency, minimum)
    others = tuple(
        (name.lower(), _price_at_one_tier(own, currency, minimum)) for name, own in service_tiers.items()
    )
    return msgspec.structs.replace(price, service_tiers=others)


def _price_at_one_tier(spec: object, currency: Any, model_minimum: Decimal | None) -> Price:
    base = {name: _per_mtok(_get(spec, key)) for name, key in _PER_MTOK_FIELDS.items()}
    own_minimum = _get(spec, "minimum_per_request")
    minimum = model_minimum if own_minimum is None else own_minimum
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
    if quote.input_usd is None or quote.output_usd is None or not all(map(is_amount, stated)):
        return None
    rates = {name: None if amount is None else scaled(amount, ATTO) for name, amount in amounts.items()}
    fee = 0 if quote.request_usd is None else pico_of(quote.request_usd)
    return _price("usd", "models", rates, request_pico=fee)


def price_from_list(model: str, base_url: str, *, at: datetime) -> Price | None:
    """Public list price (genai-prices, bundled with its release) of `model`, at the provider's own host only.

    Charges that token counts do not show (web searches, audio, images) are not in it. None for an unknown
    host or model, and for a model whose text is billed by anything but input and output tokens. The service tiers
    are those whose price is listed and holds at that moment.
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
    base = _price_listed(vars(found.get_prices(at)))
    if base is None:
        return None
    contexts = _listed_contexts(found, at)
    tiers = {name: _price_listed(vars(found.get_prices(at, context))) for name, context in contexts.items()}
    own = tuple((name.lower(), price) for name, price in tiers.items() if price is not None)
    return msgspec.structs.replace(base, service_tiers=own)


def _listed_contexts(found: Any, at: datetime) -> dict[str, dict[str, str]]:
    """The service tiers that a model of the list has prices of their own for at that moment, as the list asks.

    What a batch costs stands there as a way of processing; Anthropic's replies call it a tier too.
    """
    named = [
        (variant.when.get("service_tier") or variant.when.get("processing"), variant.when)
        for variant in found.price_variants or ()
        if len(variant.when) == 1 and (variant.constraint is None or variant.constraint.active(at))
    ]
    return {name: when for name, when in named if name is not None and name.lower() not in STANDARD_TIERS}


def _price_listed(amounts: Mapping[str, Any]) -> Price | None:
    """One price of the list; None where something else than input and output tokens is billed."""
    prices = {key: value for key, value in amounts.items() if value is not None}
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


def in_batches(model: str, choice: PriceChoice, share: Decimal | None) -> PriceChoice:
    """What a request costs in a batch: the service tier of that name, where it has a price, else a share of it.

    Replies that name that tier cost the same.
    """
    if choice.price is None:
        return choice
    own, reason = dict(choice.price.service_tiers).get(BATCH_TIER), f"{choice.reason}, service tier batch"
    if own is None and share is not None:
        plain = msgspec.structs.replace(choice.price, service_tiers=())
        own, reason = _share_of(plain, share), f"{choice.reason}, x {share.normalize():f} in a batch"
    if own is None:
        return PriceChoice(None, _NO_BATCH_PRICE.format(model=model))
    dearer = [(name, price) for name, price in choice.price.service_tiers if name.startswith(f"{BATCH_TIER}+")]
    return PriceChoice(msgspec.structs.replace(own, service_tiers=((BATCH_TIER, own), *dearer)), reason)


def _share_of(price: Price, share: Decimal) -> Price:
    rates = {name: getattr(price, name) for name in (*_PER_MTOK_FIELDS, "minimum_pico", "request_pico")}
    shares = {name: None if amount is None else scaled(share, amount) for name, amount in rates.items()}
    tiers = tuple((threshold, _share_of(tier, share)) for threshold, tier in price.tiers)
    return msgspec.structs.replace(price, **shares, tiers=tiers)


def price_as_text(price: Price) -> dict[str, object]:
    """The price as a person writes it, amounts as decimal text per million tokens; for job.json and --json."""
    text: dict[str, object] = {"currency": price.currency, "source": price.source}
    for name, key in _PER_MTOK_FIELDS.items():
        value = getattr(price, name)
        text[key] = None if value is None else decimal_text(value)  # atto per token = pico per mtok
    text["minimum_per_request"] = decimal_text(price.minimum_pico)
    text["fee_per_request"] = decimal_text(price.request_pico)
    text["tiers"] = [{"above_input_tokens": above, **price_as_text(tier)} for above, tier in price.tiers]
    if price.service_tiers:
        text["service_tiers"] = {name: price_as_text(own) for name, own in price.service_tiers}
    return text


def _per_mtok(amount: Decimal | None) -> int | None:
    return None if amount is None else scaled(amount, ATTO // TOKENS_PER_MTOK)


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
        cache_write_1h_atto=rates.get("cache_write_1h_atto"),
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
