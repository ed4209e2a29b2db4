"""Liberal readers of what replies have in common: token counts, costs, finish reasons, tool calls.

A reply is somebody else's: any value may be missing, null or of another type, and none of that raises here.
What cannot be believed is unknown (None), never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

from crun_batch.gateway.failures import facts_of, message_line
from crun_batch.gateway.protocols.finish_reasons import REASON_OF_MEANING, FinishMeaning, finish_meaning
from crun_batch.gateway.protocols.protocol import JsonObject, encode
from crun_batch.records import Failure, OutcomeClass, Reply, Usage, is_missing, tier_named

MOST_TOKENS = 10**9
"""A larger count is a broken number: no model reads or writes a thousandth of it in one request."""

_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details")
NO_ANSWER = "the reply holds no text"

NATIVE = "native_finish_reason"
UPSTREAM = "upstream_inference_cost"

MOST_USD = 10**6
"""A reply that says it cost as much states something else than its cost."""


def word(value: object) -> str | None:
    """A text that says something, else None."""
    return value if isinstance(value, str) and value else None


def json_object(value: object) -> JsonObject:
    """The value itself where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[JsonObject]:
    """The objects of a list; whatever else it holds, or is, is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def tokens(value: object) -> int | None:
    """A believable count of tokens: a whole number from 0 on, however JSON writes it (12 and 12.0 are one)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else None


class Counts:
    """The counts of one usage object, read by name. One that is there and cannot be true spoils them all."""

    def __init__(self, usage: JsonObject) -> None:
        self._usage = usage
        self.believable = True

    def first(self, *names: str, within: tuple[str, ...] = ()) -> int | None:
        """The first of the names that says something, looked for in the details `within` before the usage itself.

        None: not told. Null is not told; so are empty details, which some servers write as a list.
        """
        for holder in (*map(self._usage.get, within), self._usage):
            if type(holder) is not dict:
                self.believable = self.believable and not holder
                continue
            for name in names:
                if holder.get(name) is not None:
                    count = tokens(holder[name])
                    self.believable = self.believable and count is not None
                    return count
        return None


def openai_usage(payload: JsonObject) -> Usage | None:
    """Usage of chat, completions (`prompt_tokens`) and responses (`input_tokens`): cached is part of the input.

    Tokens that `total_tokens` has beyond input and output are reasoning that the gateway bills as output and
    leaves out of the output count (xAI and Gemini report so), unless they are exactly the cached ones, which a
    gateway that translates from Anthropic left out of the input. What contradicts itself (a total below its parts,
    a part above its whole, a count that is no count) is not believed at all: the usage is unknown.
    """
    usage = payload.get("usage")
    if type(usage) is not dict:
        return None
    counts = Counts(usage)
    input_tokens = counts.first("prompt_tokens", "input_tokens")
    output_tokens = counts.first("completion_tokens", "output_tokens")
    cached = counts.first("cached_tokens", within=_INPUT_DETAILS)
    if cached is None:
        cached = counts.first("prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = counts.first("cache_write_tokens", within=_INPUT_DETAILS)
    if written is None:
        written = counts.first("cache_creation_input_tokens")
    reasoning = counts.first("reasoning_tokens", within=_OUTPUT_DETAILS)
    total = counts.first("total_tokens")
    if output_tokens is None or not counts.believable:
        return None
    cached, written, reasoning = cached or 0, written or 0, reasoning or 0
    if not input_tokens and not cached + written:
        return only_output(output_tokens) if not total or total == output_tokens else None
    if input_tokens is None:
        return None
    unlisted = 0 if total is None else total - input_tokens - output_tokens
    if unlisted > 0 and unlisted == cached + written and unlisted != reasoning:
        input_tokens += unlisted
    elif unlisted > 0:
        output_tokens += unlisted
        reasoning = max(reasoning, unlisted)
    tier = service_tier(payload)
    return plausible(unlisted >= 0, Usage(input_tokens, cached, written, output_tokens, reasoning, tier))


def service_tier(payload: JsonObject) -> str | None:
    """At which tier the reply says that it was served: OpenAI beside the usage, Anthropic in it."""
    usage = json_object(payload.get("usage"))
    return tier_named(payload.get("service_tier")) or tier_named(usage.get("service_tier"))


def plausible(agrees: bool, usage: Usage) -> Usage | None:
    """The usage where its parts fit into their wholes; a request always has an input."""
    whole = usage.input_tokens or 0
    fits = whole > 0 and usage.cached_input_tokens + usage.cache_write_tokens <= whole <= MOST_TOKENS
    return usage if agrees and fits and usage.reasoning_tokens <= usage.output_tokens else None


def only_output(output_tokens: int) -> Usage | None:
    """Usage that told what was written and not what was read. 0 told nothing."""
    return Usage(input_tokens=None, output_tokens=output_tokens) if output_tokens else None


def told_last(known: object, said: object, usage_of: Callable[[JsonObject], Usage | None]) -> object:
    """Of two usage objects of one stream the one that counts: the later, unless only the earlier can be true."""
    earlier, later = usage_of({"usage": known}), usage_of({"usage": said})
    if earlier is None:
        return said or known
    if later is None or (earlier.input_tokens and not later.input_tokens):
        return known
    return known if earlier.output_tokens and not later.output_tokens else said


def cost_text(value: object) -> str | None:
    """A cost as plain decimal text; None for what is no finite amount from 0 on. Floats by their shortest form."""
    if type(value) not in (int, float, str):
        return None
    text = value if isinstance(value, str) else repr(value)
    try:
        amount = Decimal(text) if len(text) <= 60 else None
    except InvalidOperation:
        return None
    if amount is None or not amount.is_finite() or amount < 0 or amount >= MOST_USD or amount.adjusted() <= -30:
        return None
    return format(abs(amount), "f")


def reported_usd(payload: JsonObject) -> str | None:
    """The cost that the reply states itself, in dollars: `usage.cost` (OpenRouter), its `total_cost` (Perplexity).

    0 states none: gateways say it for models that they have no price for, and for requests billed elsewhere. A
    model that is free has a price, of 0. Under a key of one's own (`is_byok`, OpenRouter's usage accounting)
    `cost` is the gateway's fee alone, and the provider's bill stands beside it: both are the cost.
    """
    usage = payload.get("usage")
    if type(usage) is not dict or "cost" not in usage:
        return None
    cost = usage["cost"]
    if type(cost) is dict:
        return stated_cost(cost.get("total_cost"))
    if usage.get("is_byok") is not True:
        return stated_cost(cost)
    fee, upstream = cost_text(cost), cost_text(json_object(usage.get("cost_details")).get(UPSTREAM))
    both = None if fee is None or upstream is None or not Decimal(upstream) else Decimal(fee) + Decimal(upstream)
    return None if both is None else stated_cost(format(both, "f"))


def stated_cost(value: object) -> str | None:
    """A cost that a reply states about itself, as decimal text; None for 0 and for what is no amount."""
    text = cost_text(value)
    return text if text is not None and Decimal(text) > 0 else None


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
