"""What else a job could be: its own texts and prices in every other way to ask, for `estimate`.

Owns which ways a job has, and what stands in a request in each of them. Sends and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct, field

from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.preflight.caching import least_cached_tokens, prefix_complaint, said, shared
from crun_batch.preflight.other_tiers import TIERS, other_tiers, price_there
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.figures import Estimate
from crun_batch.pricing.tokens import Counter, count_body, remembering, token_counter
from crun_batch.pricing.ways import AnswerLength, Frame, Offer, ways_of, ways_to_dict
from crun_batch.records import Price, Row
from crun_batch.state.run_state import RunContext
from crun_batch.workload.packed_request import packed_messages
from crun_batch.workload.packing import FORMATS, PackFormat, instruction, packed_reply, packed_schema, packed_text
from crun_batch.workload.request import Variant

ROWS_LOOKED_AT = 2_000
SEED = 0
PACKS = (2, 5, 10, 25, 50)


class Texts(Struct):
    """What the rows that were looked at ask."""

    whole: list[int] = field(default_factory=list)
    """Tokens of each request."""
    own: list[int] = field(default_factory=list)
    """Of each user's message alone."""
    heads: set[bytes] = field(default_factory=set)
    """What stands before it: one, where all rows share it."""
    prefix: str | None = None
    """The text that all requests begin with."""
    row: Row | None = None


def ways_document(context: RunContext, prices: Prices, estimate: Estimate) -> list[dict[str, Any]]:
    """For each variant with a known price: what it costs as it is and in other ways, and the cheapest of them."""
    variants = [variant for variant in context.workload.variants if _is_plain(variant)]
    if not variants:
        return []
    rows = list(_rows(context))
    told = []
    for variant in variants:
        requests = sum(one.requests for one in estimate.variants if one.name == variant.name)
        choice, *_ = prices.choices(variant.job.model, variant.terms.service_tier)
        standard = prices.choices(variant.job.model)[0].price
        if choice.price is None or not requests:
            continue
        counter = remembering(token_counter(variant.job.model or ""))
        texts = _texts(variant, rows, counter)
        if texts.row is not None:
            offers = list(_offers(variant, texts, counter, choice.price, standard or choice.price))
            answer = _answer(context, variant)
            as_is, *others = ways_of(texts.whole, answer, offers[:1], _scale(requests, len(texts.whole)))
            own = texts.own if len(texts.heads) == 1 else texts.whole
            others += ways_of(own, answer, offers[1:], _scale(requests, len(texts.whole)))
            told.append(
                {
                    "variant": variant.name,
                    "prices_from": choice.reason,
                    "rows_looked_at": len(texts.whole),
                    "prefix_tokens": 0 if texts.prefix is None else counter.count(texts.prefix),
                    **ways_to_dict(as_is, others, choice.price.currency),
                }
            )
    return told


def cache_notes(context: RunContext) -> list[str]:
    """Why the job's `prompt.cache` keeps nothing, where that is so."""
    asking = [variant for variant in context.workload.variants if variant.job.prompt.cache != "off"]
    rows = list(_rows(context)) if asking else []
    told = (prefix_complaint(variant, rows) for variant in asking)
    return list(dict.fromkeys(note for note in told if note is not None))


def _is_plain(variant: Variant) -> bool:
    """Whether each row is one request with one text at its end: no conversation, no body of its own, no pack."""
    job = variant.job
    says_more = job.prompt.body_column is not None or job.prompt.turns is not None
    return not says_more and job.model is not None and job.pack is None


def _rows(context: RunContext) -> Iterator[Row]:
    """The open rows, or random ones of them."""
    table, columns = context.workload.table, context.workload.columns
    wanted = context.state.done.open_rows(context.workload.slots.per_row)
    if table.count(wanted) > ROWS_LOOKED_AT:
        yield from table.spread_rows(ROWS_LOOKED_AT, SEED, columns, wanted)
        return
    for batch in table.rows(columns, wanted=wanted):
        yield from batch


def _texts(variant: Variant, rows: Sequence[Row], counter: Counter) -> Texts:
    texts = Texts()
    for row in rows:
        try:
            request, messages = variant.request(row), variant.renderer.render(row).messages
            head = count_body(_body(variant, row, messages, ""), counter).tokens
        except RowRejected:
            continue
        whole = count_body(request.body, counter).tokens
        text = said(messages)
        texts.whole.append(whole)
        texts.own.append(whole - head)
        texts.heads.add(orjson.dumps([messages[:-1], isinstance(messages[-1].get("content"), str)]))
        texts.prefix = text if texts.row is None else shared(texts.prefix, text)
        texts.row = row
    return texts


