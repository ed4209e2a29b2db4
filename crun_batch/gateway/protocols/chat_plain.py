"""The chat reply that nearly every gateway sends, read in one native step; any other is left to `chat.read`.

A reply is plain where all that it holds has the documented type and nothing in it could change its meaning: no
error, no tool call, no refusal, no cost of its own, no count beside the documented ones. A test holds both ways
of reading against each other.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from crun_batch.gateway.protocols.reading import FINISH_REASONS, MOST_TOKENS
from crun_batch.records import Reply, Usage

_Count = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class _InputDetails(Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: None = None


class _OutputDetails(Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    total_tokens: _Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    input_tokens_details: None = None
    output_tokens_details: None = None
    prompt_cache_hit_tokens: None = None
    cache_read_input_tokens: None = None
    cache_creation_input_tokens: None = None
    cost: None = None


class _Message(Struct, gc=False):
    content: str
    refusal: None = None
    tool_calls: None = None
    function_call: None = None


class _Choice(Struct, gc=False):
    message: _Message
    finish_reason: str
    error: None = None


class _Plain(Struct, gc=False):
    choices: Annotated[tuple[_Choice, ...], Meta(min_length=1)]
    usage: _Usage
    id: str | None = None
    model: str | None = None
    error: None = None
    type: None = None


_decode = msgspec.json.Decoder(_Plain).decode


def read_plain(body: bytes) -> Reply | None:
    """The reply of a plain body."""
    try:
        plain = _decode(body.decode())
    except (ValueError, RecursionError):
        return None
    choice, usage = plain.choices[0], plain.usage
    input_tokens, output_tokens = usage.prompt_tokens, usage.completion_tokens
    reason = FINISH_REASONS.get(choice.finish_reason, "other")
    if choice.finish_reason == "error" or (usage.total_tokens or 0) > input_tokens + output_tokens:
        return None
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    reasoning = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    counted = Usage(
        input_tokens, min(cached or 0, input_tokens), 0, output_tokens, min(reasoning or 0, output_tokens)
    )
    return Reply(
        text=choice.message.content,
        finish_reason=reason,
        usage=counted,
        model=plain.model or None,
        response_id=plain.id or None,
    )
