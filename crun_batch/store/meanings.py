"""What each column of `results` and `attempts` says, and in which unit: the text of docs/columns.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Meaning(NamedTuple):
    """A column's unit ("" where it has none) and what it says; of which table, where the two differ."""

    unit: str
    says: str


SHARED: Mapping[str, Meaning] = {
    "variant": Meaning("", "the variant's name: its levels, joined by `/`; `default` without a sweep"),
    "repeat": Meaning("", "which of the job's `repeats`, from 0"),
    "error_kind": Meaning(
        "",
        "why there is no answer: timeout, connection, rate_limited, server, bad_request, too_long, "
        "content_filter, bad_reply, not_found, unknown_outcome; null where there is one",
    ),
    "error_message": Meaning("", "the same in words, the gateway's own where it said any"),
    "model": Meaning("", "the model as the reply names it, which may be a dated version of the one asked"),
    "response_id": Meaning("", "the reply's own id"),
    "input_tokens": Meaning("tokens", "read by the model, cached ones included; null: the gateway reported none"),
    "cached_input_tokens": Meaning("tokens", "of them those read from the provider's cache"),
    "cache_write_tokens": Meaning("tokens", "of them those written to the provider's cache"),
    "output_tokens": Meaning("tokens", "written by the model, reasoning included"),
    "reasoning_tokens": Meaning("tokens", "of them those spent on reasoning"),
    "cost_source": Meaning(
        "", "where the price is from: reply, job, models (the gateway's list), list (a public one)"
    ),
    "latency_seconds": Meaning("seconds", "from the first byte sent to the last byte read"),
    "started_at": Meaning("UTC, microseconds", "when the first byte was about to go"),
    "finished_at": Meaning("UTC, microseconds", "when the last byte was there, or the wait for it was over"),
}
"""Columns that say the same in both tables."""

RESULTS: Mapping[str, Meaning] = {
    **SHARED,
    "status": Meaning(
        "",
        "`ok`; `invalid`: it does not fit the output schema; `truncated`: cut at the limit of tokens; `refused`: "
        "by a content filter; `error`: no answer",
    ),
    "output_text": Meaning("", "the answer as text; null where there is none"),
    "output": Meaning(
        "", "the answer as typed values, where the job has an `output_schema`; null where it does not fit"
    ),
    "outputs": Meaning("", "the answer to each turn, in order, where the prompt has `turns`"),
    "tool_calls": Meaning("", "JSON text: a list of {id, name, arguments}"),
    "finish_reason": Meaning("", "stop, length, tool_calls, content_filter, other"),
    "cost_usd": Meaning("dollars", "what all attempts of the unit are known to have cost; null: unknown, never 0"),
    "cost_credits": Meaning("credits", "the same in credits"),
    "attempt_count": Meaning("", "requests that were sent for the unit, over all sessions"),
    "unknown_attempts": Meaning(
        "", "of them those whose outcome nobody knows: maybe billed, their cost is not in the sums"
    ),
    "latency_seconds": Meaning("seconds", "of the last attempt, from the first byte sent to the last byte read"),
    "started_at": Meaning("UTC, microseconds", "when the first attempt was about to go"),
    "finished_at": Meaning("UTC, microseconds", "when the last attempt was over"),
    "request_hash": Meaning("", "names the request: the same bytes to the same path have the same hash"),
    "reused_from": Meaning(
        "", "the earlier run that the answer was taken over from, as `reuse` names it; null: it was asked here"
    ),
}
"""Of `results`: one row for each finished unit (row, variant, repeat)."""

ATTEMPTS: Mapping[str, Meaning] = {
    **SHARED,
    "serial": Meaning("", "numbers the attempts of the run in the order in which they went"),
    "turn": Meaning("", "of a conversation, from 0"),
    "purpose": Meaning("", "answer, repair (an answer that did not fit, sent back), judge, alone (a pilot's)"),
    "judge": Meaning("", "the score whose judge was asked; null for answers and repairs"),
    "service_tier": Meaning(
        "", "the gateway's tier that is billed: the one that the reply names, else the one that was asked for"
    ),
    "endpoint": Meaning("", "where it went, by name; null where the job has one endpoint, without a name"),
    "attempt": Meaning("", "which attempt of the unit, from 1"),
    "pack_rows": Meaning("", "how many rows the request asked (`pack`); null: this one alone"),
    "pack_place": Meaning("", "the row's number in that request, from 1; serial - pack_place + 1 names it"),
    "outcome": Meaning(
        "",
        "`done`: a reply that was billed; `rejected`: a whole reply that is not 2xx; `not_sent`: provably before "
        "the first byte; `unknown`: maybe billed",
    ),
    "http_status": Meaning("", "of the reply; null where none was read"),
    "finish_reason": Meaning("", "stop, length, tool_calls, content_filter, other"),
    "request_id": Meaning("", "the gateway's id of the request, from its headers: what its support asks for"),
    "cost_usd": Meaning("dollars", "what the attempt is known to have cost; null: unknown, never 0"),
    "cost_credits": Meaning("credits", "the same in credits"),
    "reported_usd": Meaning("dollars", "the cost that the reply itself states, as it was written"),
    "cache_write_1h_tokens": Meaning(
        "tokens", "of those written to the provider's cache the ones that it keeps for an hour; null: none"
    ),
    "other_charges": Meaning(
        "",
        "what the reply says that it was billed for otherwise than by its token counts: audio tokens, searches; "
        "its cost is null then, unless the reply states it",
    ),
    "held_usd": Meaning("dollars", "reserved before it was sent: the most it could cost; null: nothing bounds it"),
    "held_credits": Meaning("credits", "the same in credits"),
    "request_hash": Meaning("", "names the request: the same bytes to the same path have the same hash"),
    "reply_body": Meaning("", "the reply's body as text; of a stream, what it would have been unstreamed"),
    "reply_base64": Meaning("", "the body in base64, where it is no UTF-8 text"),
}
"""Of `attempts`: one row for each request that was sent."""