def _body(variant: Variant, row: Row, messages: Sequence[Mapping[str, Any]], text: str) -> bytes:
    """The request with another text of the user."""
    job = variant.job
    return variant.body(row, [*messages[:-1], {**messages[-1], "content": text}], job.params, job.output_schema)


def _offers(variant: Variant, texts: Texts, counter: Counter, price: Price, standard: Price) -> Iterator[Offer]:
    """As it is, then every other way that this job has."""
    alone = Frame(rows=1, input_tokens=0)
    yield Offer("as it is", "", alone, price)
    assert texts.row is not None
    own = count_body(_body(variant, texts.row, variant.renderer.render(texts.row).messages, ""), counter).tokens
    prefix = 0 if texts.prefix is None else counter.count(texts.prefix)
    has_one_head = len(texts.heads) == 1
    frames = [("", "", Frame(1, own if has_one_head else 0, prefix_tokens=prefix))]
    if has_one_head and _can_pack(variant, texts):
        frames += [
            (
                f"{rows} rows in one request as {form}",
                f"pack: {{rows: {rows}, format: {form}}}",
                _packed(variant, texts.row, counter, rows, form),
            )
            for rows in PACKS
            if rows <= len(texts.whole)
            for form in FORMATS
        ]
    for packed, packs, frame in frames:
        for tier, tiered in {"": "", **other_tiers(variant.job)}.items():
            sold = price_there(variant.job, standard, tier) if tier else price
            if sold is None or (sold == price and tier) or (packed and tier == "batch"):
                continue
            says = "; ".join(filter(None, (packs, tiered)))
            names = [name for name in (packed, f"the {tier} tier" if tier in TIERS else "") if name]
            if names:
                yield Offer(", ".join(names), says, frame, sold)
            is_live = tier != "batch" and not variant.goes_in_batches
            if is_live and _is_cacheable(variant, frame, sold):
                writes = variant.protocol_name == "messages"
                cached = ", ".join([*names, "a cached prefix"])
                keys = "; ".join(filter(None, (says, "prompt: {cache: auto}")))
                yield Offer(cached, keys, frame, sold, is_cached=True, writes_cache=writes)


def _can_pack(variant: Variant, texts: Texts) -> bool:
    """Whether several rows could stand in one request: texts in, a text out."""
    job = variant.job
    shapes = job.output_schema or job.params.get("tools") or job.params.get("response_format")
    asks_alone = (
        variant.goes_in_batches or job.prompt.messages_column is not None or job.endpoint.protocol == "completions"
    )
    return texts.prefix is not None and not shapes and not asks_alone


def _packed(variant: Variant, row: Row, counter: Counter, rows: int, form: PackFormat) -> Frame:
    """What a request of so many rows holds beside their texts."""
    messages = variant.renderer.render(row).messages
    told = packed_messages(messages, "", instruction(rows, form))
    head = count_body(variant.body(row, told, variant.job.params, variant.job.output_schema), counter).tokens
    schema = 0
    if form == "json":
        asked = {"name": "answers", "schema": packed_schema(rows), "strict": True}
        schema = counter.count(orjson.dumps({"type": "json_schema", "json_schema": asked}).decode())
    return Frame(
        rows=rows,
        input_tokens=head + schema,
        item_tokens=round(counter.count(packed_text([""] * rows)) / rows),
        output_tokens=max(0, counter.count(packed_reply(["x"] * rows, form)) - rows),
        prefix_tokens=head,
    )


def _is_cacheable(variant: Variant, frame: Frame, price: Price) -> bool:
    least = least_cached_tokens(variant)
    cached = price.cached_input_atto
    must_write = variant.protocol_name == "messages" and price.cache_write_atto is None
    return frame.prefix_tokens >= least and cached is not None and cached < price.input_atto and not must_write


def _answer(context: RunContext, variant: Variant) -> AnswerLength:
    finished = context.state.account.finished_requests().alone.get(variant.name)
    mean = finished.output_tokens / finished.requests if finished is not None and finished.requests else None
    return AnswerLength(1, mean, variant.job.output_limit_tokens)


def _scale(requests: int, looked_at: int) -> Any:
    return lambda pico: (2 * pico * requests + looked_at) // (2 * looked_at)
