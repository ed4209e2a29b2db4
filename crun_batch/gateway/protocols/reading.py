"""Liberal readers of what replies have in common: token counts, costs, finish reasons, tool calls.

A reply is somebody else's: any value may be missing, null or of another type, and none of that raises here.
What cannot be believed is unknown (None), never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from crun_batch.gateway.protocols.protocol import JsonObject, encode
from crun_batch.records import Failure, FinishReason, Usage

MOST_TOKENS = 10**12
"""A larger count is a broken number, and sums of such numbers would not fit 64 bits."""

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",
    "eos": "stop",
    "length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
}
"""One table for all protocols, since gateways that translate leave the other protocol's word in. `pause_turn`,
`steered` and every unlisted word are `other`."""


def finish_reason(said: object) -> FinishReason:
    """Our word for theirs."""
    return FINISH_REASONS.get(said, "other") if isinstance(said, str) else "other"


def word(value: object) -> str | None:
    """A text that says something, else None."""
    return value if isinstance(value, str) and value else None


def json_object(value: object) -> JsonObject:
    """The value itself where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """The objects of a list; whatever else it holds, or is, is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def tokens(value: object) -> int | None:
    """A believable count of tokens: an integer from 0 on."""
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


def _first_count(counts: JsonObject, *names: str) -> int | None:
    for name in names:
        value = counts.get(name)
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            return value
    return None


def openai_usage(payload: JsonObject) -> Usage | None:
    """Usage of chat, completions (`prompt_tokens`) and responses (`input_tokens`): cached is part of the input.

    Tokens that `total_tokens` has beyond input and output are reasoning that the gateway bills as output and
    leaves out of the output count (xAI and Gemini report so), unless they are exactly the cached ones, which a
    gateway that translates from Anthropic left out of the input. Parts never exceed their whole.
    """
    usage = payload.get("usage")
    if type(usage) is not dict:
        return None
    get = usage.get
    input_tokens = _first_count(usage, "prompt_tokens", "input_tokens")
    output_tokens = _first_count(usage, "completion_tokens", "output_tokens")
    if input_tokens is None or output_tokens is None:
        return None
    input_details = json_object(get("prompt_tokens_details") or get("input_tokens_details"))
    output_details = json_object(get("completion_tokens_details") or get("output_tokens_details"))
    cached = tokens(input_details.get("cached_tokens"))
    if cached is None:
        cached = _first_count(usage, "prompt_cache_hit_tokens", "cache_read_input_tokens") or 0
    written = tokens(input_details.get("cache_write_tokens"))
    if written is None:
        written = _first_count(usage, "cache_creation_input_tokens") or 0
    reasoning = tokens(output_details.get("reasoning_tokens")) or 0
    unlisted = (tokens(get("total_tokens")) or 0) - input_tokens - output_tokens
    if unlisted > 0 and unlisted == cached + written and unlisted != reasoning:
        input_tokens += unlisted
    elif unlisted > 0:
        output_tokens += unlisted
        reasoning = max(reasoning, unlisted)
    cached = min(cached, input_tokens)
    return Usage(
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=min(written, input_tokens - cached),
        output_tokens=output_tokens,
        reasoning_tokens=min(reasoning, output_tokens),
    )


def decimal_text(value: object) -> str | None:
    """A cost as plain decimal text; None for what is no finite amount from 0 on. Floats by their shortest form."""
    if type(value) not in (int, float, str):
        return None
    text = value if isinstance(value, str) else repr(value)
    try:
        amount = Decimal(text) if len(text) <= 60 else None
    except InvalidOperation:
        return None
    if amount is None or not amount.is_finite() or amount < 0 or not -30 < amount.adjusted() < 12:
        return None
    return format(abs(amount), "f")


def reported_usd(payload: JsonObject) -> str | None:
    """The cost that the reply states itself: `usage.cost`, in dollars, at OpenRouter."""
    usage = payload.get("usage")
    return decimal_text(usage.get("cost")) if type(usage) is dict and "cost" in usage else None


def no_reply(missing: str, usage: Usage | None) -> Failure:
    """A 2xx object that is no reply: billed for certain where it tells its tokens, and else perhaps."""
    if usage is None:
        return Failure("unknown", "bad_reply", "retry", f"HTTP 200 without {missing}: no reply of this protocol")
    return Failure("done", "bad_reply", "fail_row", f"HTTP 200 with usage but without {missing}", usage=usage)


def text_of_parts(content: object) -> str | None:
    """The text of a content that is a text or a list of parts; None where it has none."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def tool_call(call_id: object, name: object, arguments: object) -> JsonObject:
    """One tool call in our form; arguments stay JSON text, or become it."""
    if not isinstance(arguments, str):
        arguments = json_text({} if arguments is None else arguments)
    return {"id": word(call_id), "name": word(name), "arguments": arguments}


def tool_calls_text(calls: Iterable[JsonObject]) -> str | None:
    """JSON text of the list of calls; None where there are none."""
    listed = list(calls)
    return json_text(listed) if listed else None


def json_text(value: Any) -> str:
    """JSON text of a value that came out of JSON."""
    return encode(value).decode()
