"""Laws of what counts as an answer: finish reasons, missing texts, usage, the ends of streams, wrapped replies."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import STATUS_OF_MEANING

from crun_batch.gateway.classify import check
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.finish_reasons import (
    FINISH_WORDS,
    REASON_OF_MEANING,
    FinishMeaning,
    finish_meaning,
)
from crun_batch.pricing.bill import Bill
from crun_batch.records import PICO, STATUS_OF_FINISH, Cost, Failure, Reply, Response, Usage
from crun_batch.session.entries import status_of

PAGE = Path(__file__).parent.parent / "docs" / "answers.md"
COUNTS = {"prompt_tokens": 12, "completion_tokens": 4, "total_tokens": 16}
USAGE = Usage(12, 0, 0, 4, 0)


def reply_body(name: str, text: str | None, said: object, usage: Any = COUNTS) -> dict[str, Any]:
    """A whole reply of the protocol that carries a text and a finish reason in its own place."""
    if name == "chat":
        return {"choices": [{"message": {"content": text}, "finish_reason": said}], "usage": usage}
    if name == "completions":
        return {"choices": [{"text": text, "finish_reason": said}], "usage": usage}
    if usage is COUNTS:
        usage = {"input_tokens": 12, "output_tokens": 4}
    if name == "messages":
        content = [] if text is None else [{"type": "text", "text": text}]
        return {"content": content, "stop_reason": said, "usage": usage}
    parts = [] if text is None else [{"type": "output_text", "text": text}]
    ended = {"status": "completed"} if said == "stop" else {"status": "incomplete"}
    details = {} if said == "stop" else {"incomplete_details": {"reason": said}}
    return {**ended, **details, "output": [{"type": "message", "content": parts}], "usage": usage}


def read(name: str, payload: Any) -> Reply | Failure:
    """What the gateway's 200 with this body means."""
    response = Response(200, {"content-type": "application/json"}, json.dumps(payload).encode())
    return check(PROTOCOLS[name], response, stream=False)  # type: ignore[index]


# finish reasons

