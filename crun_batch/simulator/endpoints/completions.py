"""POST /completions: a prompt in, its continuation out. CRUN does not stream it; in OpenAI's style it is streamed.

Sources: OpenAI's API reference (legacy completions), vLLM's and llama.cpp's servers.
"""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer
from crun_batch.simulator.endpoints import form
from crun_batch.simulator.settings import Settings

_FIELDS = {
    "model": form.Field((str,), required=True),
    "prompt": form.Field((str, list), required=True),
    "temperature": form.TEMPERATURE,
    "top_p": form.UNIT,
    "max_tokens": form.POSITIVE,
    "stream": form.FLAG,
    "stream_options": form.MAPPING,
    "stop": form.Field((str, list)),
    "seed": form.Field((int,)),
    "service_tier": form.TEXT,
}


def read(payload: dict[str, Any]) -> Ask:
    """The question in a completions body; a list of prompts may hold one."""
    form.check_fields(payload, _FIELDS)
    form.check_single(payload)
    prompt = payload["prompt"]
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            raise Invalid("Invalid 'prompt': expected a string or an array of one string.", "prompt")
        prompt = prompt[0]
    return Ask(
        model=payload["model"],
        messages=(("prompt", prompt),),
        max_output_tokens=payload.get("max_tokens"),
        sampling=form.sampling_text(payload),
        service_tier=payload.get("service_tier"),
        stream=bool(payload.get("stream")),
        usage_chunk=bool((payload.get("stream_options") or {}).get("include_usage")),
    )


def reply(ask: Ask, answer: ModelAnswer) -> dict[str, Any]:
    """The whole reply."""
    return {
        "id": f"cmpl-{answer.id}",
        "object": "text_completion",
        "created": form.CREATED,
        "model": ask.model,
        "choices": [_choice(answer.text, answer.finish)],
        "usage": form.openai_usage(answer),
        **form.tier(answer),
    }


def events(ask: Ask, answer: ModelAnswer, settings: Settings) -> form.Events:
    """The reply as chunks, each with a piece of the text; usage, where it is asked for, in an extra one."""
    whole = {key: value for key, value in reply(ask, answer).items() if key not in ("choices", "usage")}
    extra = {"usage": None} if ask.usage_chunk else {}
    pieces = [(piece, None) for piece in form.slices(answer.text, settings)] + [("", answer.finish)]
    chunks = [{**whole, "choices": [_choice(text, finish)], **extra} for text, finish in pieces]
    if ask.usage_chunk:
        chunks.append({**whole, "choices": [], "usage": form.openai_usage(answer)})
    return [*map(form.data_line, chunks), b"data: [DONE]\n\n"]


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


ENDPOINT = form.ApiEndpoint("/completions", "openai", read, reply, events, stream_styles=("openai",))
