"""POST /responses: OpenAI's newer shape. Sources: OpenAI's API reference, CRUN's docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from crun_batch.gateway.failures import ErrorFacts, failure_of
from crun_batch.gateway.protocols.protocol import Assembled, JsonObject, Protocol, encode, finished, limited
from crun_batch.gateway.protocols.reading import (
    json_object,
    no_reply,
    objects,
    openai_usage,
    reported_usd,
    text_of_parts,
    tool_call,
    tool_calls_text,
    word,
)
from crun_batch.gateway.protocols.schema import SCHEMA_NAME, strict_schema
from crun_batch.gateway.protocols.sse import Stream, read_stream
from crun_batch.records import Failure, FinishReason, OutcomeClass, Reply

OUTPUT_LIMIT_NAMES = ("max_output_tokens",)


def body(
    model: str,
    prompt_messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    max_output_tokens: int | None,
    stream: bool,
    output_schema: Mapping[str, Any] | None = None,
) -> bytes:
    """The request, see `BuildBody`.

    A leading system message becomes `instructions`, unless the params hold instructions of their own: then it
    stays in the input. A single plain user text is sent as a string.
    """
    request: JsonObject = {"model": model}
    messages = prompt_messages
    first = messages[0] if len(messages) > 1 and "instructions" not in params else {}
    if first.get("role") == "system" and isinstance(first["content"], str):
        request["instructions"] = first["content"]
        messages = messages[1:]
    request["input"] = _input(messages)
    limited(request, params, OUTPUT_LIMIT_NAMES, max_output_tokens)
    if output_schema is not None:
        schema, strict = strict_schema(output_schema)
        form = {"type": "json_schema", "name": SCHEMA_NAME, "schema": orjson.Fragment(schema), "strict": strict}
        request["text"] = {"format": form}
        if isinstance(params.get("text"), dict):
            params = {**params, "text": {"format": form, **params["text"]}}
    finished(request, params)
    if stream:
        request["stream"] = True
    return encode(request)


def _input(messages: Sequence[Mapping[str, Any]]) -> str | list[JsonObject]:
    if len(messages) == 1 and messages[0]["role"] == "user" and isinstance(messages[0]["content"], str):
        return messages[0]["content"]
    return [item for message in messages for item in _items(message)]


def _items(message: Mapping[str, Any]) -> list[JsonObject]:
    """A message as input items: calls and their results, which chat keeps in messages, are items of their own.

    An assistant's parts are sent as one text: this endpoint takes no input parts from that role.
    """
    role, content = message["role"], message.get("content")
    if role == "tool":
        output = text_of_parts(content) or ""
        return [{"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output}]
    if isinstance(content, list):
        content = [_part(part) for part in content] if role != "assistant" else text_of_parts(content)
    items: list[JsonObject] = [{"role": role, "content": content}] if content else []
    items += [
        {"type": "function_call", "call_id": call.get("id"), **json_object(call.get("function"))}
        for call in objects(message.get("tool_calls"))
    ]
    return items or [{"role": role, "content": ""}]


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {**part, "type": "input_text"}
    if kind == "image":
        return {"type": "input_image", "image_url": part["url"], "detail": part.get("detail", "auto")}
    if kind == "image_url":
        image = json_object(part.get("image_url"))
        return {"type": "input_image", "image_url": image.get("url"), "detail": image.get("detail", "auto")}
    if kind == "file" and "url" in part:
        if not part["url"].startswith("data:"):
            return {"type": "input_file", "file_url": part["url"]}
        return {"type": "input_file", "filename": part.get("filename") or "file", "file_data": part["url"]}
    return part


def read(payload: JsonObject) -> Reply | Failure:
    """The texts of all messages, joined, as OpenAI's SDK does. Only completed and incomplete ones are replies."""
    status = payload.get("status") or "completed"
    usage = openai_usage(payload)
    if status not in ("completed", "incomplete"):
        return _unfinished(str(status), payload)
    texts: list[str] = []
    refusals: list[str] = []
    calls: list[JsonObject] = []
    output = payload.get("output")
    for item in objects(output):
        kind = item.get("type", "message")
        if kind == "message":
            for part in objects(item.get("content")):
                if isinstance(part.get("text"), str):
                    texts.append(part["text"])
                elif isinstance(part.get("refusal"), str):
                    refusals.append(part["refusal"])
        elif kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments", item.get("input"))
            calls.append(tool_call(item.get("call_id") or item.get("id"), item.get("name"), arguments))
    if not texts and isinstance(payload.get("output_text"), str):
        texts.append(payload["output_text"])
    if not isinstance(output, list) and not texts:
        return no_reply("output", usage)
    refused = bool(refusals) and not texts
    return Reply(
        text="".join(texts or refusals) if texts or refusals else None,
        finish_reason="content_filter" if refused else _finish_reason(payload, status, bool(calls and not texts)),
        usage=usage,
        tool_calls=tool_calls_text(calls),
        model=word(payload.get("model")),
        response_id=word(payload.get("id")),
        reported_usd=reported_usd(payload),
    )


