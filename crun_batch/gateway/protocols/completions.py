"""POST /completions: one text in, one text out; no stream. Sources: OpenAI's API reference, CRUN's docs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crun_batch.gateway.protocols.protocol import Assembled, JsonObject, Protocol, encode, finished, limited
from crun_batch.gateway.protocols.reading import finish_reason, no_reply, objects, openai_usage, reported_usd, word
from crun_batch.gateway.protocols.schema import schema_words
from crun_batch.gateway.protocols.sse import read_stream
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
    """The request, see `BuildBody`. `stream` is not asked for: this endpoint has none.

    The prompt is the texts of all messages in order, parted by an empty line, without their roles; an
    output_schema is asked for in a last paragraph. Raises ValueError for a content that is no text.
    """
    texts = [_text(message) for message in prompt_messages]
    if output_schema is not None:
        texts.append(schema_words(output_schema))
    request: JsonObject = {"model": model, "prompt": "\n\n".join(texts)}
    limited(request, params, OUTPUT_LIMIT_NAMES, max_output_tokens)
    return encode(finished(request, params))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(
            f"the {message.get('role')} message is no plain text, and protocol completions sends nothing else: "
            "use protocol chat, responses or messages for images, files and tool calls"
        )
    return content


def read(payload: JsonObject) -> Reply | Failure:
    """The text of the first choice."""
    choices = objects(payload.get("choices"))
    usage = openai_usage(payload)
    if not choices or not isinstance(choices[0].get("text"), str):
        return no_reply("a text", usage)
    return Reply(
        text=choices[0]["text"],
        finish_reason=finish_reason(choices[0].get("finish_reason")),
        usage=usage,
        model=word(payload.get("model")),
        response_id=word(payload.get("id")),
        reported_usd=reported_usd(payload),
    )


def assemble(stream_body: bytes) -> Assembled:
    """No stream is ever asked for: of one that comes all the same only its error is read, the rest is no reply."""
    return Assembled(None, False, read_stream(stream_body).error)


PROTOCOL = Protocol(
    name="completions",
    path="/completions",
    output_limit_names=OUTPUT_LIMIT_NAMES,
    body=body,
    read=read,
    assemble=assemble,
    usage=openai_usage,
)
