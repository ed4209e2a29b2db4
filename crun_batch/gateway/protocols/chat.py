"""POST /chat/completions: OpenAI's shape, which most gateways speak.

Sources: OpenAI's API reference, CRUN's and OpenRouter's docs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from crun_batch.gateway.failures import facts_of, failure_of
from crun_batch.gateway.protocols.chat_plain import read_plain
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
    NATIVE,
    finish_said,
    native_finish,
    no_reply,
    reason_said,
    reply_of,
    text_of_parts,
    tool_call,
    tool_calls_text,
)
from crun_batch.gateway.protocols.schema import SCHEMA_NAME, strict_schema
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.gateway.protocols.usage import openai_usage, told_last
from crun_batch.gateway.protocols.values import json_object, objects, word
from crun_batch.records import Failure, Reply

OUTPUT_LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
"""`max_output_tokens` becomes max_completion_tokens: OpenAI's reasoning models refuse the older max_tokens with a
400, and CRUN, OpenRouter, vLLM and llama.cpp (since February 2026) know both. For a server that knows only
max_tokens (older llama.cpp ignores the newer name) put `max_tokens` into params: it replaces ours."""


def body(
    model: str,
    prompt_messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    max_output_tokens: int | None,
    stream: bool,
    output_schema: Mapping[str, Any] | None = None,
) -> bytes:
    """The request, see `BuildBody`. A stream asks for usage, unless the params' stream_options say otherwise."""
    request: JsonObject = {
        "model": model,
        "messages": [
            message if type(message.get("content")) is str else _message(message) for message in prompt_messages
        ],
    }
    limited(request, params, OUTPUT_LIMIT_NAMES, max_output_tokens)
    if output_schema is not None:
        schema, strict = strict_schema(output_schema)
        form = {"name": SCHEMA_NAME, "schema": orjson.Fragment(schema), "strict": strict}
        request["response_format"] = {"type": "json_schema", "json_schema": form}
    finished(request, params)
    if stream:
        request["stream"] = True
        request["stream_options"] = {"include_usage": True, **params.get("stream_options", {})}
    return encode(request)


def _message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    return {**message, "content": [_part(part) for part in content]} if isinstance(content, list) else message


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        return {"type": "image_url", "image_url": {key: part[key] for key in ("url", "detail") if key in part}}
    if kind == "file" and "url" in part:
        # OpenAI takes a data URL here; a plain URL is an extension of gateways (OpenRouter), left to them to judge
        named = {"filename": part["filename"]} if part.get("filename") else {}
        return {"type": "file", "file": {**named, "file_data": part["url"]}}
    return part


def read(payload: JsonObject) -> Reply | Failure:
    """The first choice. A refusal is the text, with finish_reason content_filter; reasoning is no part of it."""
    choices = objects(payload.get("choices"))
    if not choices:
        return no_reply("choices", payload, openai_usage(payload))
    choice = choices[0]
    said = finish_said(choice)
    if choice.get("error"):
        return _failed(payload, choice)
    message = json_object(choice.get("message"))
    text = text_of_parts(message.get("content"))
    refusal = word(message.get("refusal"))
    calls = (
        tool_calls_text(_tool_calls(message)) if "tool_calls" in message or "function_call" in message else None
    )
    if refusal and not text:
        text, said = refusal, "refusal"
    text = None if calls and not text else text
    return reply_of(payload, text=text, said=said, usage=openai_usage(payload), tool_calls=calls)


def _failed(payload: JsonObject, choice: JsonObject) -> Failure:
    """A choice that ended in an error (OpenRouter): what it cost is known only if usage came with it."""
    usage = openai_usage(payload)
    return failure_of(200, facts_of(choice), outcome="unknown" if usage is None else "done", usage=usage)


def _tool_calls(message: JsonObject) -> list[JsonObject]:
    """Function calls, custom calls (their input is a text), and the one call of the deprecated function_call."""
    calls = []
    for call in objects(message.get("tool_calls")):
        function = json_object(call.get("function") or call.get("custom"))
        calls.append(
            tool_call(call.get("id"), function.get("name"), function.get("arguments", function.get("input")))
        )
    function = json_object(message.get("function_call"))
    if function and not calls:
        calls.append(tool_call(None, function.get("name"), function.get("arguments")))
    return calls


def assemble(stream_body: bytes) -> Assembled:
    """Chunks -> one chat.completion.

    The stream saw its end with `[DONE]`, or, the body being whole, with a finish_reason: servers leave the mark
    out (llama.cpp's forks), and usage that did not come is unknown. Usage stands in the last chunk with choices
    (CRUN), in such a choice (Moonshot) or in a chunk of its own (OpenAI); the last that can be true wins.
    """
    stream = read_stream(stream_body)
    if not stream.events:
        return Assembled(None, False, stream.error)
    payload: JsonObject = {"id": "", "object": "chat.completion", "created": 0, "model": "", "choices": []}
    choices: dict[int, _Choice] = {}
    for event in stream.events:
        for key in ("id", "created", "model", "system_fingerprint", "service_tier"):
            # CRUN sends empty ids and zero times in the middle: they must not hide the first ones
            if event.get(key):
                payload[key] = event[key]
        chunks = objects(event.get("choices"))
        beside = (event, json_object(event.get("x_groq")), *chunks)
        usage = next(filter(None, (holder.get("usage") for holder in beside)), None)
        if usage:
            payload["usage"] = told_last(payload.get("usage"), usage, openai_usage)
        for chunk in chunks:
            index = chunk.get("index")
            index = index if type(index) is int else 0
            choices.setdefault(index, _Choice(index)).grow(chunk)
    payload["choices"] = [choices[index].payload() for index in sorted(choices)]
    whole = bool(choices) and all(choice.finish_reason for choice in choices.values())
    return Assembled(payload, (stream.ended or whole) and not stream.damaged and not stream.error, stream.error)


