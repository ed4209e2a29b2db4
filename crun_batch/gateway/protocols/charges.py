"""What a reply says of its bill beside its token counts: the tier, the cost itself.

Sources: the API references of OpenAI, Anthropic and Perplexity, OpenRouter's "Usage Accounting".
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from crun_batch.gateway.protocols.protocol import JsonObject
from crun_batch.gateway.protocols.values import json_object
from crun_batch.records import tier_named

INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")

UPSTREAM = "upstream_inference_cost"
MOST_USD = 10**6
"""A reply that says it cost as much states something else than its cost."""


def service_tier(payload: JsonObject) -> str | None:
    """At which tier the reply says that it was served: OpenAI beside the usage, Anthropic in it."""
    usage = json_object(payload.get("usage"))
    return tier_named(payload.get("service_tier")) or tier_named(usage.get("service_tier"))


def cost_text(value: object) -> str | None:
    """A cost as plain decimal text; None for what is no finite amount from 0 on. Floats by their shortest form."""
    if type(value) not in (int, float, str):
        return None
    text = value if isinstance(value, str) else repr(value)
    try:
        amount = Decimal(text) if len(text) <= 60 else None
    except InvalidOperation:
        return None
    if amount is None or not amount.is_finite() or amount < 0 or amount >= MOST_USD or amount.adjusted() <= -30:
        return None
    return format(abs(amount), "f")


def reported_usd(payload: JsonObject) -> str | None:
    """The cost that the reply states itself, in dollars: `usage.cost` (OpenRouter), its `total_cost` (Perplexity).

    0 states none: gateways say it for models that they have no price for, and for requests billed elsewhere. A
    model that is free has a price, of 0. Under a key of one's own (`is_byok`, OpenRouter's usage accounting)
    `cost` is the gateway's fee alone, and the provider's bill stands beside it: both are the cost.
    """
    usage = payload.get("usage")
    if type(usage) is not dict or "cost" not in usage:
        return None
    cost = usage["cost"]
    if type(cost) is dict:
        return stated_cost(cost.get("total_cost"))
    if usage.get("is_byok") is not True:
        return stated_cost(cost)
    fee, upstream = cost_text(cost), cost_text(json_object(usage.get("cost_details")).get(UPSTREAM))
    both = None if fee is None or upstream is None or not Decimal(upstream) else Decimal(fee) + Decimal(upstream)
    return None if both is None else stated_cost(format(both, "f"))


def stated_cost(value: object) -> str | None:
    """A cost that a reply states about itself, as decimal text; None for 0 and for what is no amount."""
    text = cost_text(value)
    return text if text is not None and Decimal(text) > 0 else None
