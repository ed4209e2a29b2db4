"""Liberal readers of what replies have in common: texts, finish reasons, tool calls.

A reply is somebody else's: any value may be missing, null or of another type, and none of that raises here.
What cannot be believed is unknown (None), never 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from crun_batch.gateway.failures import facts_of, message_line
from crun_batch.gateway.protocols.charges import reported_usd
from crun_batch.gateway.protocols.finish_reasons import REASON_OF_MEANING, FinishMeaning, finish_meaning
from crun_batch.gateway.protocols.protocol import JsonObject, encode
from crun_batch.gateway.protocols.values import json_object, objects, word
from crun_batch.records import Failure, OutcomeClass, Reply, Usage, is_missing

NO_ANSWER = "the reply holds no text"

NATIVE = "native_finish_reason"


def native_finish(choice: JsonObject) -> str | None:
    """The provider's own word beside the gateway's (OpenRouter; LiteLLM among its provider_specific_fields)."""
    beside = json_object(choice.get("provider_specific_fields"))
    return word(choice.get(NATIVE)) or word(beside.get(NATIVE))


def reason_said(value: object) -> object:
    """A finish reason; None for the text "null", which Alibaba's DashScope writes while a stream goes on."""
    return None if value in ("null", "None") else value


def finish_said(choice: JsonObject) -> object:
    """Why the choice ended. Gateways translate words that they do not know into `stop`.

    So the provider's own word counts where the gateway's is missing, or says that all is well and it does not.
    """
    said, native = reason_said(choice.get("finish_reason")), native_finish(choice)
    if native is None or not (said is None or isinstance(said, str)):
        return said
    if not said:
        return native
    is_well = finish_meaning(said) in ("stop", "tool_calls", None)
    return native if is_well and finish_meaning(native) not in ("stop", "tool_calls", None) else said


def reply_of(
    payload: JsonObject,
    *,
    text: str | None,
    said: object,
    usage: Usage | None,
    tool_calls: str | None = None,
) -> Reply | Failure:
    """The reply that was read, or the failure that its finish reason `said` tells of.

    Counts that leave out what stands there are not believed: no output tokens for an answer.
    """
    if usage is not None and not usage.output_tokens and (text or tool_calls):
        usage = None
    meaning = finish_meaning(said) if isinstance(said, str) else None
    if meaning in ("cut", "malformed"):
        return _broken_off(str(said), meaning, usage)
    return Reply(
        text=text,
        finish_reason="other" if meaning is None else REASON_OF_MEANING[meaning],
        usage=usage,
        tool_calls=tool_calls,
        model=word(payload.get("model")),
        response_id=word(payload.get("id")),
        reported_usd=reported_usd(payload),
        note=_note(text or tool_calls, said, meaning),
    )


def _note(answer: str | None, said: object, meaning: FinishMeaning | None) -> str | None:
    """What is doubtful about an answer: it is not there, or its provider's word for the end is in no list."""
    if is_missing(answer):
        return NO_ANSWER
    if meaning is not None:
        return None
    what = f"finish reason {said:.80} is in no list" if isinstance(said, str) and said else "no finish reason came"
    return message_line(f"{what}: see whether the answer is whole")


def _broken_off(said: str, meaning: FinishMeaning, usage: Usage | None) -> Failure:
    """Half an answer. What the provider cut may be whole next time; what the model spoilt costs the same again."""
    outcome: OutcomeClass = "unknown" if usage is None else "done"
    if meaning == "cut":
        message = f"the provider broke the answer off: finish reason {said:.80}"
        return Failure(outcome, "server", "retry", message_line(message), usage=usage)
    message = f"the model wrote what its provider could not read: finish reason {said:.80}"
    return Failure(outcome, "bad_reply", "fail_row", message_line(message), usage=usage)


def no_reply(missing: str, payload: JsonObject, usage: Usage | None) -> Failure:
    """A 2xx object that is no reply: billed for certain where it tells its tokens, and else perhaps.

    What it says instead is told: `{"message": "Endpoint request timed out"}` (Amazon's API Gateway).
    """
    said = facts_of(payload).message
    told = message_line(f": it says {said!r}") if said else ""
    if usage is None:
        what = f"HTTP 200 without {missing}: no reply of this protocol{told}"
        return Failure("unknown", "bad_reply", "retry", what)
    return Failure(
        "done", "bad_reply", "fail_row", f"HTTP 200 with usage but without {missing}{told}", usage=usage
    )


def text_of_parts(content: object) -> str | None:
    """The text of a content that is a text or a list of parts; None where it has none."""
    if isinstance(content, str):
        return content
    texts = [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]
    return "".join(texts) if texts else None


def tool_call(call_id: object, name: object, arguments: object) -> JsonObject:
    """One tool call in our form; arguments stay JSON text, or become it."""
    if not isinstance(arguments, str):
        arguments = json_text({} if arguments is None else arguments)
    return {"id": word(call_id), "name": word(name), "arguments": arguments}


def tool_calls_text(calls: Iterable[JsonObject]) -> str | None:
    """JSON text of the list of calls; None where there are none."""
    listed = list(calls)
    return json_text(listed) if listed else None


def json_text(value: Any) -> str:
    """JSON text of a value that came out of JSON."""
    return encode(value).decode()
