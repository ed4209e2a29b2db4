"""POST /completions: a prompt in, its continuation out; this gateway does not stream it."""

from __future__ import annotations

from typing import Any

from crun_batch.simulator.asks import Ask, Invalid, ModelAnswer
from crun_batch.simulator.endpoints import form

_FIELDS = {
    "model": form.Field((str,), required=True),
    "prompt": form.Field((str, list), required=True),
    "temperature": form.TEMPERATURE,
    "top_p": form.UNIT,
    "max_tokens": form.POSITIVE,
    "stream": form.FLAG,
    "stop": form.Field((str, list)),
    "seed": form.Field((int,)),
    "service_tier": form.TEXT,
}


def read(payload: dict[str, Any]) -> Ask:
    """The question in a completions body; a list of prompts may hold one."""
    form.check_fields(payload, _FIELDS)
    form.check_single(payload)
    if payload.get("stream"):
        raise Invalid("Invalid 'stream': this endpoint does not stream.", "stream")
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
    )


def reply(ask: Ask, answer: ModelAnswer) -> dict[str, Any]:
    """The whole reply."""
    return {
        "id": f"cmpl-{answer.id}",
        "object": "text_completion",
        "created": form.CREATED,
        "model": ask.model,
        "choices": [{"index": 0, "text": answer.text, "logprobs": None, "finish_reason": answer.finish}],
        "usage": form.openai_usage(answer),
        **form.tier(answer),
    }


ENDPOINT = form.ApiEndpoint("/completions", "openai", read, reply)
