"""What every endpoint module has to offer, and what they all need: field tables, content parts, usage, events."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from msgspec import Struct

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer, Tool
from crun_batch.simulator.refusals import Shape
from crun_batch.simulator.settings import Settings

CREATED = 1_767_225_600
"""The time of creation in every reply, 2026-01-01: the same request has the same reply, byte for byte."""

Events = list[bytes]


class ApiEndpoint(Struct, frozen=True):
    """One endpoint as functions: `read` raises Invalid; `events` is None where nothing can be streamed."""

    path: str
    shape: Shape
    read: Callable[[dict[str, Any]], Ask]
    reply: Callable[[Ask, ModelAnswer], dict[str, Any]]
    events: Callable[[Ask, ModelAnswer, Settings], Events] | None = None
    error_event: str | None = None
    """The `event:` name under which an error is sent inside a stream; None: a bare `data:` line."""
    stream_styles: tuple[str, ...] = ("crun", "openai")
    """Values of the setting stream_style under which this endpoint streams; under others it refuses to."""


class Field(Struct, frozen=True):
    """One field of a request body: the JSON types it may have, and its limits if it is a number."""

    types: tuple[type, ...]
    required: bool = False
    least: float = -math.inf
    most: float = math.inf


_FLAG = (bool,)
FLAG = Field(_FLAG)
MAPPING = Field((dict,))
ITEMS = Field((list,))
TEXT = Field((str,))
TEMPERATURE = Field((int, float), least=0, most=2)
UNIT = Field((int, float), least=0, most=1)
POSITIVE = Field((int,), least=1)
_BILLED_AS_JSON = frozenset({"tool_use", "tool_result"})
_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


def check_fields(payload: Mapping[str, Any], fields: Mapping[str, Field]) -> None:
    """Raise Invalid for the first field that is missing, of the wrong type, out of range, empty but required."""
    for name, field in fields.items():
        if field.required and payload.get(name) is None:
            raise Invalid(f"Missing required parameter: '{name}'.", name)
    for name, value in payload.items():
        if value is None or name not in fields:
            continue
        field = fields[name]
        if not isinstance(value, field.types) or (value is True or value is False) != (field.types == _FLAG):
            allowed = " or ".join(_NAMES[kind] for kind in field.types)
            raise Invalid(f"Invalid type for '{name}': expected {allowed}, got {_NAMES[type(value)]}.", name)
        if field.required and value in ("", []):
            raise Invalid(f"Invalid '{name}': it is empty.", name)
        if isinstance(value, int | float) and not field.least <= value <= field.most:
            raise Invalid(f"Invalid '{name}': {value} is not between {field.least} and {field.most}.", name)


def check_single(payload: Mapping[str, Any]) -> None:
    """Raise Invalid if several choices are asked for: this gateway gives one."""
    if payload.get("n") not in (None, 1):
        raise Invalid("Only n = 1 is supported.", "n")


def read_content(
    content: Any, param: str, text_types: frozenset[str], other_types: frozenset[str]
) -> tuple[str, int]:
    """The text of a message and the number of its other parts (images, files); raises Invalid."""
    if isinstance(content, str):
        return content, 0
    if not isinstance(content, list) or not content:
        raise Invalid(f"Invalid '{param}': expected a string or a non-empty array of parts.", param)
    texts, others = [], 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in text_types and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _BILLED_AS_JSON & other_types:
            texts.append(definitions_text(part))
        elif kind in other_types:
            others += 1
        else:
            raise Invalid(f"Invalid '{param}': unknown part {kind!r}.", param)
    return "\n".join(texts), others


def sampling_text(payload: Mapping[str, Any]) -> str:
    """The sampling parameters as one text."""
    return f"{payload.get('temperature')} {payload.get('top_p')} {payload.get('seed')}"


def definitions_text(*definitions: Any) -> str:
    """Tools and schemas as the text that is billed."""
    return "".join(orjson.dumps(definition).decode() for definition in definitions if definition)


def chosen_tool(tools: Any, choice: Any, name: str | None, schema_key: str) -> Tool | None:
    """The tool that the request forces: the one named, or the first one if `choice` only says "some tool".

    `tools` are {name, <schema_key>} objects. Raises Invalid if the named tool is not among them.
    """
    if not tools or (name is None and choice not in ("required", "any")):
        return None
    for tool in tools:
        if isinstance(tool, dict) and isinstance(tool.get("name"), str) and name in (None, tool["name"]):
            return Tool(tool["name"], tool.get(schema_key) or {"type": "object", "properties": {}})
    raise Invalid(f"Tool choice {name!r} not found in 'tools'.", "tool_choice")


def slices(text: str, settings: Settings) -> list[str]:
    """The text in the pieces in which it is streamed."""
    step = settings.stream_chunk_characters
    return [text[start : start + step] for start in range(0, len(text), step)]


def openai_usage(answer: ModelAnswer) -> dict[str, Any]:
    """Usage as /chat/completions and /completions write it: cached is part of prompt, reasoning of completion."""
    usage = answer.usage
    written: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": input_details(answer),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
    if answer.cost_usd is not None:
        written["cost"] = fragment(answer.cost_usd)
    return written


def tier(answer: ModelAnswer) -> dict[str, str]:
    """The service tier that served it, where the reply says so."""
    return {} if answer.service_tier is None else {"service_tier": answer.service_tier}


def fragment(text: str) -> Any:
    """JSON text to be written as it stands; as a JSON string where it is not JSON (a malformed tool call)."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return orjson.Fragment(text)


def input_details(answer: ModelAnswer) -> dict[str, int]:
    """What part of the input came from, and went to, the cache, as OpenAI's shapes write it."""
    return {"cached_tokens": answer.usage.cached_tokens, "cache_write_tokens": answer.usage.cache_write_tokens}


def data_line(payload: Mapping[str, Any]) -> bytes:
    """One event of a chat stream."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def named_event(name: str, payload: Mapping[str, Any]) -> bytes:
    """One event of a stream whose events have names."""
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(payload) + b"\n\n"