class _Texts:
    """Texts that come in pieces, by name; joined once, since streams are long."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[str]] = {}

    def grow(self, delta: JsonObject, names: tuple[str, ...]) -> None:
        for name in names:
            text = text_of_parts(delta.get(name))
            if text is not None:
                self._pieces.setdefault(name, []).append(text)

    def joined(self) -> JsonObject:
        return {name: "".join(pieces) for name, pieces in self._pieces.items()}


class _Call:
    """A tool call that comes in pieces."""

    def __init__(self) -> None:
        self.call_id: object = None
        self._name: object = None
        self._kind = "function"
        self._texts = _Texts()

    def grow(self, piece: JsonObject) -> None:
        self.call_id = piece.get("id") or self.call_id
        for kind in ("function", "custom"):
            if isinstance(piece.get(kind), dict):
                self._kind = kind
                self.grow_function(piece[kind])

    def grow_function(self, function: JsonObject) -> None:
        self._name = function.get("name") or self._name
        self._texts.grow(function, ("arguments", "input"))

    def is_over(self, piece: JsonObject, is_numbered: bool) -> bool:
        """Whether a piece of its index begins another call: Gemini and Ollama give all calls of an answer index 0.

        Then another name comes with another id, or after whole arguments. Another id alone says it only where
        there is no index: vLLM has given each piece an id of its own.
        """
        is_another = piece.get("id") not in (None, "", self.call_id)
        said = json_object(piece.get("function") or piece.get("custom"))
        if not is_numbered or not said.get("name") or not self._name:
            return is_another and not is_numbered
        return (is_another and bool(self.call_id)) or (bool(said.get("arguments")) and self._is_whole())

    def _is_whole(self) -> bool:
        try:
            return isinstance(decode(str(self._texts.joined().get("arguments", "")).encode()), dict)
        except ValueError:
            return False

    def function(self) -> JsonObject:
        return {"name": self._name, **self._texts.joined()}

    def payload(self) -> JsonObject:
        return {"id": self.call_id, "type": self._kind, self._kind: self.function()}


class _Choice:
    """A choice that comes in pieces."""

    def __init__(self, index: int) -> None:
        self.finish_reason: object = None
        self._native: str | None = None
        self._index = index
        self._error: object = None
        self._has_deltas = False
        self._texts = _Texts()
        self._annotations: list[JsonObject] = []
        self._calls: dict[int, list[_Call]] = {}
        self._function_call: _Call | None = None

    def grow(self, chunk: JsonObject) -> None:
        self.finish_reason = reason_said(chunk.get("finish_reason")) or self.finish_reason
        self._native = native_finish(chunk) or self._native
        self._error = chunk.get("error") or self._error
        # MiniMax and Perplexity tell the whole message once more, beside the pieces or behind them
        self._has_deltas = self._has_deltas or bool(chunk.get("delta"))
        delta = json_object(chunk.get("delta") if self._has_deltas else chunk.get("message"))
        self._texts.grow(delta, ("content", "refusal", "reasoning_content", "reasoning"))
        self._annotations += objects(delta.get("annotations"))
        for piece in objects(delta.get("tool_calls")):
            self._call_of(piece).grow(piece)
        if isinstance(delta.get("function_call"), dict):
            self._function_call = self._function_call or _Call()
            self._function_call.grow_function(delta["function_call"])

    def _call_of(self, piece: JsonObject) -> _Call:
        """The call that a piece belongs to: pieces of one call share an index; one without is of the last call."""
        index = piece.get("index")
        is_numbered = type(index) is int
        calls = self._calls.setdefault(index if type(index) is int else max(self._calls, default=0), [])
        if not calls or calls[-1].is_over(piece, is_numbered):
            calls.append(_Call())
        return calls[-1]

    def payload(self) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": None, **self._texts.joined()}
        if self._annotations:
            message["annotations"] = self._annotations
        if self._calls:
            message["tool_calls"] = [
                call.payload() for index in sorted(self._calls) for call in self._calls[index]
            ]
        if self._function_call:
            message["function_call"] = self._function_call.function()
        choice: JsonObject = {"index": self._index, "message": message, "finish_reason": self.finish_reason}
        told = {NATIVE: self._native, "error": self._error}
        return choice | {name: value for name, value in told.items() if value}


PROTOCOL = Protocol(
    name="chat",
    path="/chat/completions",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=openai_usage,
    read_plain=read_plain,
)
