"""POST /messages: Anthropic's shape. Sources: Anthropic's API reference, CRUN's docs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from crun_batch.gateway.protocols.charges import other_charges, service_tier
from crun_batch.gateway.protocols.finish_reasons import finish_meaning
from crun_batch.gateway.protocols.protocol import (
    Assembled,
    JsonObject,
    Protocol,
    decode,
    encode,
    finished,
    limited,
)
from crun_batch.gateway.protocols.reading import (
    json_text,
    no_reply,
    reply_of,
    text_of_parts,
    tool_call,
    tool_calls_text,
)
from crun_batch.gateway.protocols.schema import SCHEMA_NAME
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.gateway.protocols.usage import Counts, hour_writes, only_output, plausible
from crun_batch.gateway.protocols.values import json_object, objects
from crun_batch.records import Failure, Reply, Usage

OUTPUT_LIMIT_NAMES = ("max_tokens",)
"""Anthropic requires it."""

_SYSTEM_ROLES = ("system", "developer")


def body(
    model: str,
    prompt_messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    max_output_tokens: int | None,
    stream: bool,
    output_schema: Mapping[str, Any] | None = None,
) -> bytes:
    """The request, see `BuildBody`.

    Leading system messages go on top as `system`; later ones stay where they are. Turns of one role in a row are
    sent as given: the API joins them. An output_schema is one forced tool beside the tools of the params.
    """
    leading = 0
    while leading < len(prompt_messages) and prompt_messages[leading]["role"] in _SYSTEM_ROLES:
        leading += 1
    request: JsonObject = {"model": model}
    limited(request, params, OUTPUT_LIMIT_NAMES, max_output_tokens)
    if leading:
        request["system"] = _system(prompt_messages[:leading])
    request["messages"] = [_message(message) for message in prompt_messages[leading:]]
    if output_schema is not None:
        schema = orjson.Fragment(encode(output_schema))
        tool = {"name": SCHEMA_NAME, "description": "Give the answer.", "input_schema": schema}
        request["tool_choice"] = {"type": "tool", "name": SCHEMA_NAME}
        params = {**params, "tools": [*params.get("tools", ()), tool]}
    finished(request, params)
    if stream:
        request["stream"] = True
    return encode(request)


def _system(messages: Sequence[Mapping[str, Any]]) -> str | list[Any]:
    contents = [message["content"] for message in messages]
    if all(isinstance(content, str) for content in contents):
        return "\n\n".join(contents)
    blocks: list[Any] = []
    for content in contents:
        blocks += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return blocks


def _message(message: Mapping[str, Any]) -> JsonObject:
    """A turn. Tool calls and results of OpenAI-style messages become blocks, as this protocol wants them."""
    role, content = message["role"], message.get("content")
    if role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _content(content)}
        return {"role": "user", "content": [result]}
    calls = objects(message.get("tool_calls"))
    if not calls:
        return {"role": "system" if role in _SYSTEM_ROLES else role, "content": _content(content)}
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) and content else []
    return {"role": role, "content": blocks + [_tool_use(call) for call in calls]}


def _tool_use(call: JsonObject) -> JsonObject:
    function = json_object(call.get("function"))
    arguments = function.get("arguments") or "{}"
    try:
        given = decode(arguments.encode()) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise ValueError(f"the arguments of tool call {call.get('id')!r} are not JSON") from error
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given}


def _content(content: Any) -> Any:
    return [_part(part) for part in content] if isinstance(content, list) else content


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return {"type": "image", "source": _source(part["url"])}
    if kind == "image_url":
        return {"type": "image", "source": _source(json_object(part.get("image_url")).get("url", ""))}
    if kind == "file" and "url" in part:
        title = {"title": part["filename"]} if part.get("filename") else {}
        return {"type": "document", "source": _source(part["url"], texts=True), **title}
    return part


def _source(url: str, *, texts: bool = False) -> JsonObject:
    """A URL as a source: a data URL as base64, or as text where documents may be that; any other as it is."""
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise ValueError("a data URL has no comma: data:<media type>;base64,<data> is expected")
    media_type, *attributes = head.split(";")
    encoded = "base64" in attributes
    if texts and media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _text(data, encoded)}
    if not encoded:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    return {"type": "base64", "media_type": media_type, "data": data}


def _text(data: str, encoded: bool) -> str:
    try:
        return (base64.b64decode(data, validate=True) if encoded else unquote_to_bytes(data)).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("a text document's data URL holds no UTF-8 text") from error


def usage_of(payload: JsonObject) -> Usage | None:
    """Usage in our one meaning: Anthropic's input_tokens leave cache reads and writes out, so they are added."""
    usage = payload.get("usage")
    if type(usage) is not dict:
        return None
    counts = Counts(usage)
    fresh, output_tokens = counts.first("input_tokens"), counts.first("output_tokens")
    cached = counts.first("cache_read_input_tokens") or 0
    written = counts.first("cache_creation_input_tokens") or 0
    thinking = counts.first("thinking_tokens", within=("output_tokens_details",)) or 0
    total = counts.first("total_tokens")
    for_an_hour = hour_writes(counts, usage)
    if output_tokens is None or not counts.believable:
        return None
    if not fresh and not cached + written:
        return only_output(output_tokens)
    agrees = fresh is not None and (total is None or total >= fresh + output_tokens)
    read = (fresh or 0) + cached + written
    terms = service_tier(payload), for_an_hour, other_charges(payload)
    return plausible(agrees, Usage(read, cached, written, output_tokens, thinking, *terms))


