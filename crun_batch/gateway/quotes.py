"""Prices that gateways tell: the replies of the model list calls, read into exact dollars per token.

A price that these fields cannot express is no quote: a part of a price would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
from msgspec import Struct

from crun_batch.gateway.balance import amount_of


class PriceQuote(Struct, frozen=True):
    """Dollars per token, exact. None: the gateway does not say. `request_usd` is a fee added for each request."""

    input_usd: Decimal
    output_usd: Decimal
    cached_input_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None
    request_usd: Decimal | None = None
    source: str = "models"


class ModelInfo(Struct, frozen=True):
    """A model that the gateway lists, with its own price where it tells one."""

    id: str
    quote: PriceQuote | None = None


OPENROUTER_FIELDS = {
    "input_usd": "prompt",
    "output_usd": "completion",
    "cached_input_usd": "input_cache_read",
    "cache_write_usd": "input_cache_write",
    "request_usd": "request",
}
LITELLM_FIELDS = {
    "input_usd": "input_cost_per_token",
    "output_usd": "output_cost_per_token",
    "cached_input_usd": "cache_read_input_token_cost",
    "cache_write_usd": "cache_creation_input_token_cost",
    "request_usd": "input_cost_per_request",
}


def model_infos(payload: Mapping[str, Any]) -> list[ModelInfo] | None:
    """The models of an OpenAI-style list, with OpenRouter's prices where it has them; None for another shape."""
    data = payload.get("data")
    if not isinstance(data, list):
        return None
    entries = [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
    return [ModelInfo(entry["id"], openrouter_quote(entry.get("pricing"))) for entry in entries]


def openrouter_quote(pricing: object) -> PriceQuote | None:
    """The quote in an OpenRouter model's `pricing`: texts, dollars per token.

    None for a negative price (-1: it depends on where the request is routed) and where reasoning tokens have
    a price of their own.
    """
    if not isinstance(pricing, dict):
        return None
    quote = _quote(pricing, OPENROUTER_FIELDS)
    reasoning_usd = amount_of(pricing.get("internal_reasoning"))
    if quote is None or (reasoning_usd and reasoning_usd != quote.output_usd):
        return None
    return quote


def litellm_quotes(payload: Mapping[str, Any]) -> dict[str, PriceQuote | None]:
    """Model name -> quote, of LiteLLM's `/model/info`.

    None where two deployments of one name differ, where the price depends on the prompt's length, and where
    both prices are 0: LiteLLM says 0 for a model that it does not know.
    """
    quotes: dict[str, PriceQuote | None] = {}
    data = payload.get("data")
    for entry in data if isinstance(data, list) else ():
        name = entry.get("model_name") if isinstance(entry, dict) else None
        if isinstance(name, str):
            quote = _litellm_quote(entry.get("model_info"))
            quotes[name] = quote if quotes.get(name, quote) == quote else None
    return quotes


def _litellm_quote(model_info: object) -> PriceQuote | None:
    if not isinstance(model_info, dict):
        return None
    if any("_above_" in key and "_token" in key and value is not None for key, value in model_info.items()):
        return None
    quote = _quote(model_info, LITELLM_FIELDS)
    return quote if quote and (quote.input_usd or quote.output_usd) else None


def _quote(stated: Mapping[str, Any], fields: Mapping[str, str]) -> PriceQuote | None:
    """The quote, where the input and output price are there and every stated price is an amount of 0 or more."""
    amounts = {name: amount_of(stated[key]) for name, key in fields.items() if stated.get(key) is not None}
    if "input_usd" not in amounts or "output_usd" not in amounts:
        return None
    if any(amount is None or amount < 0 for amount in amounts.values()):
        return None
    return msgspec.convert(amounts, PriceQuote)
