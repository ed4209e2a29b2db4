"""POST /responses, in OpenAI's shape: typed items in, typed items out, named events when streamed."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer, Tool
from crun_batch.simulator.endpoints import form
from crun_batch.simulator.settings import Settings

_FIELDS = {
    "model": form.Field((str,), required=True),
    "input": form.Field((str, list), required=True),
    "instructions": form.TEXT,
    "max_output_tokens": form.POSITIVE,
    "text": form.MAPPING,
    "reasoning": form.MAPPING,
    "previous_response_id": form.TEXT,
    "store": form.FLAG,
    "stream": form.FLAG,
    "temperature": form.TEMPERATURE,
    "top_p": form.UNIT,
    "tools": form.ITEMS,
    "tool_choice": form.Field((str, dict)),
    "metadata": form.MAPPING,
    "user": form.TEXT,
    "prompt_cache_key": form.TEXT,
    "prompt_cache_retention": form.TEXT,
    "truncation": form.TEXT,
    "parallel_tool_calls": form.FLAG,
    "service_tier": form.TEXT,
}
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXTS = frozenset({"input_text", "output_text", "text", "refusal"})
_OTHERS = frozenset({"input_image", "input_file", "input_audio"})
_ITEMS = frozenset({"function_call", "function_call_output", "reasoning", "item_reference"})
_DEFAULTS: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def read(payload: dict[str, Any]) -> Ask:
    """The question in a responses body."""
    form.check_fields(payload, _FIELDS)
    messages: list[tuple[str, str]] = []
    images = 0
    if payload.get("instructions"):
        messages.append(("system", payload["instructions"]))
    given = payload["input"]
    for place, item in enumerate([{"role": "user", "content": given}] if isinstance(given, str) else given):
        role, text, others = _item(item, f"input[{place}]")
        messages.append((role, text))
        images += others
    schema = _schema(payload.get("text") or {})
    return Ask(
        model=payload["model"],
        messages=tuple(messages),
        max_output_tokens=payload.get("max_output_tokens"),
        stream=bool(payload.get("stream")),
        images=images,
        schema=schema,
        tool=_tool(payload),
        definitions=form.definitions_text(payload.get("tools"), schema),
        sampling=form.sampling_text(payload),
        service_tier=payload.get("service_tier"),
        store=payload.get("store") is not False,
        previous=payload.get("previous_response_id"),
        echo={name: payload[name] for name in _DEFAULTS if payload.get(name) is not None},
    )


def _item(item: Any, param: str) -> tuple[str, str, int]:
    if isinstance(item, dict) and item.get("type") in _ITEMS:
        return "tool", form.definitions_text(item), 0
    role = _ROLES.get(str(item.get("role"))) if isinstance(item, dict) else None
    if role is None:
        raise Invalid(f"Invalid '{param}.role': expected one of {', '.join(_ROLES)}.", f"{param}.role")
    text, others = form.read_content(item.get("content"), f"{param}.content", _TEXTS, _OTHERS)
    return role, text, others


def _schema(text: dict[str, Any]) -> dict[str, Any] | None:
    wanted = text.get("format")
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    if wanted["type"] == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    if wanted["type"] != "json_schema" or not isinstance(wanted.get("schema"), dict) or not wanted.get("name"):
        raise Invalid("Invalid 'text.format': expected json_schema with a name and a schema.", "text.format")
    return dict(wanted["schema"])


def _tool(payload: dict[str, Any]) -> Tool | None:
    choice = payload.get("tool_choice")
    name = choice.get("name") if isinstance(choice, dict) else None
    return form.chosen_tool(payload.get("tools"), choice, name, "parameters")


def reply(ask: Ask, answer: ModelAnswer) -> dict[str, Any]:
    """The whole reply; `incomplete` where the output limit cut it."""
    cut = answer.finish == "length"
    usage = answer.usage
    return {
        **_head(ask, answer, "incomplete" if cut else "completed"),
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": [_output(answer, answer.text, "incomplete" if cut else "completed")],
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": form.input_details(answer),
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.input_tokens + usage.output_tokens,
            **({} if answer.cost_usd is None else {"cost": form.fragment(answer.cost_usd)}),
        },
    }


def _head(ask: Ask, answer: ModelAnswer, status: str) -> dict[str, Any]:
    return {
        **_DEFAULTS,
        **ask.echo,
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": form.CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": ask.model,
        **form.tier(answer),
        "output": [],
        "usage": None,
    }


def _output(answer: ModelAnswer, text: str, status: str) -> dict[str, Any]:
    if answer.tool is not None:
        return {
            "type": "function_call",
            "id": f"fc_{answer.id[:24]}",
            "call_id": f"call_{answer.id[:24]}",
            "name": answer.tool,
            "arguments": text,
            "status": status,
        }
    parts = [] if status == "in_progress" else [_part(text)]
    return {
        "type": "message",
        "id": f"msg_{answer.id[:24]}",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def events(ask: Ask, answer: ModelAnswer, settings: Settings) -> form.Events:
    """The reply as named, numbered events; the last one carries the whole reply."""
    whole = reply(ask, answer)
    head = _head(ask, answer, "in_progress")
    inner = _text_events(answer, settings) if answer.tool is None else _call_events(answer, settings)
    parts: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": head}),
        ("response.in_progress", {"response": head}),
        ("response.output_item.added", {"output_index": 0, "item": _output(answer, "", "in_progress")}),
        *inner,
        ("response.output_item.done", {"output_index": 0, "item": whole["output"][0]}),
        (f"response.{whole['status']}", {"response": whole}),
    ]
    return [
        form.named_event(name, {"type": name, "sequence_number": number, **fields})
        for number, (name, fields) in enumerate(parts)
    ]


def _text_events(answer: ModelAnswer, settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    place = {"item_id": f"msg_{answer.id[:24]}", "output_index": 0, "content_index": 0}
    return [
        ("response.content_part.added", {**place, "part": _part("")}),
        *(
            ("response.output_text.delta", {**place, "delta": piece, "logprobs": []})
            for piece in form.slices(answer.text, settings)
        ),
        ("response.output_text.done", {**place, "text": answer.text, "logprobs": []}),
        ("response.content_part.done", {**place, "part": _part(answer.text)}),
    ]


def _call_events(answer: ModelAnswer, settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    place = {"item_id": f"fc_{answer.id[:24]}", "output_index": 0}
    return [
        *(
            ("response.function_call_arguments.delta", {**place, "delta": piece})
            for piece in form.slices(answer.text, settings)
        ),
        ("response.function_call_arguments.done", {**place, "name": answer.tool, "arguments": answer.text}),
    ]


ENDPOINT = form.ApiEndpoint("/responses", "openai", read, reply, events, "error")
