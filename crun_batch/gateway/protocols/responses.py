"""POST /responses: OpenAI's newer shape. Sources: OpenAI's API reference, CRUN's docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from crun_batch.gateway.failures import ErrorFacts, failure_of
from crun_batch.gateway.protocols.finish_reasons import finish_meaning
from crun_batch.gateway.protocols.protocol import Assembled, JsonObject, Protocol, encode, finished, limited
from crun_batch.gateway.protocols.reading import no_reply, reply_of, text_of_parts, tool_call, tool_calls_text
from crun_batch.gateway.protocols.schema import SCHEMA_NAME, strict_schema
from crun_batch.gateway.protocols.sse import EventStream, read_stream
from crun_batch.gateway.protocols.usage import openai_usage, told_last
from crun_batch.gateway.protocols.values import json_object, objects
from crun_batch.records import Failure, OutcomeClass, Reply

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
    """The texts of the final answer, joined. Only completed and incomplete ones are replies.

    What the model says on the way (a message or part of the phase `commentary`) is no answer, and is the text of
    no row; messages without a phase are the answer where none says that it is.
    """
    status = payload.get("status") or "completed"
    usage = openai_usage(payload)
    if status not in ("completed", "incomplete"):
        return _unfinished(str(status), payload)
    said = _said(objects(payload.get("output")))
    texts, refusals = said.texts, said.refusals
    if not said.spoke and isinstance(payload.get("output_text"), str):
        texts = [payload["output_text"]]
    if "output" not in payload and not texts:
        return no_reply("output", payload, usage)
    finish: object = _finish_word(payload, str(status), bool(said.calls and not texts))
    return reply_of(
        payload,
        text="".join(texts or refusals) if texts or refusals else None,
        said="refusal" if refusals and not texts else finish,
        usage=usage,
        tool_calls=tool_calls_text(said.calls),
    )


_PHASES = {"final_answer": "answer", "final": "answer", "commentary": "aside", "analysis": "aside"}
"""OpenAI's `phase` of a message, and the `channel` that gpt-oss gives the same thing."""


class _Said:
    """What the items of a response say."""

    def __init__(self) -> None:
        self.spoke = False
        """Whether there was a text of any phase."""
        self.calls: list[JsonObject] = []
        self.refusals: list[str] = []
        self._texts: dict[str, list[str]] = {"": [], "answer": [], "aside": []}

    @property
    def texts(self) -> list[str]:
        return self._texts["answer"] or self._texts[""]

    def add_message(self, item: JsonObject) -> None:
        content = item.get("content")
        for part in [{"text": content}] if isinstance(content, str) else objects(content):
            phase = _phase(part) or _phase(item)
            if isinstance(part.get("text"), str):
                self.spoke = True
                self._texts[phase].append(part["text"])
            elif isinstance(part.get("refusal"), str) and phase != "aside":
                self.refusals.append(part["refusal"])


def _phase(holder: JsonObject) -> str:
    said = holder.get("phase") or holder.get("channel")
    return _PHASES.get(said, "") if isinstance(said, str) else ""


def _said(items: list[JsonObject]) -> _Said:
    said = _Said()
    for item in items:
        kind = item.get("type", "message")
        if kind == "message":
            said.add_message(item)
        elif kind in ("function_call", "custom_tool_call"):
            arguments = item.get("arguments", item.get("input"))
            said.calls.append(tool_call(item.get("call_id") or item.get("id"), item.get("name"), arguments))
    return said


def _finish_word(payload: JsonObject, status: str, only_calls: bool) -> str:
    """An incomplete response was cut, whatever the reason; a reason that is in the table has its own meaning."""
    if status == "incomplete":
        reason = json_object(payload.get("incomplete_details")).get("reason")
        return reason if isinstance(reason, str) and finish_meaning(reason) not in (None, "stop") else "length"
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

    Gateways that translate leave `output` empty there, or the whole response out: the finished items of the stream
    then take its place, and counts that an earlier event told take the place of those that cannot be true. Without
    a last event, what had come is put together, and counts as whole only after `[DONE]`.
    """
    stream = read_stream(stream_body)
    if not stream.events:
        return Assembled(None, False, stream.error)
    opened = [json_object(event.get("response")) for event in stream.events if "response" in event]
    payload: JsonObject = dict(opened[-1]) if opened else {}
    last = next((event for event in reversed(stream.events) if event.get("type") in _LAST_EVENTS), None)
    if last is not None:
        ended = str(last["type"]).removeprefix("response.")
        payload = {"status": ended, **(json_object(last.get("response")) or {**payload, "status": ended})}
        usage: object = None
        for response in (*opened, payload):
            usage = told_last(usage, response.get("usage"), openai_usage)
        if usage is not None:
            payload["usage"] = usage
        payload["output"] = payload.get("output") or _items_of(stream)
        return Assembled(payload, not stream.damaged)
    payload |= {"status": "completed" if stream.ended else "in_progress", "output": _items_of(stream)}
    return Assembled(payload, stream.ended and not stream.damaged, stream.error)


def _items_of(stream: EventStream) -> list[JsonObject]:
    """The items that the stream finished, in order; else one message for each item of whose text pieces came."""
    done: dict[int, JsonObject] = {}
    begun: dict[int, JsonObject] = {}
    pieces: dict[int, list[str]] = {}
    for event in stream.events:
        kind, index = event.get("type"), event.get("output_index")
        if kind == "response.output_item.done" and isinstance(event.get("item"), dict):
            done[index if type(index) is int else len(done)] = event["item"]
        elif kind == "response.output_item.added" and isinstance(event.get("item"), dict):
            begun[index if type(index) is int else len(begun)] = event["item"]
        elif kind == "response.output_text.delta" and isinstance(event.get("delta"), str):
            pieces.setdefault(index if type(index) is int else 0, []).append(event["delta"])
    if done or not pieces:
        return [done[index] for index in sorted(done)]
    return [_unfinished_message(begun.get(index, {}), "".join(pieces[index])) for index in sorted(pieces)]


def _unfinished_message(begun: JsonObject, text: str) -> JsonObject:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "", "type": "message", "role": "assistant", "status": "incomplete", "content": [part]}
    phase = begun.get("phase")
    return {**item, "phase": phase} if phase else item


PROTOCOL = Protocol(
    name="responses",
    path="/responses",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=openai_usage,
)
