"""What stands in a request of each size that a job could have: its own texts, counted, and what is around them.

Owns how many rows are tried in one request, and which jobs could have that at all. Sends and writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct, field

from crun_batch.load.job.pack_rules import goes_with_pack
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.preflight.caching import said, shared
from crun_batch.pricing.tokens import Counter, count_bodies, count_body, remembering
from crun_batch.pricing.ways import Frame
from crun_batch.records import Row
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.packed_request import packed_messages
from crun_batch.workload.packing import (
    ANY_TEXT,
    FORMATS,
    PackFormat,
    instruction,
    packed_schema,
    packed_text,
    shortest_reply,
)
from crun_batch.workload.portions import Portions
from crun_batch.workload.request import Variant

PACKS = (2, 5, 10, 25, 50)
AnySchema = Mapping[str, Any] | None
WITH_SCHEMA: tuple[PackFormat, ...] = ("json",)
"""The formats of answers that have a schema of their own."""


class Texts(Struct):
    """What the rows that were looked at ask."""

    counter: Counter
    """Of the model's tokens."""
    whole: list[int] = field(default_factory=list)
    """Tokens of each request."""
    own: list[int] = field(default_factory=list)
    """Of each user's message alone."""
    heads: set[bytes] = field(default_factory=set)
    """What stands before it: one, where all rows share it."""
    prefix: str | None = None
    """The text that all requests begin with."""
    row: Row | None = None

    @property
    def prefix_tokens(self) -> int:
        """Of that text; 0 where there is none."""
        return 0 if self.prefix is None else self.counter.count(self.prefix)


class FrameWay(Struct, frozen=True):
    """How many rows stand in a request: how that is called, and what of the job file says so; "": as it is."""

    name: str
    says: str
    frame: Frame


def frames_of(variant: Variant, texts: Texts) -> Iterator[FrameWay]:
    """That of the job, then the others that it could have."""
    assert texts.row is not None
    messages, schema = _without_text(variant.renderer.render(texts.row).messages), variant.job.output_schema
    own = _tokens(variant, texts.row, messages, texts.counter, schema)
    has_one_head, pack = len(texts.heads) == 1, variant.job.pack
    alone = Frame(1, own if has_one_head else 0, prefix_tokens=texts.prefix_tokens)
    forms = FORMATS if variant.job.output_schema is None else WITH_SCHEMA
    if pack is None:
        yield FrameWay("", "", alone)
    else:
        yield FrameWay("", "", _packed(variant, texts, pack.rows, pack.format))
        yield FrameWay("each row alone", "pack: null", alone)
    if not has_one_head or not _can_pack(variant, texts):
        return
    for rows in PACKS:
        for form in forms:
            if rows <= len(texts.whole) and (pack is None or (pack.rows, pack.format) != (rows, form)):
                says = f"pack: {{rows: {rows}, format: {form}}}"
                frame = _packed(variant, texts, rows, form)
                yield FrameWay(f"{rows} rows in one request as {form}", says, frame)


class _Looked(Struct, frozen=True):
    """One row: what it says, its request, and the same without its own text."""

    row: Row
    messages: Sequence[Mapping[str, Any]]
    whole: bytes
    head: bytes


def texts_of(variant: Variant, rows: Sequence[Row]) -> Texts:
    """Of these rows; those without a prompt are left out."""
    counter = remembering(token_counter(variant.job.model or ""))
    texts = Texts(counter)
    waiting, portions = deque(rows), Portions()
    while waiting:
        taken = portions.take(waiting)
        looked = list(_looked(variant, taken))
        wholes = count_bodies([one.whole for one in looked], counter)
        heads = count_bodies([one.head for one in looked], counter)
        for one, whole, head in zip(looked, wholes, heads, strict=True):
            text = said(one.messages)
            texts.whole.append(whole.tokens)
            texts.own.append(whole.tokens - head.tokens)
            is_text = isinstance(one.messages[-1].get("content"), str)
            texts.heads.add(orjson.dumps([one.messages[:-1], is_text]))
            texts.prefix = text if texts.row is None else shared(texts.prefix, text)
            texts.row = one.row
        portions.learn(len(taken), sum(len(one.whole) for one in looked))
    return texts


def _looked(variant: Variant, rows: Iterable[Row]) -> Iterator[_Looked]:
    for row in rows:
        try:
            request, messages = variant.request(row), variant.renderer.render(row).messages
            head = variant.body(row, _without_text(messages), variant.job.params, variant.job.output_schema)
        except RowRejected:
            continue
        yield _Looked(row, messages, request.body, head)


def _tokens(
    variant: Variant, row: Row, messages: Sequence[Mapping[str, Any]], counter: Counter, schema: AnySchema
) -> int:
    """Of the request with these messages, and this schema for the reply."""
    return count_body(variant.body(row, messages, variant.job.params, schema), counter).tokens


def _without_text(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """All but what the user says."""
    return [*messages[:-1], {**messages[-1], "content": ""}]


def _can_pack(variant: Variant, texts: Texts) -> bool:
    """Whether several rows could stand in one live request: texts in, texts out, nothing that `pack` refuses."""

    def look(key: str) -> Any:
        if key == "lane":
            return "live"
        section, _, name = key.partition(".")
        found = getattr(variant.job, section)
        if not name:
            return found
        return found.get(name) if isinstance(found, Mapping) else getattr(found, name)

    return texts.prefix is not None and goes_with_pack(look)


def _packed(variant: Variant, texts: Texts, rows: int, form: PackFormat) -> Frame:
    """What a request of so many rows holds beside their texts."""
    row, counter = texts.row, texts.counter
    assert row is not None
    of_each = variant.job.output_schema
    told = packed_messages(variant.renderer.render(row).messages, "", instruction(rows, form))
    schema = packed_schema(rows, of_each or ANY_TEXT) if form == "json" else None
    shortest = shortest_reply(rows, form, is_typed=of_each is not None)
    return Frame(
        rows=rows,
        input_tokens=_tokens(variant, row, told, counter, schema),
        item_tokens=round(counter.count(packed_text([""] * rows)) / rows),
        output_tokens=max(0, counter.count(shortest) - rows),
        prefix_tokens=_tokens(variant, row, told, counter, None),
    )