SPELLINGS = {
    "as it is": lambda word: word,
    "capitals": str.upper,
    "hyphens": lambda word: word.replace("_", "-"),
    "blanks": lambda word: word.replace("_", " ").title(),
    "humps": lambda word: word.split("_")[0] + "".join(part.title() for part in word.split("_")[1:]),
    "of an enumeration": lambda word: f"FinishReason.{word.upper()}",
    "with a prefix": lambda word: f"FINISH_REASON_{word.upper()}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("line", FINISH_WORDS, ids=lambda line: line.word)
def test_the_spelling_of_a_finish_reason_is_no_part_of_it(line: Any, spelling: str) -> None:
    """Capitals, hyphens, humps and the name of an enumeration change nothing."""
    assert line.meaning == finish_meaning(SPELLINGS[spelling](line.word))


def test_no_word_stands_twice() -> None:
    """A word has one meaning, so that the order of the table says nothing."""
    words = [line.word for line in FINISH_WORDS]
    assert sorted(set(words)) == sorted(words)


@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
@pytest.mark.parametrize("line", FINISH_WORDS, ids=lambda line: line.word)
def test_a_finish_reason_decides_the_status_whatever_the_protocol(line: Any, name: str) -> None:
    """Half an answer is never ok, in any protocol and any provider's words."""
    result = read(name, reply_body(name, "The answer is", line.word.upper()))
    assert STATUS_OF_MEANING[line.meaning] == status_of(result)


@pytest.mark.parametrize("said", ["insufficient_system_resource", "NETWORK_ERROR", "abort"])
def test_what_the_provider_broke_off_is_asked_again_and_its_tokens_are_known(said: str) -> None:
    """The next attempt may well be whole; what this one cost is in the sum."""
    result = read("chat", reply_body("chat", "The answer is", said))
    assert isinstance(result, Failure)
    assert ("done", "server", "retry", USAGE) == (result.outcome, result.kind, result.action, result.usage)
    assert said in result.message


def test_what_the_model_spoilt_is_not_paid_for_again() -> None:
    """A function call that cannot be read is a bad reply of this row."""
    result = read("chat", reply_body("chat", None, "MALFORMED_FUNCTION_CALL"))
    assert isinstance(result, Failure)
    assert ("done", "bad_reply", "fail_row") == (result.outcome, result.kind, result.action)


def test_a_responses_reply_takes_the_reason_that_it_names() -> None:
    """`incomplete` is a cut; a reason that the table knows says of which kind."""
    expected = {"max_output_tokens": "truncated", "new_words": "truncated", "content_filter": "refused"}
    found = {said: status_of(read("responses", reply_body("responses", "half", said))) for said in expected}
    assert expected == found
    assert isinstance(read("responses", reply_body("responses", "half", "network_error")), Failure)


@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
def test_an_unknown_finish_reason_marks_the_answer(name: str) -> None:
    """With a text the row is ok, its finish_reason `other`, and the word stands in its message."""
    reply = read(name, reply_body(name, "positive", "made_up_by_a_gateway"))
    assert isinstance(reply, Reply)
    assert ("other", "ok") == (reply.finish_reason, status_of(reply))
    assert "made_up_by_a_gateway" in (reply.note or "")


# answers that are missing


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("text", [None, "", "  \n", "\u200b", "\ufeff\n", " \u2060\u00ad\x00 "])
def test_an_answer_that_is_missing_has_one_status_in_every_protocol(name: str, text: str | None) -> None:
    """Null, empty, blank and invisible are one: not ok, told in the message, not sent again."""
    reply = read(name, reply_body(name, text, "stop"))
    assert isinstance(reply, Reply)
    assert ("invalid", "the reply holds no text") == (status_of(reply), reply.note)


TEXT_PLACES: dict[str, Any] = {
    "chat": lambda content: {"choices": [{"message": content, "finish_reason": "stop"}]},
    "completions": lambda content: {"choices": [{**content, "finish_reason": "stop"}]},
    "messages": lambda content: {**content, "stop_reason": "end_turn"},
    "responses": lambda content: {"status": "completed", **content},
}
KEYS = {"chat": "content", "completions": "text", "messages": "content", "responses": "output"}
NO_TEXTS = [
    ...,
    None,
    "",
    " ",
    [],
    [None],
    [{}],
    [{"type": "text"}],
    [{"type": "text", "text": None}],
    [{"type": "text", "text": ""}],
    [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}],
    [{"type": "reasoning", "summary": [], "content": None}],
    [{"type": "thinking", "thinking": "Yes?"}],
    [{"type": "message"}],
    [{"type": "message", "content": None}],
    [{"type": "message", "content": ""}],
    [{"type": "message", "content": [{"type": "output_text", "text": None}]}],
    {},
    7,
    True,
]
"""What stands where the text should: ... is a key that is not there."""


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("content", NO_TEXTS, ids=str)
def test_a_text_that_is_in_no_form_there_is_a_missing_answer(name: str, counts: bool, content: object) -> None:
    """One status, no second request and no error, with usage and without: only the answer is missing."""
    key = KEYS[name]
    if name == "responses" and content is ...:
        content = None  # an object without any output is no response at all
    payload = TEXT_PLACES[name]({} if content is ... else {key: content})
    payload |= {"usage": dict.fromkeys((*NAMES[name], "total"), 12)} if counts else {}
    reply = read(name, payload)
    assert isinstance(reply, Reply)
    assert ("invalid", "the reply holds no text") == (status_of(reply), reply.note)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat", [{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}]),
        ("completions", [{"text": "positive"}]),
        ("messages", "positive"),
        ("responses", [{"type": "message", "content": "positive"}]),
    ],
)
def test_a_text_that_is_there_in_another_protocols_form_is_read(name: str, content: object) -> None:
    """It was paid for."""
    reply = read(name, TEXT_PLACES[name]({KEYS[name]: content}))
    assert isinstance(reply, Reply)
    assert ("positive", "ok") == (reply.text, status_of(reply))