def read(payload: JsonObject) -> Reply | Failure:
    """The text blocks, joined. The input of the tool that stands for the output_schema is the text, and a stop."""
    content = payload.get("content")
    usage = usage_of(payload)
    if not payload.keys() & {"content", "stop_reason"}:
        return no_reply("content", payload, usage)
    texts = [content] if isinstance(content, str) else []
    calls: list[JsonObject] = []
    answer: str | None = None
    for block in objects(content):
        kind = block.get("type")
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind == "tool_use" and block.get("name") == SCHEMA_NAME and answer is None:
            given = block.get("input")
            answer = given if isinstance(given, str) else json_text(given)
        elif kind == "tool_use":
            calls.append(tool_call(block.get("id"), block.get("name"), block.get("input")))
    said = payload.get("stop_reason")
    if answer is not None:
        is_call = isinstance(said, str) and finish_meaning(said) == "tool_calls"
        texts, said = [answer], "stop" if is_call and not calls else said
    text = "".join(texts) if texts else None
    return reply_of(payload, text=text, said=said, usage=usage, tool_calls=tool_calls_text(calls))


def assemble(stream_body: bytes) -> Assembled:
    """Events -> the message.

    The stream saw its end with message_stop, or, the body being whole, with a message_delta that says the stop
    reason: no text follows it. Usage in message_delta is cumulative and replaces what message_start said, count
    by count, but 0 replaces no count. A stream without message_start tells its output alone.
    """
    stream = read_stream(stream_body)
    if not stream.events:
        return Assembled(None, False, stream.error)
    payload: JsonObject = {"type": "message", "role": "assistant", "content": []}
    blocks: dict[int, _Block] = {}
    ended = stream.ended
    for event in stream.events:
        kind = event.get("type")
        if kind == "message_start":
            payload.update(json_object(event.get("message")))
            payload["usage"] = dict(json_object(payload.get("usage")))
        elif kind in ("content_block_start", "content_block_delta"):
            index = event.get("index")
            index = index if type(index) is int else 0
            blocks.setdefault(index, _Block()).grow(event)
        elif kind == "message_delta":
            ended = _finish(payload, event) or ended
        elif kind == "message_stop":
            ended = True
    if not blocks and not payload.keys() & {"id", "stop_reason"}:
        return Assembled(None, False, stream.error)
    if blocks:
        payload["content"] = [blocks[index].payload() for index in sorted(blocks)]
    return Assembled(payload, ended and not stream.damaged and not stream.error, stream.error)


def _finish(payload: JsonObject, event: JsonObject) -> bool:
    """Add a message_delta; whether it says the stop reason."""
    delta, usage = json_object(event.get("delta")), json_object(event.get("usage"))
    payload.update({key: value for key, value in delta.items() if value is not None})
    so_far = json_object(payload.get("usage"))
    known = {key: value for key, value in usage.items() if value or (value == 0 and not so_far.get(key))}
    payload["usage"] = {**so_far, **known}
    return bool(delta.get("stop_reason"))


class _Block:
    """A content block that comes in pieces; its texts are joined once, since streams are long."""

    def __init__(self) -> None:
        self._start: JsonObject = {}
        self._pieces: dict[str, list[str]] = {}

    def grow(self, event: JsonObject) -> None:
        if event["type"] == "content_block_start":
            self._start = json_object(event.get("content_block"))
            return
        delta = json_object(event.get("delta"))
        for name in ("text", "partial_json", "thinking", "signature"):
            text = text_of_parts(delta.get(name))
            if text is not None:
                self._pieces.setdefault(name, []).append(text)

    def payload(self) -> JsonObject:
        begun = {name: text_of_parts(self._start.get(name)) or "" for name in self._pieces}
        joined = {name: begun[name] + "".join(pieces) for name, pieces in self._pieces.items()}
        given = joined.pop("partial_json", "")
        block = {"type": "text", **self._start, **joined}
        if given:
            block["input"] = _input(given)
        return block


def _input(text: str) -> Any:
    """A tool's input; the text itself where a stop at max_tokens cut it."""
    try:
        return decode(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return text


PROTOCOL = Protocol(
    name="messages",
    path="/messages",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=usage_of,
)