def _finish_reason(payload: JsonObject, status: str, only_calls: bool) -> FinishReason:
    """An incomplete response was cut, whatever the reason; only the filter's cut has a word of its own."""
    if status == "incomplete":
        reason = json_object(payload.get("incomplete_details")).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    return "tool_calls" if only_calls else "stop"


def _unfinished(status: str, payload: JsonObject) -> Failure:
    """`failed` without a word why, `cancelled`, and a background response, which nobody will fetch."""
    usage = openai_usage(payload)
    if status == "failed":
        facts = ErrorFacts(number=500, message="the response has status failed and names no error")
        return failure_of(200, facts, outcome="rejected" if usage is None else "done", usage=usage)
    outcome: OutcomeClass = "unknown" if usage is None else "done"
    message = f"HTTP 200 with a response of status {status[:40]}: only completed responses are answers"
    return Failure(outcome, "bad_reply", "fail_row", message, usage=usage)


_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")


def assemble(stream_body: bytes) -> Assembled:
    """Events -> the response that the last one carries.

    Gateways that translate leave `output` empty there: the finished items of the stream then take its place.
    Without a last event, what had come is put together, and counts as whole only after `[DONE]`.
    """
    stream = read_stream(stream_body)
    last = next((event for event in reversed(stream.events) if event.get("type") in _LAST_EVENTS), None)
    if last is not None and isinstance(last.get("response"), dict):
        payload: JsonObject = {"status": last["type"].removeprefix("response."), **last["response"]}
        if not payload.get("output"):
            payload["output"] = _items_of(stream)
        return Assembled(payload, not stream.damaged)
    if not stream.events:
        return Assembled(None, False, stream.error)
    opened = [json_object(event.get("response")) for event in stream.events if "response" in event]
    status = "completed" if stream.ended else "in_progress"
    payload = {**(opened[-1] if opened else {}), "status": status, "output": _items_of(stream)}
    return Assembled(payload, stream.ended and not stream.damaged, stream.error)


def _items_of(stream: Stream) -> list[JsonObject]:
    """The items that the stream finished, in order; else one message of the text that had come."""
    done: dict[int, JsonObject] = {}
    pieces: list[str] = []
    for event in stream.events:
        kind = event.get("type")
        if kind == "response.output_item.done" and isinstance(event.get("item"), dict):
            index = event.get("output_index")
            done[index if type(index) is int else len(done)] = event["item"]
        elif kind == "response.output_text.delta" and isinstance(event.get("delta"), str):
            pieces.append(event["delta"])
    if done or not pieces:
        return [done[index] for index in sorted(done)]
    text = {"type": "output_text", "text": "".join(pieces), "annotations": []}
    return [{"id": "", "type": "message", "role": "assistant", "status": "incomplete", "content": [text]}]


PROTOCOL = Protocol(
    name="responses",
    path="/responses",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=openai_usage,
)
