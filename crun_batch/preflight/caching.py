"""What a cache of prompts asks of a job before it starts: a price for writing it, and something to keep.

Owns both complaints, in words, and how long what all requests begin with must be. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

from msgspec import structs

from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.may_start import Preflight
from crun_batch.records import Row
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.request import Variant

LEAST_CACHED_TOKENS = {"claude": 4_096}
"""A shorter prefix is not cached: Anthropic's longest minimum among its models (prompt caching, limitations)."""
LEAST_CACHED_ELSEWHERE = 1_024
"""OpenAI's (prompt caching guide)."""
ROWS_COMPARED = 200


def least_cached_tokens(variant: Variant) -> int:
    """How many tokens the requests must share before a provider keeps them."""
    model = (variant.job.model or "").lower()
    return next((tokens for name, tokens in LEAST_CACHED_TOKENS.items() if name in model), LEAST_CACHED_ELSEWHERE)


def prefix_complaint(variant: Variant, rows: Iterable[Row]) -> str | None:
    """Why `prompt.cache` can keep nothing for this variant, as some rows show; None where it can, or is off."""
    job = variant.job
    if job.prompt.cache == "off":
        return None
    if job.prompt.body_column is not None:
        return "prompt.cache changes nothing: bodies of the table are sent byte for byte"
    texts = []
    for row in rows:
        try:
            texts.append(said(variant.renderer.render(row).messages))
        except RowRejected:
            continue
    prefix = reduce(shared, texts) if texts else None
    tokens, least = token_counter(job.model or "").count(prefix or ""), least_cached_tokens(variant)
    if tokens >= least:
        return None
    begins = f"the requests of {variant.name} share their first {tokens:,} tokens, up to {(prefix or '')[-40:]!r}"
    advice = "put what changes from row to row last"
    return f"prompt.cache keeps nothing: {begins}, and providers keep {least:,} or more; {advice}"


def said(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """All texts, one after another; None where there is more than texts."""
    contents = [message.get("content") for message in messages]
    return "".join(contents) if all(isinstance(one, str) for one in contents) else None  # type: ignore[arg-type]


def shared(prefix: str | None, text: str | None) -> str | None:
    """What both begin with; None where one of them is no text."""
    if prefix is None or text is None:
        return None
    if text.startswith(prefix):
        return prefix
    differs = next(place for place in range(len(prefix)) if prefix[place] != text[place : place + 1])
    return prefix[:differs]


def with_write_prices(verdict: Preflight, variants: Sequence[Variant], prices: Prices) -> Preflight:
    """The verdict; a run that would mark what is to be cached may not start where a write has no price.

    Writes cost 1.25 to 2 times what input costs (Anthropic's pricing page): priced as input they would be told too
    low, and unpriced each of them would be of unknown cost.
    """
    unpriced = next(_unpriced(variants, prices), None)
    if unpriced is None or not verdict.may_start:
        return verdict
    return structs.replace(verdict, may_start=False, sentence=unpriced)


def _unpriced(variants: Sequence[Variant], prices: Prices) -> Iterator[str]:
    for variant in variants:
        model, hints = variant.job.model, variant.hints
        if hints is None or hints.marked is None:
            continue
        known = [price for price in prices.prices(model, variant.terms.service_tier) if price is not None]
        if any(price.cache_write_atto is None for price in known):
            yield (
                f"prompt.cache marks what is to be written to a cache, and what a write costs for {model} is not "
                f"known: add prices.models.{model}.cache_write_per_mtok, or set prompt.cache: off"
            )