@pytest.mark.parametrize("said", ["made_up", None, 7, "tool_calls", "stop", "null", "", [], {}])
@pytest.mark.parametrize("text", [None, "", " "])
@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
def test_nothing_is_never_ok(name: str, said: object, text: str | None) -> None:
    """Whatever the finish reason is."""
    assert "invalid" == status_of(read(name, reply_body(name, text, said)))


@pytest.mark.parametrize("said", [None, 7, "", [], {}])
@pytest.mark.parametrize("name", ["chat", "completions", "messages"])
def test_a_text_without_a_finish_reason_is_marked(name: str, said: object) -> None:
    """It may be whole, and it may not: the row is ok, and its message says what to see to."""
    reply = read(name, reply_body(name, "positive", said))
    assert isinstance(reply, Reply)
    assert ("other", "ok") == (reply.finish_reason, status_of(reply))
    assert "no finish reason came: see whether the answer is whole" == reply.note


def test_a_tool_call_is_an_answer() -> None:
    """It needs no text."""
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    message = {"content": None, "tool_calls": [call]}
    reply = read("chat", {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": COUNTS})
    assert "ok" == status_of(reply)


# usage

GIBBERISH = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=10**12),
    st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda number: not (number.is_integer() and 0 <= number < 10**12)
    ),
    st.booleans(),
    st.text(max_size=5),
    st.just(["12"]),
    st.just({"count": 12}),
)
NAMES = {
    "chat": ("prompt_tokens", "completion_tokens"),
    "completions": ("prompt_tokens", "completion_tokens"),
    "responses": ("input_tokens", "output_tokens"),
    "messages": ("input_tokens", "output_tokens"),
}


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(PROTOCOLS)), GIBBERISH, st.integers(0, 1))
def test_one_count_that_cannot_be_true_makes_the_usage_unknown(name: str, wrong: Any, place: int) -> None:
    """Negative, fractional, text, yes or no, huge: no other number takes its place."""
    counts: dict[str, Any] = dict.fromkeys(NAMES[name], 12)
    counts[NAMES[name][place]] = wrong
    reply = read(name, reply_body(name, "positive", "stop", counts))
    assert isinstance(reply, Reply)
    assert reply.usage is None


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        (name, {**dict.fromkeys(names, 0), **more})
        for name, names in NAMES.items()
        for more in ({}, {"total_tokens": 0})
    ]
    + [
        ("chat", {"prompt_tokens": 12, "completion_tokens": 0, "total_tokens": 12}),
        ("chat", {**COUNTS, "total_tokens": 15}),
        ("chat", {**COUNTS, "total_tokens": 0}),
        ("chat", {**COUNTS, "total_tokens": "16"}),
        ("chat", {**COUNTS, "prompt_tokens_details": {"cached_tokens": 13}}),
        ("chat", {**COUNTS, "prompt_tokens_details": {"cached_tokens": -1}}),
        ("chat", {**COUNTS, "completion_tokens_details": {"reasoning_tokens": 5}}),
        ("responses", {"input_tokens": 12, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 5}}),
        ("messages", {"input_tokens": 12, "output_tokens": 4, "cache_read_input_tokens": -1}),
        ("messages", {"input_tokens": 12, "output_tokens": 4, "total_tokens": 15}),
        ("messages", {"input_tokens": None, "output_tokens": 4, "cache_read_input_tokens": 8}),
    ],
)
def test_usage_that_contradicts_itself_or_the_text_is_unknown(name: str, usage: dict[str, Any]) -> None:
    """No tokens for a text that is there, a total below its parts, a part above its whole."""
    reply = read(name, reply_body(name, "positive", "stop", usage))
    assert isinstance(reply, Reply)
    assert reply.usage is None


@pytest.mark.parametrize("name", PROTOCOLS)
def test_output_that_is_told_alone_is_kept(name: str) -> None:
    """What was written is known; what was read, and so the cost, is not."""
    _, output = NAMES[name]
    for counts in ({output: 4}, {output: 4, NAMES[name][0]: 0}, {output: 4, NAMES[name][0]: math.nan}):
        reply = read(name, reply_body(name, "positive", "stop", counts))
        assert isinstance(reply, Reply)
        assert Usage(input_tokens=None, output_tokens=4) == reply.usage


