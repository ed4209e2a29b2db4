"""Streams as others write them: tool calls numbered their way, a message told twice, usage in another place."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.finish_reasons import finish_meaning
from crun_batch.records import Failure, Reply, Response, Usage

COUNTS = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
USAGE = Usage(input_tokens=12, output_tokens=4)


def streamed(events: list[dict[str, Any]], name: str = "chat") -> Reply:
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    reply = check(PROTOCOLS[name], Response(200, {}, body), stream=True)  # type: ignore[index]
    assert isinstance(reply, Reply), reply
    return reply


def chunk(delta: dict[str, Any], said: str | None = None, **beside: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": said}], **beside}


# tool calls

CALLS = st.lists(
    st.tuples(st.sampled_from(["look", "add"]), st.dictionaries(st.text(max_size=3), st.integers(), max_size=3)),
    min_size=1,
    max_size=4,
)


def numbered(place: int, piece: int) -> dict[str, Any]:
    """OpenAI: each call has its index, and its first piece the id."""
    return {"index": place} | ({"id": f"call_{place}"} if piece == 0 else {})


def all_first(place: int, piece: int) -> dict[str, Any]:
    """Gemini, Ollama: every call has index 0 and an id of its own."""
    return {"index": 0} | ({"id": f"call_{place}"} if piece == 0 else {})


def all_first_without_ids(place: int, piece: int) -> dict[str, Any]:
    """The same, and the ids are empty."""
    return {"index": 0, "id": ""}


def unnumbered(place: int, piece: int) -> dict[str, Any]:
    """No index at all, the id in each piece."""
    return {"index": None, "id": f"call_{place}"}


def ids_of_pieces(place: int, piece: int) -> dict[str, Any]:
    """vLLM, once: each piece has an id of its own."""
    return {"index": place, "id": f"call_{place}_{piece}"}


@pytest.mark.parametrize(
    "numbering",
    [numbered, all_first, all_first_without_ids, unnumbered, ids_of_pieces],
    ids=lambda it: it.__name__,
)
@given(calls=CALLS, size=st.integers(1, 8))
def test_every_call_of_an_answer_is_kept_however_its_server_numbers_them(
    numbering: Any, calls: list[tuple[str, dict[str, int]]], size: int
) -> None:
    """Their names and arguments, in order, none glued to another."""
    events = []
    for place, (name, given_arguments) in enumerate(calls):
        text = json.dumps(given_arguments)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        for piece, arguments in enumerate(pieces):
            function = {"arguments": arguments} | ({"name": name} if piece == 0 else {})
            events.append(chunk({"tool_calls": [{**numbering(place, piece), "function": function}]}))
    reply = streamed([*events, chunk({}, "tool_calls", usage=COUNTS)])
    told = [(call["name"], json.loads(call["arguments"])) for call in json.loads(reply.tool_calls or "[]")]
    assert calls == told


# texts


@pytest.mark.parametrize("beside", [True, False])
def test_a_message_told_once_more_is_no_second_answer(beside: bool) -> None:
    """Perplexity tells the text so far beside each piece, MiniMax the whole message behind the last one."""
    events, so_far = [], ""
    for piece in ("fo", "ur"):
        so_far += piece
        events.append(chunk({"content": piece}))
        if beside:
            events[-1]["choices"][0]["message"] = {"content": so_far}
    last = {"index": 0, "message": {"content": so_far}, "finish_reason": "stop"}
    assert "four" == streamed([*events, {"choices": [last], "usage": COUNTS}]).text


def test_a_stream_of_one_whole_message_is_its_answer() -> None:
    last = {"index": 0, "message": {"content": "four"}, "finish_reason": "stop"}
    assert "four" == streamed([{"choices": [last], "usage": COUNTS}]).text


def test_a_block_that_begins_with_text_keeps_it() -> None:
    """Anthropic's client adds the pieces to what the block began with; so do we."""
    reply = streamed(
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "fo"}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ur"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
            {"type": "message_stop"},
        ],
        "messages",
    )
    assert ("four", USAGE) == (reply.text, reply.usage)


def test_usage_that_groq_keeps_for_itself_is_read() -> None:
    reply = streamed([chunk({"content": "4"}), chunk({}, "stop", x_groq={"id": "req_1", "usage": COUNTS})])
    assert USAGE == reply.usage


def test_usage_that_moonshot_puts_into_the_last_choice_is_read() -> None:
    last = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**COUNTS, "cached_tokens": 8}}
    reply = streamed([chunk({"content": "4"}), {"choices": [last]}])
    assert Usage(input_tokens=12, cached_input_tokens=8, output_tokens=4) == reply.usage


# ends


@pytest.mark.parametrize(
    ("expected", "pieces"),
    [
        (("rejected", "rate_limited", "cool_down"), []),
        (
            ("unknown", "rate_limited", "retry"),
            [{"type": "response.output_text.delta", "output_index": 0, "delta": "half an"}],
        ),
        (
            ("unknown", "rate_limited", "retry"),
            [
                {
                    "type": "response.output_item.done",
                    "output_index": 0,
                    "item": {"type": "reasoning", "summary": []},
                }
            ],
        ),
    ],
)
def test_a_response_that_failed_after_a_part_of_it_had_come_may_have_been_billed(
    expected: tuple[str, str, str], pieces: list[dict[str, Any]]
) -> None:
    """OpenAI says it in a last event of its own and tells no tokens: after a piece it is no free refusal."""
    said = {
        "id": "r",
        "status": "failed",
        "error": {"code": "rate_limit_exceeded", "message": "later"},
        "output": [],
    }
    events = [
        {"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}},
        *pieces,
        {"type": "response.failed", "response": said},
    ]
    body = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    failure = check(PROTOCOLS["responses"], Response(200, {}, body), stream=True)
    assert isinstance(failure, Failure)
    assert expected == (failure.outcome, failure.kind, failure.action)


# words


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("content_filter", "content_filter: PROHIBITED_CONTENT"),
        ("content_filter", "content_filter: SOMETHING_NEW"),
        ("malformed", "function_call_filter: MALFORMED_FUNCTION_CALL"),
        ("length", "FinishReason.MAX_TOKENS"),
        (None, "something: new"),
    ],
)
def test_of_several_words_for_the_end_the_last_known_one_counts(expected: str | None, said: str) -> None:
    assert expected == finish_meaning(said)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("body", [b'{"message": "Endpoint timed out"}', b"Endpoint timed out"])
def test_what_a_200_says_in_place_of_a_reply_is_told(body: bytes, name: str) -> None:
    """It may have been billed all the same; whoever reads the row learns what the gateway said."""
    failure = check(PROTOCOLS[name], Response(200, {}, body), stream=False)  # type: ignore[index]
    assert isinstance(failure, Failure)
    assert ("unknown", "bad_reply", "retry") == (failure.outcome, failure.kind, failure.action)
    assert "Endpoint timed out" in failure.message
