"""Several rows in one request: the words that all of them begin with, then each row's own under its number.

Owns how such a request is written in a protocol, and how long its reply may be: as long as those of its rows
together, and what stands around each answer. It is asked instead of its rows' own requests, which stay what a row
is known by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.gateway.protocols.protocol import request_hash
from crun_batch.load.job.job import Job
from crun_batch.load.job.rules import OUTPUT_LIMITS
from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.records import PackPlace, Prompt, Row
from crun_batch.store.packs import stretches
from crun_batch.workload.packing import PackFormat, instruction, packed_schema, packed_text
from crun_batch.workload.request import Request, Variant

AROUND_AN_ANSWER_TOKENS = 16
"""Its number, its quotes and what they escape: on top of what a row alone may answer."""
AROUND_ALL_TOKENS = 32


class PackedRequest(Struct, frozen=True):
    """The request that asks several rows, and where each of them stands in it."""

    request: Request
    places: tuple[PackPlace, ...]


def packed_request(variant: Variant, rows: Sequence[Row], form: PackFormat) -> PackedRequest:
    """The request that asks all of these rows. Raises RowRejected where one has no text."""
    prompts = [variant.renderer.render(row) for row in rows]
    texts = [own_text(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
    own, text, told = prompts[0].messages, packed_text(texts), instruction(len(rows), form)
    hints = variant.hints
    hashed = body = _body(variant, rows[0], packed_messages(own, text, told), len(rows), form)
    prefix = None
    if hints is not None:
        if hints.marked is not None:  # in front of the instruction: what is kept is kept for any number of rows
            body = _body(variant, rows[0], packed_messages(hints.marking(own), text, told), len(rows), form)
        body = hints.with_key(body, rows[0].position)
        prefix = f"{variant.index}-{hints.number(rows[0].position)}"
    asked = request_hash(variant.terms.path, hashed)
    request = Request(
        body,
        asked,
        asked,
        variant.terms.model,
        len(body),
        packed_limit_tokens(variant.job.output_limit_tokens, len(rows)),
        cache_ttl=variant.cache_ttl(body),
        service_tier=variant.terms.service_tier,
        prefix=prefix,
        hosted=variant.terms.hosted,
    )
    return PackedRequest(request, _places(texts, form))


def packed_messages(messages: Sequence[Mapping[str, Any]], text: str, told: str) -> list[Mapping[str, Any]]:
    """The messages of one row with the text of all in the place of its own, and what is told of them."""
    head = list(messages[:-1])
    at = next((place for place, message in enumerate(head) if message["role"] == "system"), None)
    if at is None:
        head.insert(0, {"role": "system", "content": told})
    else:
        said = head[at]["content"]
        content = f"{said}\n\n{told}" if isinstance(said, str) else [*said, {"type": "text", "text": told}]
        head[at] = {**head[at], "content": content}
    return [*head, {**messages[-1], "content": text}]


def packed_limit_tokens(of_one: int | None, rows: int) -> int | None:
    """How long a reply to so many rows may be, where that to one has a limit."""
    return None if of_one is None else rows * (of_one + AROUND_AN_ANSWER_TOKENS) + AROUND_ALL_TOKENS


def own_text(row: Row, prompt: Prompt) -> str:
    """What a row says itself: its last message. Raises RowRejected where that is more than a text."""
    content = prompt.messages[-1]["content"] if prompt.messages else None
    if not isinstance(content, str):
        raise RowRejected(row, "its last message is no plain text, which a pack needs")
    return content


def _places(texts: Sequence[str], form: PackFormat) -> tuple[PackPlace, ...]:
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts]
    return tuple(
        PackPlace(number, len(sizes), form, along.before, along.size, along.whole)
        for number, along in enumerate(stretches(sizes), 1)
    )


def refuse_varying_heads(variants: Sequence[Variant]) -> None:
    """Rows can only stand in one request where all say the same before their own text. Raises InputError."""
    mistakes = [
        Mistake(
            "puts rows into one request, which needs the same words before each: only the last message may hold "
            "columns of the table; move them there",
            file=variant.job.source,
            key="pack",
        )
        for variant in variants
        if variant.job.pack is not None and variant.renderer.constant_messages < _messages_before(variant.job)
    ]
    if mistakes:
        raise InputError(list(dict.fromkeys(mistakes)))


def _messages_before(job: Job) -> int:
    """How many messages stand before the last one."""
    prompt = job.prompt
    if prompt.messages is not None:
        return len(prompt.messages) - 1
    return 0 if prompt.system is None else 1


def _body(variant: Variant, row: Row, messages: Sequence[Mapping[str, Any]], rows: int, form: PackFormat) -> bytes:
    job, terms = variant.job, variant.terms
    params = dict(job.params)
    for name in OUTPUT_LIMITS[job.endpoint.protocol]:
        if params.get(name) is not None:
            params[name] = packed_limit_tokens(params[name], rows)
    schema = None
    if form == "json":
        schema = packed_schema(rows) if job.output_schema is None else packed_schema(rows, job.output_schema)
    limit = packed_limit_tokens(terms.max_output_tokens, rows)
    try:
        return terms.write(terms.model or "", messages, params, limit, terms.stream, schema)
    except ValueError as error:
        raise RowRejected(row, str(error)) from None