BYOK = {"is_byok": True}


@pytest.mark.parametrize(
    ("cost", "stated"),
    [
        ({"cost": 0, **BYOK, "cost_details": {"upstream_inference_cost": 0.0360795}}, "0.0360795"),
        ({"cost": 0.0018, **BYOK, "cost_details": {"upstream_inference_cost": 0.036}}, "0.0378"),
        ({"cost": 0.0018, **BYOK, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"cost": 0.0018, **BYOK, "cost_details": {"upstream_inference_cost": -1}}, None),
        ({"cost": 0.0018, **BYOK, "cost_details": {"upstream_inference_cost": 0}}, None),
        ({"cost": 0.0018, **BYOK}, None),
        ({"cost": 0.0018, **BYOK, "cost_details": []}, None),
        ({"cost": 0.0018, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.0018}}, "0.0018"),
        ({"cost": 0.0018, "cost_details": {"upstream_inference_cost": 19}}, "0.0018"),
        ({"cost": {"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}}, "0.006"),
        ({"cost": {"total_cost": 0}}, None),
        ({"cost": {"input_tokens_cost": 0.001}}, None),
    ],
)
@pytest.mark.parametrize("name", ["chat", "completions"])
def test_the_cost_that_a_reply_states_is_the_whole_cost(
    name: str, cost: dict[str, Any], stated: str | None
) -> None:
    """The fee beside a key of one's own is a part of it (OpenRouter); a list of parts has a sum (Perplexity).

    Where only a part is told, nothing is: the price decides.
    """
    reply = read(name, reply_body(name, "positive", "stop", {**COUNTS, **cost}))
    assert isinstance(reply, Reply)
    assert (stated, USAGE) == (reply.reported_usd, reply.usage)


PAID = {"cost": 0.25}
NO_REPLIES = {
    "broken off": reply_body("chat", "posi", "error", {**COUNTS, **PAID}),
    "broken off, tokens untold": reply_body("chat", "posi", "error", PAID),
    "without choices": {"usage": {**COUNTS, **PAID}},
    "an error": {"error": {"code": 502, "message": "upstream"}, "usage": PAID},
    "half a character": reply_body("chat", "\ud800", "stop", {**COUNTS, **PAID}),
}


@pytest.mark.parametrize("what", NO_REPLIES)
def test_what_is_no_answer_and_states_its_cost_was_billed_that(what: str) -> None:
    """The gateway's own word goes before any price, and an error that cost something is no free refusal."""
    payload = NO_REPLIES[what]
    streamed = stream("chat", events(payload)) if "error" in payload else None
    for result in filter(None, (read("chat", payload), streamed)):
        assert isinstance(result, Failure)
        assert ("done", "0.25") == (result.outcome, result.reported_usd)
        assert Cost(PICO // 4, 50 * PICO, "reply") == Bill(lambda *_: None, Decimal(200)).cost("m", result)


def test_what_is_no_answer_may_state_its_cost_in_a_header() -> None:
    """LiteLLM's; a stream that was cut had that header before its end, so what it says is not believed."""
    headers, said = {"x-litellm-response-cost": "0.25"}, b'{"error": {"code": 502, "message": "upstream"}}'
    billed = check(PROTOCOLS["chat"], Response(200, headers, said), stream=False)
    assert isinstance(billed, Failure) and ("done", "0.25") == (billed.outcome, billed.reported_usd)
    cut = check(PROTOCOLS["chat"], Response(200, headers, events(chat_chunk("half"))), stream=True)
    assert isinstance(cut, Failure) and ("unknown", None) == (cut.outcome, cut.reported_usd)
    refused = check(PROTOCOLS["chat"], Response(500, headers, said), stream=False)
    assert isinstance(refused, Failure) and ("rejected", None) == (refused.outcome, refused.reported_usd)


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("said", ["null", "None"])
def test_a_reason_that_is_the_text_null_is_none(name: str, said: str) -> None:
    """DashScope writes it while a stream goes on: one that ends there was cut."""
    reply = read(name, reply_body(name, "positive", said))
    assert isinstance(reply, Reply)
    assert "other" == reply.finish_reason
    assert "no finish reason came" in (reply.note or "")
    whole = {"choices": [{"index": 0, "text": "half", "finish_reason": said}]}
    piece = chat_chunk("half", said) if name == "chat" else whole
    cut = check(PROTOCOLS[name], Response(200, {}, events(piece)), stream=True)
    assert isinstance(cut, Failure) and "cut before its end" in cut.message


@pytest.mark.parametrize("said", [0, 0.0, "0", -0.5, -3, "free", "", math.nan, True, [], 10**9, "NaN", "-1"])
def test_a_reply_s_own_cost_that_is_no_amount_is_not_stated(said: object) -> None:
    """Gateways say 0 for what they have no price for; below 0 and beyond a million dollars is no cost either."""
    reply = read("chat", reply_body("chat", "positive", "stop", {**COUNTS, "cost": said}))
    assert isinstance(reply, Reply)
    assert (None, USAGE) == (reply.reported_usd, reply.usage)


# streams


def events(*payloads: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(payload) + b"\n\n" for payload in payloads)


def chat_chunk(text: str | None, said: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": said}], **more}


def text_chunk(text: str, said: str | None = None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": said}]}


MESSAGE = [
    {"type": "message_start", "message": {"id": "c", "model": "m", "usage": {"input_tokens": 12}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "posi"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "tive"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
]
ITEM = {"type": "message", "content": [{"type": "output_text", "text": "positive"}]}
ENDINGS: dict[str, list[dict[str, Any]]] = {
    "chat": [chat_chunk("posi"), chat_chunk("tive"), chat_chunk(None, "stop")],
    "completions": [text_chunk("posi"), text_chunk("tive"), text_chunk("", "stop")],
    "messages": MESSAGE,
    "responses": [
        {"type": "response.created", "response": {"id": "c", "model": "m"}},
        {"type": "response.output_item.done", "output_index": 0, "item": ITEM},
        {"type": "response.completed"},
    ],
}
"""Streams whose last event tells the finish reason: no [DONE], no usage, no event that only marks the end."""


def stream(name: str, body: bytes) -> Reply | Failure:
    """What a whole 200 with this stream means."""
    response = Response(200, {"content-type": "text/event-stream"}, body)
    return check(PROTOCOLS[name], response, stream=True)  # type: ignore[index]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_finish_reason_and_an_orderly_end_of_the_body_end_a_stream(name: str) -> None:
    """Servers leave [DONE] and usage out: the answer is whole, paid for once, its cost unknown."""
    reply = stream(name, events(*ENDINGS[name]))
    assert isinstance(reply, Reply)
    assert ("positive", "stop", None) == (reply.text, reply.finish_reason, reply.usage)


@pytest.mark.parametrize("name", ENDINGS)
def test_without_a_finish_reason_a_stream_was_cut(name: str) -> None:
    """An orderly end of the body alone proves nothing: proxies end the bodies of servers that died in order."""
    failure = stream(name, events(*ENDINGS[name][:-1]))
    assert isinstance(failure, Failure)
    assert ("unknown", "retry") == (failure.outcome, failure.action)


KEPT_ALIVE = [
    b": ping\n\n",
    b"data: : ping\n\n",
    b"data: ping\n\n",
    b"data: {}\n\n",
    b"data:\n\n",
    b"data: \n\n",
    b"data: null\n\n",
    b'data: "ping"\n\n',
    b"data: 1\n\n",
    b"data: []\n\n",
    b"event: ping\n\n",
    b"event: ping\ndata: {}\n\n",
    b'event: ping\ndata: {"type": "ping"}\n\n',
    b"event: keepalive\ndata: \n\n",
    b"event: keepalive\ndata: alive\n\n",
    b"data: [PING]\n\n",
    b"data: [KEEP-ALIVE]\r\n\r\n",
    b"data: [1]\n\n",
    b'data: {"type": "ping"}\n\n',
    b'data: {"type": "ping"}\ndata: {"type": "ping"}\n\n',
    b"data: true\r\n\r\n",
    b"data: : OPENROUTER PROCESSING\n",
    b"data: keep-alive\ndata: : ping\n\n",
    b"retry: 3000\n\n",
    b"\n\n\n",
]


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("ping", KEPT_ALIVE)
def test_what_keeps_a_connection_alive_changes_no_answer(name: str, ping: bytes) -> None:
    """Before, between and after the events, as a comment, as an event, or wrapped as data by a proxy."""
    pieces = [events(event) for event in ENDINGS[name]]
    assert stream(name, b"".join(pieces)) == stream(name, ping + ping.join(pieces) + ping)


def test_a_piece_of_an_answer_that_is_no_json_is_no_ping() -> None:
    """An object that was cut is missing, even where the stream goes on to its end."""
    body = events(chat_chunk("posi")) + b'data: {"choices": [{"delta"\n\n' + events(chat_chunk(None, "stop"))
    assert isinstance(stream("chat", body), Failure)


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("mark", [b"", b"data: [DONE]\n\n"])
@pytest.mark.parametrize(
    "data", [b"out of memory", b'"out of memory"', b'{"message": "out of memory"}', b'{"detail": "out of memory"}']
)
def test_an_error_event_is_an_error_in_whatever_words(name: str, mark: bytes, data: bytes) -> None:
    """Not every server writes its protocol's JSON when it fails; what came before is half an answer."""
    body = events(*ENDINGS[name][:2]) + b"event: error\ndata: " + data + b"\n\n" + mark
    failure = stream(name, body)
    assert isinstance(failure, Failure)
    assert "unknown" == failure.outcome
    assert "out of memory" in failure.message or b"detail" in data


def test_a_last_chunk_of_zeros_hides_no_real_counts() -> None:
    """0/0 told last is not what the request took."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    body = events(chat_chunk("positive", "stop", usage=COUNTS), {"choices": [], "usage": zeros})
    reply = stream("chat", body + b"data: [DONE]\n\n")
    assert isinstance(reply, Reply)
    assert USAGE == reply.usage


def test_zeros_of_a_message_delta_hide_no_real_counts() -> None:
    """message_delta is cumulative, count by count."""
    last = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"input_tokens": 0, "output_tokens": 4},
    }
    reply = stream("messages", events(*MESSAGE[:-1], last))
    assert isinstance(reply, Reply)
    assert USAGE == reply.usage


def test_a_messages_stream_without_message_start_keeps_the_output_that_it_told() -> None:
    """The input was told nowhere: the cost is unknown, and the output is known."""
    last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
    reply = stream("messages", events(*MESSAGE[1:-1], last, {"type": "message_stop"}))
    assert isinstance(reply, Reply)
    assert ("positive", Usage(input_tokens=None, output_tokens=4)) == (reply.text, reply.usage)


# replies of other forms


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_reply_in_a_list_of_one_is_that_reply(name: str) -> None:
    """It was billed: sending it again would be paid twice."""
    body = reply_body(name, "positive", "stop")
    assert read(name, body) == read(name, [body])


def test_an_error_in_a_list_of_one_is_that_error() -> None:
    """Gemini writes errors so."""
    error = {"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}
    failure = read("chat", [error])
    assert isinstance(failure, Failure)
    assert ("rejected", "rate_limited") == (failure.outcome, failure.kind)


@pytest.mark.parametrize(
    "message",
    [
        "litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - refused",
        "Error code: 400 - {'error': {'code': 'content_filter', 'message': 'no'}}",
        'upstream said {"error": {"code": "ResponsibleAIPolicyViolation"}}',
    ],
)
def test_a_content_filter_that_only_the_words_of_a_400_tell_of(message: str) -> None:
    """A gateway that wraps its upstream's error leaves the name of it in the text."""
    body = orjson.dumps({"error": {"message": message, "type": None, "code": "400"}})
    failure = check(PROTOCOLS["chat"], Response(400, {}, body), stream=False)
    assert isinstance(failure, Failure)
    assert "content_filter" == failure.kind


def phased(*messages: tuple[str | None, str]) -> dict[str, Any]:
    items = [
        {
            "type": "message",
            "content": [{"type": "output_text", "text": text}],
            **({"phase": phase} if phase else {}),
        }
        for phase, text in messages
    ]
    return {"status": "completed", "output": items, "usage": {"input_tokens": 12, "output_tokens": 4}}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([("commentary", "Let me look."), ("final_answer", "positive")], "positive"),
        ([("final_answer", "posi"), ("final_answer", "tive")], "positive"),
        ([("commentary", "Let me look."), (None, "positive")], "positive"),
        ([(None, "So: "), (None, "positive")], "So: positive"),
        ([("commentary", "Let me look.")], None),
    ],
)
def test_only_the_final_answer_of_a_response_is_its_text(
    messages: list[tuple[str | None, str]], text: str | None
) -> None:
    """What the model says on the way is nobody's label."""
    reply = read("responses", {**phased(*messages), "output_text": "Let me look.positive"})
    assert isinstance(reply, Reply)
    assert text == reply.text


# docs/answers.md

MEANINGS: dict[FinishMeaning, str] = {
    "stop": "the model ended its answer",
    "length": "the answer is cut: a limit, or a turn that is not over",
    "tool_calls": "the model calls tools",
    "content_filter": "a filter or the model refused",
    "cut": "the provider broke off: an error of kind `server`, sent again",
    "malformed": "the model wrote what its provider could not read: an error of kind `bad_reply`, not sent again",
}


def answers_page() -> str:
    """The page of what counts as an answer, its table made from the code. This module, run, writes it."""
    head, rest = PAGE.read_text().split("<!-- finish reasons -->\n")[0:2]
    tail = rest.split("<!-- end -->\n")[1]
    lines = ["| word | said by | finish_reason | status | meaning |", "|---|---|---|---|---|"]
    for line in FINISH_WORDS:
        reason = REASON_OF_MEANING[line.meaning]
        status = "error" if line.meaning in ("cut", "malformed") else STATUS_OF_FINISH[reason]
        shown = "-" if status == "error" else f"`{reason}`"
        lines.append(f"| `{line.word}` | {line.said_by} | {shown} | `{status}` | {MEANINGS[line.meaning]} |")
    marked = ["<!-- finish reasons -->", *lines, "<!-- end -->", ""]
    return head + "\n".join(marked) + tail


def test_the_page_of_answers_is_made_from_the_table() -> None:
    """docs/answers.md says what the code does: write it again with `python tests/test_answers.py`."""
    assert answers_page() == PAGE.read_text()


if __name__ == "__main__":
    PAGE.write_text(answers_page())


NATIVE = ("native_finish_reason", "provider_specific_fields")


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("place", NATIVE)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("said", "native", "expected"),
    [
        ("stop", "insufficient_system_resource", "server"),
        ("stop", "MALFORMED_FUNCTION_CALL", "bad_reply"),
        ("stop", "SAFETY", "content_filter"),
        ("stop", "MAX_TOKENS", "length"),
        ("odd", "abort", "server"),
        (None, "max_tokens", "length"),
        ("stop", "end_turn", "stop"),
        ("stop", "odd", "stop"),
        ("length", "STOP", "length"),
        ("content_filter", "length", "content_filter"),
    ],
)
def test_a_gateway_that_calls_a_bad_end_a_stop_is_not_believed(
    name: str, place: str, streamed: bool, said: str | None, native: str, expected: str
) -> None:
    """The provider's own word beside the gateway's counts, where that says that all is well and it does not."""
    beside = {"native_finish_reason": native}
    told = beside if place == "native_finish_reason" else {place: beside}
    if streamed:
        last = ENDINGS[name][-1]
        choice = {**last["choices"][0], "finish_reason": said, **told}
        found = stream(name, events(*ENDINGS[name][:-1], {**last, "choices": [choice]}) + b"data: [DONE]\n\n")
    else:
        body = reply_body(name, "positive", said)
        body["choices"][0] |= told
        found = read(name, body)
    assert expected == (found.kind if isinstance(found, Failure) else found.finish_reason)
