"""What a reply says of its bill beside its token counts: the tier, what else is billed, the cost itself.

Sources: the API references and price pages of OpenAI and Anthropic, xAI's "Cost Tracking", OpenRouter's "Usage
Accounting", Perplexity's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from crun_batch.gateway.protocols.protocol import JsonObject
from crun_batch.gateway.protocols.values import json_object, objects, word
from crun_batch.records import AUTO_TIER, STANDARD_TIERS

INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
DEARER_TERMS = (("speed", "fast"), ("inference_geo", "us"))
"""(Field, value) of a request, and of the usage in its reply: what has a price of its own beside the tier's.

Anthropic's fast mode, and inference that stays in one country.
"""
OTHER_COUNTS = (
    *(("audio tokens", (details, "audio_tokens")) for details in (*INPUT_DETAILS, *OUTPUT_DETAILS)),
    ("audio tokens", ("prompt_audio_seconds",)),
    *(("image tokens", (details, "image_tokens")) for details in OUTPUT_DETAILS),
    ("searches", ("server_tool_use", "web_search_requests")),
    *(("searches", (details, "web_search_requests")) for details in INPUT_DETAILS),
    ("searches", ("num_sources_used",)),
    ("hosted tools", ("num_server_side_tools_used",)),
)
"""(What is billed, where a usage counts it): at another price than that of its tokens, or beside all of them."""
OTHER_ITEMS = {
    "web_search_call": "searches",
    "file_search_call": "searches",
    "code_interpreter_call": "hosted tools",
    "image_generation_call": "image tokens",
}
"""Type of an item of a response's output -> what is billed for it beside the tokens."""

UPSTREAM = "upstream_inference_cost"
TICKS_PER_USD = 10**10
"""xAI states costs in these."""

MOST_USD = 10**6
"""A reply that says it cost as much states something else than its cost."""


def service_tier(payload: JsonObject) -> str | None:
    """At which tier the reply says that it was served: OpenAI beside the usage, Anthropic in it."""
    usage = json_object(payload.get("usage"))
    return billed_tier(tier_named(payload.get("service_tier")) or tier_named(usage.get("service_tier")), usage)


def tier_named(told: object) -> str | None:
    """The service tier that a reply or a request names; None where it names none."""
    return told if isinstance(told, str) and told and told.lower() != AUTO_TIER else None


def billed_tier(tier: str | None, terms: Mapping[str, object]) -> str | None:
    """The tier that has the price: with the `DEARER_TERMS`, joined by +, the standard one unnamed beside them."""
    dearer = [value for name, value in DEARER_TERMS if terms.get(name) == value]
    if not dearer:
        return tier
    return "+".join(dearer if tier is None or tier.lower() in STANDARD_TIERS else (tier, *dearer))


def other_charges(payload: JsonObject) -> str | None:
    """What the reply was billed for otherwise than by its token counts, in words; None: it names nothing such.

    Chat replies do not count their searches, but cite the pages that were found (OpenAI's search models). Tokens
    that an Anthropic message needed to compact its context stand beside its counts, in `iterations`.
    """
    usage = json_object(payload.get("usage"))
    counted = [what for what, path in OTHER_COUNTS if path[0] in usage and _within(usage, path)]
    items = [OTHER_ITEMS.get(word(item.get("type")) or "") for item in objects(payload.get("output"))]
    cited = ["searches" for choice in objects(payload.get("choices")) if _cites_pages(choice)]
    others = ["compaction" for step in objects(usage.get("iterations")) if step.get("type") != "message"]
    return ", ".join(dict.fromkeys(filter(None, (*counted, *items, *cited, *others)))) or None


def _cites_pages(choice: JsonObject) -> bool:
    notes = objects(json_object(choice.get("message")).get("annotations"))
    return any(note.get("type") == "url_citation" for note in notes)


def _within(value: object, path: Sequence[str]) -> object:
    for name in path:
        value = json_object(value).get(name)
    return value


def cost_text(value: object, at_most: int = MOST_USD) -> str | None:
    """A cost as plain decimal text; None for what is no finite amount from 0 on. Floats by their shortest form."""
    if type(value) not in (int, float, str):
        return None
    text = value if isinstance(value, str) else repr(value)
    try:
        amount = Decimal(text) if len(text) <= 60 else None
    except InvalidOperation:
        return None
    if amount is None or not amount.is_finite() or amount < 0 or amount >= at_most or amount.adjusted() <= -30:
        return None
    return format(abs(amount), "f")


def reported_usd(payload: JsonObject) -> str | None:
    """The cost that the reply states itself, in dollars.

    `usage.cost` (OpenRouter), its `total_cost` (Perplexity), `cost_in_usd_ticks` (xAI). 0 states none: gateways
    say it for models that they have no price for, and for requests billed elsewhere. A model that is free has a
    price, of 0. Under a key of one's own (`is_byok`, OpenRouter's usage accounting) `cost` is the gateway's fee
    alone, and the provider's bill stands beside it: both are the cost.
    """
    usage = json_object(payload.get("usage"))
    cost = usage.get("cost")
    if cost is None:
        ticks = cost_text(usage.get("cost_in_usd_ticks"), at_most=MOST_USD * TICKS_PER_USD)
        return None if ticks is None else stated_cost(format(Decimal(ticks) / TICKS_PER_USD, "f"))
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
