"""What else a job could be: its own texts and prices in every other way to ask, for `estimate`.

Owns which ways a job has, and which of them read from a cache. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import structs

from crun_batch.preflight.caching import least_cached_tokens, prefix_complaint
from crun_batch.preflight.frames import Texts, frames_of, texts_of
from crun_batch.preflight.other_tiers import LIVE, TIERS, other_tiers, price_there
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.figures import Estimate
from crun_batch.pricing.prices import BATCH_TIER
from crun_batch.pricing.ways import AnswerLength, Frame, Offer, cache_to_dict, share_read, ways_of, ways_to_dict
from crun_batch.records import Price, Row
from crun_batch.state.run_state import RunContext
from crun_batch.workload.caching import KEYED, keys_needed
from crun_batch.workload.request import Variant

ROWS_LOOKED_AT = 2_000
SEED = 0


def ways_document(context: RunContext, prices: Prices, estimate: Estimate) -> list[dict[str, Any]]:
    """For each variant with a known price: what it costs as it is and in other ways, and the cheapest of them.

    `cache`: what `prompt.cache` of the job does (`prefix_tokens`, `read_share` of the input, `saves` against
    `without`), if the provider keeps the prefix; null where it is off, or keeps nothing.
    """
    variants = [variant for variant in context.workload.variants if _is_plain(variant)]
    if not variants:
        return []
    rows = list(_rows(context))
    told = []
    for variant in variants:
        asked = sum(one.requests * one.rows_together for one in estimate.variants if one.name == variant.name)
        choice, *_ = prices.choices(variant.job.model, variant.terms.service_tier)
        standard = _standard_price(variant, prices)
        if choice.price is None or not asked:
            continue
        texts = texts_of(variant, rows)
        if texts.row is not None:
            offers = list(_offers(variant, texts, choice.price, standard or choice.price))
            told.append(
                {
                    "variant": variant.name,
                    "prices_from": choice.reason,
                    "rows_looked_at": len(texts.whole),
                    "prefix_tokens": texts.prefix_tokens,
                    **_priced(offers, texts, _answer(context, variant, offers[0].frame), asked),
                }
            )
    return told


def _standard_price(variant: Variant, prices: Prices) -> Price | None:
    """That of a request at the standard tier, live."""
    model = variant.job.model
    return prices.live_price(model or "") if variant.goes_in_batches else prices.choices(model)[0].price


def _priced(offers: Sequence[Offer], texts: Texts, answer: AnswerLength, rows: int) -> dict[str, Any]:
    """The first offer, which is the job as it is, beside the others."""
    scale, (here, *elsewhere) = _scale(rows, len(texts.whole)), offers
    of_row = texts.own if len(texts.heads) == 1 else texts.whole
    own = texts.whole if here.frame.rows == 1 else of_row
    [as_is] = ways_of(own, answer, [here], scale)
    cache: dict[str, Any] | None = None
    if here.is_cached:
        [without] = ways_of(own, answer, [structs.replace(here, is_cached=False, writes_cache=False)], scale)
        cache = {"prefix_tokens": here.frame.prefix_tokens}
        cache |= cache_to_dict(as_is, without, share_read(own, here, rows))
    others = ways_of(of_row, answer, elsewhere, scale)
    return {**ways_to_dict(as_is, others, here.price.currency), "cache": cache}


def cache_notes(context: RunContext) -> list[str]:
    """Why the job's `prompt.cache` keeps nothing, where that is so."""
    asking = [variant for variant in context.workload.variants if variant.job.prompt.cache != "off"]
    rows = list(_rows(context)) if asking else []
    told = (prefix_complaint(variant, rows) for variant in asking)
    return list(dict.fromkeys(note for note in told if note is not None))


def _is_plain(variant: Variant) -> bool:
    """Whether each row has one text at the end of its request: no conversation, no body of its own."""
    job = variant.job
    says_more = job.prompt.body_column is not None or job.prompt.turns is not None
    return not says_more and job.model is not None


def _rows(context: RunContext) -> Iterator[Row]:
    """The open rows, or random ones of them."""
    table, columns = context.workload.table, context.workload.columns
    wanted = context.state.done.open_rows(context.workload.slots.per_row)
    if table.count(wanted) > ROWS_LOOKED_AT:
        yield from table.spread_rows(ROWS_LOOKED_AT, SEED, columns, wanted)
        return
    for batch in table.rows(columns, wanted=wanted):
        yield from batch


def _offers(variant: Variant, texts: Texts, price: Price, standard: Price) -> Iterator[Offer]:
    """As it is, then every other way that this job has. With `prompt.cache` all of them read what is kept."""
    job, keeps = variant.job, variant.job.prompt.cache != "off"
    current, *frames = frames_of(variant, texts)
    here = Frame(1, 0, prefix_tokens=current.frame.prefix_tokens) if current.frame.rows == 1 else current.frame
    yield _cached(variant, Offer("as it is", "", here, price), is_cached=keeps)
    for other in (current, *frames):
        for tier, tiered in {"": "", **other_tiers(job)}.items():
            sold = price_there(job, standard, tier) if tier else price
            in_batches = tier == BATCH_TIER or (variant.goes_in_batches and tier != LIVE)
            spares_nothing = sold == price and tier not in ("", LIVE)
            is_no_way = other.frame.rows > 1 and in_batches  # what goes in batches goes one row a request
            if sold is None or spares_nothing or is_no_way:
                continue
            says = [one for one in (other.says, tiered) if one]
            tier_name = f"the {tier} tier" if tier in TIERS else tier
            names = [name for name in (other.name, tier_name) if name]
            offer = Offer(", ".join(names), "; ".join(says), other.frame, sold)
            if names:
                yield _cached(variant, offer, is_cached=keeps and not in_batches)
            if not keeps and not in_batches:
                names, says = [*names, "a cached prefix"], [*says, "prompt: {cache: auto}"]
                offer = Offer(", ".join(names), "; ".join(says), other.frame, sold)
                cached = _cached(variant, offer, is_cached=True)
                if cached.is_cached:
                    yield cached


def _cached(variant: Variant, offer: Offer, *, is_cached: bool) -> Offer:
    """With what requests read from a cache, where they can: all but the one that goes ahead of each key."""
    if not is_cached or not _is_cacheable(variant, offer.frame, offer.price):
        return offer
    job, writes = variant.job, variant.protocol_name == "messages"
    keys = keys_needed(job) if job.endpoint.protocol in KEYED else 1
    return structs.replace(offer, is_cached=True, writes_cache=writes, cold=keys)


def _is_cacheable(variant: Variant, frame: Frame, price: Price) -> bool:
    least = least_cached_tokens(variant)
    cached = price.cached_input_atto
    must_write = variant.protocol_name == "messages" and price.cache_write_atto is None
    return frame.prefix_tokens >= least and cached is not None and cached < price.input_atto and not must_write


def _answer(context: RunContext, variant: Variant, here: Frame) -> AnswerLength:
    """So far; of a row among others without what stands around its answer."""
    finished = context.state.account.finished_requests().like(
        variant.name, packs=variant.job.pack is not None, rows=here.rows
    )
    mean = None
    if finished is not None and finished.requests:
        mean = max(1.0, finished.output_tokens / finished.requests - here.output_tokens / here.rows)
    return AnswerLength(1, mean, variant.job.output_limit_tokens)


def _scale(requests: int, looked_at: int) -> Any:
    return lambda pico: (2 * pico * requests + looked_at) // (2 * looked_at)
