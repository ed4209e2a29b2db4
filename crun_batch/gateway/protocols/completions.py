"""POST /completions: one text in, one text out.

Sources: OpenAI's API reference, vLLM's and llama.cpp's servers; CRUN's docs, by which CRUN does not stream it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crun_batch.gateway.protocols.protocol import Assembled, JsonObject, Protocol, encode, finished, limited
from crun_batch.gateway.protocols.reading import (
    NATIVE,
    finish_said,
    native_finish,
    no_reply,
    reason_said,
    reply_of,
    text_of_parts,
)
from crun_batch.gateway.protocols.schema import schema_words
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.gateway.protocols.usage import openai_usage, told_last
from crun_batch.gateway.protocols.values import objects
from crun_batch.records import Failure, Reply

OUTPUT_LIMIT_NAMES = ("max_tokens",)


def body(
    model: str,
    prompt_messages: Sequence[Mapping[str, Any]],
    params: Mapping[str, Any],
    max_output_tokens: int | None,
    stream: bool,
    output_schema: Mapping[str, Any] | None = None,
) -> bytes:
    """The request, see `BuildBody`. A stream asks for usage, as one of chat does.

    The prompt is the texts of all messages in order, parted by an empty line, without their roles; an
    output_schema is asked for in a last paragraph. Raises ValueError for a content that is no text.
    """
    texts = [_text(message) for message in prompt_messages]
    if output_schema is not None:
        texts.append(schema_words(output_schema))
    request: JsonObject = {"model": model, "prompt": "\n\n".join(texts)}
    limited(request, params, OUTPUT_LIMIT_NAMES, max_output_tokens)
    finished(request, params)
    if stream:
        request["stream"] = True
        request["stream_options"] = {"include_usage": True, **params.get("stream_options", {})}
    return encode(request)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(
            f"the {message.get('role')} message is no plain text, and protocol completions sends nothing else: "
            "use protocol chat, responses or messages for images, files and tool calls"
        )
    return content


def read(payload: JsonObject) -> Reply | Failure:
    """The text of the first choice. Null is an answer without a text, as it is in the other protocols."""
    choices = objects(payload.get("choices"))
    usage = openai_usage(payload)
    if not choices:
        return no_reply("choices", payload, usage)
    text = text_of_parts(choices[0].get("text"))
    return reply_of(payload, text=text, said=finish_said(choices[0]), usage=usage)


def assemble(stream_body: bytes) -> Assembled:
    """Chunks -> one text_completion.

    The stream saw its end as one of chat does.
    """
    stream = read_stream(stream_body)
    pieces: list[str] = []
    choice: JsonObject = {"index": 0, "text": None, "finish_reason": None}
    payload: JsonObject = {"object": "text_completion", "choices": [choice]}
    for event in stream.events:
        payload.update({key: event[key] for key in ("id", "created", "model", "service_tier") if event.get(key)})
        if event.get("usage"):
            payload["usage"] = told_last(payload.get("usage"), event["usage"], openai_usage)
        for chunk in objects(event.get("choices"))[:1]:
            choice["finish_reason"] = reason_said(chunk.get("finish_reason")) or choice["finish_reason"]
            choice.update({NATIVE: native} if (native := native_finish(chunk)) else {})
            pieces += [chunk["text"]] if isinstance(chunk.get("text"), str) else []
    if not pieces and not choice["finish_reason"]:
        return Assembled(None, False, stream.error)
    choice["text"] = "".join(pieces) if pieces else None
    whole = (stream.ended or bool(choice["finish_reason"])) and not stream.damaged and not stream.error
    return Assembled(payload, whole, stream.error)


PROTOCOL = Protocol(
    name="completions",
    path="/completions",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=openai_usage,
)
