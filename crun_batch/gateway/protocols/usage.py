"""The token counts of a reply, in one meaning for all protocols. What contradicts itself is not believed."""

from __future__ import annotations

from collections.abc import Callable

from crun_batch.gateway.protocols.charges import INPUT_DETAILS, OUTPUT_DETAILS, other_charges, service_tier
from crun_batch.gateway.protocols.protocol import JsonObject
from crun_batch.gateway.protocols.values import MOST_TOKENS, json_object, tokens
from crun_batch.records import Usage

_HOUR_WRITES = "ephemeral_1h_input_tokens"


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
    cached = counts.first("cached_tokens", within=INPUT_DETAILS)
    if cached is None:
        cached = counts.first("prompt_cache_hit_tokens", "cache_read_input_tokens")
    written = counts.first("cache_write_tokens", within=INPUT_DETAILS)
    if written is None:
        written = counts.first("cache_creation_input_tokens")
    reasoning = counts.first("reasoning_tokens", within=OUTPUT_DETAILS)
    total = counts.first("total_tokens")
    for_an_hour = hour_writes(counts, usage)
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
    terms = service_tier(payload), for_an_hour, other_charges(payload)
    return plausible(unlisted >= 0, Usage(input_tokens, cached, written, output_tokens, reasoning, *terms))


def hour_writes(counts: Counts, usage: JsonObject) -> int:
    """Of the tokens written to the cache those that are kept for an hour, as Anthropic or LiteLLM tell them."""
    told = counts.first(_HOUR_WRITES, within=("cache_creation",))
    if told is not None:
        return told
    details = (json_object(usage.get(name)).get("cache_creation_token_details") for name in INPUT_DETAILS)
    return next((count for one in details if (count := tokens(json_object(one).get(_HOUR_WRITES)))), 0)


def plausible(agrees: bool, usage: Usage) -> Usage | None:
    """The usage where its parts fit into their wholes; a request always has an input."""
    whole = usage.input_tokens or 0
    written = usage.cache_write_tokens
    fits = whole > 0 and usage.cached_input_tokens + written <= whole <= MOST_TOKENS
    parts_fit = usage.cache_write_1h_tokens <= written and usage.reasoning_tokens <= usage.output_tokens
    return usage if agrees and fits and parts_fit else None


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
