"""The chat reply that nearly every gateway sends, read in one native step; any other is left to `chat.read`.

A reply is plain where all that it holds has the documented type and nothing in it could change its meaning: no
error, no tool call, no refusal, no cost of its own, no count beside the documented ones or that contradicts
another, no finish reason that is doubtful. A test holds both ways
of reading against each other.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from crun_batch.gateway.protocols.charges import tier_named
from crun_batch.gateway.protocols.finish_reasons import REASON_OF_MEANING, finish_meaning
from crun_batch.gateway.protocols.values import MOST_TOKENS
from crun_batch.records import Reply, Usage, is_missing

_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]
_None = Annotated[int, Meta(ge=0, le=0)]
"""Of what is billed otherwise than by the counts: a reply that had some of it is not plain."""


class _InputDetails(Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _None | None = None
    cache_creation_token_details: None = None
    web_search_requests: _None | None = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: _Count | None = None
    audio_tokens: _None | None = None
    image_tokens: _None | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    cached_tokens: None = None
    cache_write_tokens: None = None
    reasoning_tokens: None = None
    input_tokens_details: None = None
    output_tokens_details: None = None
    prompt_cache_hit_tokens: _Count | None = None
    cache_read_input_tokens: None = None
    cache_creation_input_tokens: None = None
    cost: None = None
    cost_in_usd_ticks: None = None
    service_tier: None = None
    speed: None = None
    inference_geo: None = None
    cache_creation: None = None
    server_tool_use: None = None
    prompt_audio_seconds: None = None
    num_sources_used: _None | None = None
    num_server_side_tools_used: _None | None = None
    iterations: None = None


class _Message(Struct, gc=False):
    content: str
    refusal: None = None
    annotations: Annotated[list[Raw], Meta(max_length=0)] | None = None
    tool_calls: None = None
    function_call: None = None


class _Beside(Struct, gc=False):
    native_finish_reason: str | None = None


class _PlainChoice(Struct, gc=False):
    message: _Message
    finish_reason: str
    error: None = None
    native_finish_reason: str | None = None
    provider_specific_fields: _Beside | None = None


class _Plain(Struct, gc=False):
    choices: Annotated[tuple[_PlainChoice, ...], Meta(min_length=1)]
    usage: _Usage
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    error: None = None
    type: None = None
    base_resp: None = None


PLAIN_MEANINGS = ("stop", "length", "content_filter")
_decode = msgspec.json.Decoder(_Plain).decode


def read_plain(body: bytes) -> Reply | None:
    """The reply of a plain body."""
    try:
        plain = _decode(body.decode())
    except (ValueError, RecursionError):
        return None
    choice, usage, beside = plain.choices[0], plain.usage, plain.choices[0].provider_specific_fields
    native = choice.native_finish_reason or (beside.native_finish_reason if beside is not None else None)
    text, input_tokens, output_tokens = choice.message.content, usage.prompt_tokens, usage.completion_tokens
    meaning = finish_meaning(choice.finish_reason)
    total = usage.total_tokens
    if (
        is_missing(text)
        or meaning not in PLAIN_MEANINGS
        or (native and finish_meaning(native) != meaning)
        or (total is not None and total != input_tokens + output_tokens)
    ):
        return None
    read, written = usage.prompt_tokens_details, usage.completion_tokens_details
    cached = read.cached_tokens if read is not None else None
    if cached is None:
        cached = usage.prompt_cache_hit_tokens or 0
    cache_written = (read.cache_write_tokens if read is not None else None) or 0
    reasoning = (written.reasoning_tokens if written is not None else None) or 0
    if cached + cache_written > input_tokens or reasoning > output_tokens or not input_tokens or not output_tokens:
        return None
    return Reply(
        text=text,
        finish_reason=REASON_OF_MEANING[meaning],
        usage=Usage(input_tokens, cached, cache_written, output_tokens, reasoning, tier_named(plain.service_tier)),
        model=plain.model or None,
        response_id=plain.id or None,
    )
