"""POST /messages, in Anthropic's shape: input tokens exclude what is read from or written to the cache."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer, Tool
from crun_batch.simulator.endpoints import form
from crun_batch.simulator.settings import Settings

_FIELDS = {
    "model": form.Field((str,), required=True),
    "max_tokens": form.Field((int,), required=True, least=1),
    "messages": form.Field((list,), required=True),
    "system": form.Field((str, list)),
    "temperature": form.UNIT,
    "top_p": form.UNIT,
    "stream": form.FLAG,
    "tools": form.ITEMS,
    "tool_choice": form.MAPPING,
    "stop_sequences": form.ITEMS,
    "metadata": form.MAPPING,
    "service_tier": form.TEXT,
}
_TEXTS = frozenset({"text"})
_OTHERS = frozenset({"image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"})


def read(payload: dict[str, Any]) -> Ask:
    """The question in a messages body."""
    form.check_fields(payload, _FIELDS)
    messages: list[tuple[str, str]] = []
    images = 0
    if payload.get("system"):
        messages.append(("system", form.read_content(payload["system"], "system", _TEXTS, frozenset())[0]))
    for place, message in enumerate(payload["messages"]):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("user", "assistant"):
            raise Invalid(
                f"messages.{place}.role: Input should be 'user' or 'assistant'", f"messages.{place}.role"
            )
        text, others = form.read_content(message.get("content"), f"messages.{place}.content", _TEXTS, _OTHERS)
        messages.append((role, text))
        images += others
    return Ask(
        model=payload["model"],
        messages=tuple(messages),
        max_output_tokens=payload["max_tokens"],
        stream=bool(payload.get("stream")),
        images=images,
        tool=_tool(payload),
        definitions=form.definitions_text(payload.get("tools")),
        sampling=form.sampling_text(payload),
        service_tier=payload.get("service_tier"),
    )


def _tool(payload: dict[str, Any]) -> Tool | None:
    choice = payload.get("tool_choice") or {}
    name = choice.get("name") if choice.get("type") == "tool" else None
    return form.chosen_tool(payload.get("tools"), choice.get("type"), name, "input_schema")


def reply(ask: Ask, answer: ModelAnswer) -> dict[str, Any]:
    """The whole reply."""
    return {
        "id": f"msg_{answer.id[:24]}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [_block(answer, answer.text)],
        "stop_reason": _stop(answer),
        "stop_sequence": None,
        "usage": _usage(answer, answer.usage.output_tokens),
    }


def _block(answer: ModelAnswer, text: str) -> dict[str, Any]:
    if answer.tool is None:
        return {"type": "text", "text": text}
    return {"type": "tool_use", "id": f"toolu_{answer.id[:24]}", "name": answer.tool, "input": form.fragment(text)}


def _stop(answer: ModelAnswer) -> str:
    if answer.finish == "length":
        return "max_tokens"
    return "tool_use" if answer.tool else "end_turn"


def _usage(answer: ModelAnswer, output_tokens: int) -> dict[str, Any]:
    usage = answer.usage
    return {
        "input_tokens": usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": output_tokens,
        **form.tier(answer),
    }


def events(ask: Ask, answer: ModelAnswer, settings: Settings) -> form.Events:
    """The reply as events; the usage in `message_delta` is cumulative."""
    whole = reply(ask, answer)
    start = {**whole, "content": [], "stop_reason": None, "usage": _usage(answer, 1)}
    kind, field = ("text_delta", "text") if answer.tool is None else ("input_json_delta", "partial_json")
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": _block(answer, "" if answer.tool is None else "{}"),
        },
        {"type": "ping"},
    ]
    parts += [
        {"type": "content_block_delta", "index": 0, "delta": {"type": kind, field: piece}}
        for piece in form.slices(answer.text, settings)
    ]
    parts += [
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
            "usage": whole["usage"],
        },
        {"type": "message_stop"},
    ]
    return [form.named_event(part["type"], part) for part in parts]


ENDPOINT = form.ApiEndpoint("/messages", "anthropic", read, reply, events, "error")
