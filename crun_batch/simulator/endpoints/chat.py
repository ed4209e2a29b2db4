"""POST /chat/completions, in OpenAI's shape with CRUN's way of streaming (or, on request, OpenAI's)."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer, Tool
from crun_batch.simulator.endpoints import form
from crun_batch.simulator.settings import Settings

_FIELDS = {
    "model": form.Field((str,), required=True),
    "messages": form.Field((list,), required=True),
    "temperature": form.TEMPERATURE,
    "top_p": form.UNIT,
    "max_tokens": form.POSITIVE,
    "max_completion_tokens": form.POSITIVE,
    "stream": form.FLAG,
    "stream_options": form.MAPPING,
    "response_format": form.MAPPING,
    "tools": form.ITEMS,
    "tool_choice": form.Field((str, dict)),
    "stop": form.Field((str, list)),
    "seed": form.Field((int,)),
    "service_tier": form.TEXT,
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TEXTS = frozenset({"text", "refusal"})
_OTHERS = frozenset({"image_url", "input_audio", "file"})


def read(payload: dict[str, Any]) -> Ask:
    """The question in a chat body."""
    form.check_fields(payload, _FIELDS)
    form.check_single(payload)
    messages, images = [], 0
    for place, message in enumerate(payload["messages"]):
        role, text, others = _message(message, f"messages[{place}]")
        messages.append((role, text))
        images += others
    schema = _schema(payload.get("response_format"))
    return Ask(
        model=payload["model"],
        messages=tuple(messages),
        max_output_tokens=payload.get("max_completion_tokens") or payload.get("max_tokens"),
        stream=bool(payload.get("stream")),
        images=images,
        schema=schema,
        tool=_tool(payload),
        definitions=form.definitions_text(payload.get("tools"), schema),
        sampling=form.sampling_text(payload),
        service_tier=payload.get("service_tier"),
        usage_chunk=bool((payload.get("stream_options") or {}).get("include_usage")),
    )


def _message(message: Any, param: str) -> tuple[str, str, int]:
    role = _ROLES.get(str(message.get("role"))) if isinstance(message, dict) else None
    if role is None:
        raise Invalid(f"Invalid '{param}.role': expected one of {', '.join(_ROLES)}.", f"{param}.role")
    content = message.get("content")
    if content is None and role == "assistant" and message.get("tool_calls"):
        return role, form.definitions_text(message["tool_calls"]), 0
    text, others = form.read_content(content, f"{param}.content", _TEXTS, _OTHERS)
    return role, text, others


def _schema(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None or wanted.get("type") == "text":
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    inner = wanted.get("json_schema") if wanted.get("type") == "json_schema" else None
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict) or not inner.get("name"):
        raise Invalid(
            "Invalid 'response_format': expected json_schema with a name and a schema.", "response_format"
        )
    return dict(inner["schema"])


def _tool(payload: dict[str, Any]) -> Tool | None:
    choice = payload.get("tool_choice")
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    functions = [tool.get("function") for tool in payload.get("tools") or () if isinstance(tool, dict)]
    return form.chosen_tool(functions, choice, name, "parameters")


def reply(ask: Ask, answer: ModelAnswer) -> dict[str, Any]:
    """The whole reply."""
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion",
        "created": form.CREATED,
        "model": ask.model,
        "choices": [
            {"index": 0, "message": _said(answer), "logprobs": None, "finish_reason": _finish(answer)},
        ],
        "usage": form.openai_usage(answer),
        **form.tier(answer),
    }


def _said(answer: ModelAnswer) -> dict[str, Any]:
    if answer.tool is None:
        return {"role": "assistant", "content": answer.text, "refusal": None}
    return {"role": "assistant", "content": None, "refusal": None, "tool_calls": [_call(answer, answer.text)]}


def _call(answer: ModelAnswer, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{answer.id[:24]}",
        "type": "function",
        "function": {"name": answer.tool, "arguments": arguments},
    }


def _finish(answer: ModelAnswer) -> str:
    return "tool_calls" if answer.tool and answer.finish == "stop" else answer.finish


def events(ask: Ask, answer: ModelAnswer, settings: Settings) -> form.Events:
    """The reply as chunks. CRUN: chunks in the middle have no id, the last one with choices has the usage."""
    crun = settings.stream_style == "crun"
    if answer.tool is None:
        first: dict[str, Any] = {"role": "assistant", "content": ""}
        deltas: list[dict[str, Any]] = [{"content": piece} for piece in form.slices(answer.text, settings)]
    else:
        first = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **_call(answer, "")}]}
        deltas = [
            {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
            for piece in form.slices(answer.text, settings)
        ]
    usage = form.openai_usage(answer)
    extra = {"usage": None} if ask.usage_chunk and not crun else {}
    whole = {
        "id": f"chatcmpl-{answer.id}",
        "object": "chat.completion.chunk",
        "created": form.CREATED,
        "model": ask.model,
        **form.tier(answer),
    }
    middle = {**whole, "id": "", "created": 0} if crun else whole
    chunks = [{**whole, "choices": [_choice(first)], **extra}]
    chunks += [{**middle, "choices": [_choice(delta)], **extra} for delta in deltas]
    chunks.append({**whole, "choices": [_choice({}, _finish(answer))], **({"usage": usage} if crun else extra)})
    if extra:
        chunks.append({**whole, "choices": [], "usage": usage})
    return [*map(form.data_line, chunks), b"data: [DONE]\n\n"]


def _choice(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


ENDPOINT = form.ApiEndpoint("/chat/completions", "openai", read, reply, events)
