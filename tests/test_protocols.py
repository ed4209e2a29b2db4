"""Laws of the protocols: requests, replies and streams, held against golden files and the vendors' own types."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import anthropic.types
import openai.types
import openai.types.chat
import openai.types.responses
import orjson
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming as ChatRequest,
)
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsStreaming as ChatStreamRequest,
)
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextRequest
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextStreamRequest
from openai.types.responses.response_create_params import (
    ResponseCreateParamsNonStreaming,
    ResponseCreateParamsStreaming,
)
from pydantic import TypeAdapter

from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.gateway.protocols.charges import cost_text
from crun_batch.gateway.protocols.sse import read_stream
from crun_batch.records import Failure, Reply, Usage

GOLDEN = Path(__file__).parent / "golden"
USAGE = Usage(input_tokens=100, cached_input_tokens=64, output_tokens=30, reasoning_tokens=20)
USAGE_WITH_WRITES = Usage(
    input_tokens=100, cached_input_tokens=64, cache_write_tokens=10, output_tokens=30, reasoning_tokens=20
)
SMALL = Usage(input_tokens=5, output_tokens=7)


class TextChunk(openai.types.Completion):
    """OpenAI's one type serves whole replies and chunks, which have no finish reason until the last."""

    choices: list[Any]


REQUEST_TYPES: dict[tuple[str, bool], Any] = {
    ("chat", False): ChatRequest,
    ("chat", True): ChatStreamRequest,
    ("responses", False): ResponseCreateParamsNonStreaming,
    ("responses", True): ResponseCreateParamsStreaming,
    ("messages", False): MessageCreateParamsNonStreaming,
    ("messages", True): MessageCreateParamsStreaming,
    ("completions", False): TextRequest,
    ("completions", True): TextStreamRequest,
}
REPLY_TYPES: dict[str, Any] = {
    "chat": openai.types.chat.ChatCompletion,
    "responses": openai.types.responses.Response,
    "messages": anthropic.types.Message,
    "completions": openai.types.Completion,
}
EVENT_TYPES: dict[str, Any] = {
    "chat": openai.types.chat.ChatCompletionChunk,
    "responses": openai.types.responses.ResponseStreamEvent,
    "messages": anthropic.types.RawMessageStreamEvent,
    "completions": TextChunk,
}


@cache
def type_of_request(name: str, stream: bool) -> TypeAdapter[Any]:
    return TypeAdapter(REQUEST_TYPES[name, stream])


def request_cases() -> list[Any]:
    return [
        pytest.param(name, case, id=f"{name}: {case['case']}")
        for name in PROTOCOLS
        for case in json.loads((GOLDEN / "requests" / f"{name}.json").read_text())
    ]


def body_of(name: str, case: dict[str, Any]) -> bytes:
    return PROTOCOLS[name].body(  # type: ignore[index]
        "m",
        tuple(case["messages"]),
        case.get("params", {}),
        case.get("max_output_tokens"),
        case.get("stream", False),
        case.get("output_schema"),
    )


def golden_reply(file: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "replies" / f"{file}.json").read_text())


def golden_stream(file: str) -> bytes:
    return (GOLDEN / "streams" / f"{file}.sse").read_bytes()


def protocol_of(file: str) -> Any:
    return PROTOCOLS[file.split("_")[0]]  # type: ignore[index]


# requests


@pytest.mark.parametrize(("name", "case"), request_cases())
def test_a_request_is_its_golden_body_key_by_key(name: str, case: dict[str, Any]) -> None:
    """The bytes are the golden ones, order of keys included: a request's hash must not move between versions."""
    assert orjson.dumps(case["body"]) == body_of(name, case)


@pytest.mark.parametrize(("name", "case"), request_cases())
def test_a_request_has_the_shape_that_the_vendor_documents(name: str, case: dict[str, Any]) -> None:
    """Every golden request passes the vendor's own request type."""
    body = json.loads(body_of(name, case))
    adapter = type_of_request(name, body.get("stream", False))
    validated = adapter.validate_python(body)
    json.dumps(adapter.dump_python(validated, warnings=False), default=list)  # what is iterable is validated then


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_order_of_params_is_no_part_of_a_request(name: str) -> None:
    """Two jobs that list the same params in another order send the same bytes."""
    messages = [{"role": "user", "content": "Hi"}]
    one = PROTOCOLS[name].body("m", messages, {"a": 1, "b": 2}, 5, False)  # type: ignore[index]
    other = PROTOCOLS[name].body("m", messages, {"b": 2, "a": 1}, 5, False)  # type: ignore[index]
    assert one == other


@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_output_limit_is_sent_once_under_the_first_name(name: str) -> None:
    """max_output_tokens takes the protocol's name; a limit among the params takes its place, whatever its name."""
    protocol = PROTOCOLS[name]  # type: ignore[index]
    messages = [{"role": "user", "content": "Hi"}]
    assert 9 == json.loads(protocol.body("m", messages, {}, 9, False))[protocol.output_limit_names[0]]
    for given_name in protocol.output_limit_names:
        sent = json.loads(protocol.body("m", messages, {given_name: 3}, 9, False))
        assert {given_name: 3} == {key: sent[key] for key in protocol.output_limit_names if key in sent}


def test_completions_refuse_what_is_no_text_in_a_sentence() -> None:
    """An image cannot be asked about on /completions: the row fails before anything is sent."""
    messages = [{"role": "user", "content": [{"type": "image", "url": "https://example.org/a.png"}]}]
    with pytest.raises(ValueError, match="use protocol chat, responses or messages"):
        PROTOCOLS["completions"].body("m", messages, {}, 5, False)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image", "url": "data:image/png;base64"}, "no comma"),
        ({"type": "file", "url": "data:text/plain;base64,!!"}, "no UTF-8 text"),
    ],
)
def test_a_broken_data_url_fails_its_row_in_a_sentence(part: dict[str, str], words: str) -> None:
    """What cannot be split into media type and data is refused before it is sent."""
    with pytest.raises(ValueError, match=words):
        PROTOCOLS["messages"].body("m", [{"role": "user", "content": [part]}], {}, 5, False)


def test_a_lone_surrogate_in_a_prompt_is_sent_as_json_may_write_it() -> None:
    """JSON can say half a surrogate pair in ASCII; the gateway judges it, the run goes on."""
    body = PROTOCOLS["chat"].body("m", [{"role": "user", "content": "\ud800"}], {}, None, False)
    assert b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}' == body


# replies

POSITIVE = Reply("positive", "stop", USAGE, None, "gpt-5.4", "chatcmpl-1")
REPLIES = {
    "chat": replace(POSITIVE, usage=replace(USAGE, service_tier="default")),
    "chat_tools": Reply(
        None,
        "tool_calls",
        SMALL,
        '[{"id":"call_1","name":"weather","arguments":"{\\"city\\":\\"Bonn\\"}"},'
        '{"id":"call_2","name":"shell","arguments":"ls"}]',
        "gpt-5.4",
        "chatcmpl-2",
    ),
    "chat_refusal": Reply("I cannot.", "content_filter", SMALL, None, "gpt-5.4", "chatcmpl-3"),
    "responses": Reply("positive", "stop", USAGE_WITH_WRITES, None, "gpt-5.4", "resp_1"),
    "responses_incomplete": Reply("posi", "length", Usage(100, 0, 0, 16, 0), None, "gpt-5.4", "resp_2"),
    "responses_tools": Reply(
        None,
        "tool_calls",
        SMALL,
        '[{"id":"call_1","name":"weather","arguments":"{\\"city\\":\\"Bonn\\"}"}]',
        "gpt-5.4",
        "resp_3",
    ),
    "messages": Reply("positive", "stop", USAGE_WITH_WRITES, None, "claude-sonnet-4-5", "msg_1"),
    "messages_tools": Reply(
        "Looking.",
        "tool_calls",
        SMALL,
        '[{"id":"toolu_1","name":"weather","arguments":"{\\"city\\":\\"Bonn\\"}"}]',
        "claude-sonnet-4-5",
        "msg_2",
    ),
    "messages_answer_tool": Reply('{"label":"positive"}', "stop", SMALL, None, "claude-sonnet-4-5", "msg_3"),
    "completions": Reply(" positive", "length", SMALL, None, "gpt-3.5-turbo-instruct", "cmpl-1"),
}


@pytest.mark.parametrize("file", [path.stem for path in sorted((GOLDEN / "replies").iterdir())])
def test_a_golden_reply_has_the_shape_that_the_vendor_documents(file: str) -> None:
    """The replies that the tests read are replies as the vendor's own types know them."""
    TypeAdapter(REPLY_TYPES[protocol_of(file).name]).validate_python(golden_reply(file))


@pytest.mark.parametrize("file", REPLIES)
def test_a_golden_reply_reads_as(file: str) -> None:
    """The same fields with the same meaning, whatever the protocol."""
    assert REPLIES[file] == protocol_of(file).read(golden_reply(file))


def chat_with(**changes: Any) -> Reply | Failure:
    payload = {"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}], **changes}
    return PROTOCOLS["chat"].read(payload)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ({"prompt_tokens": 5}, None),
        ({"prompt_tokens": -5, "completion_tokens": 7}, None),
        ({"prompt_tokens": 5.0, "completion_tokens": 7}, SMALL),
        ({"prompt_tokens": 5.5, "completion_tokens": 7}, None),
        ({"prompt_tokens": True, "completion_tokens": 7}, None),
        ({"prompt_tokens": 10**15, "completion_tokens": 7}, None),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": None}, SMALL),
        ({"input_tokens": 5, "output_tokens": 7}, SMALL),
        (
            {"prompt_tokens": 5, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 9}},
            None,
        ),
        ({"prompt_tokens": 5, "completion_tokens": 7, "prompt_cache_hit_tokens": 3}, Usage(5, 3, 0, 7)),
    ],
)
def test_usage_is_believed_only_where_it_can_be_true(usage: object, expected: Usage | None) -> None:
    """Missing, negative, fractional or absurd counts and contradictions are unknown, never 0, never mended."""
    reply = chat_with(usage=usage)
    assert isinstance(reply, Reply)
    assert expected == reply.usage


def test_reasoning_that_a_gateway_leaves_out_of_the_output_is_added() -> None:
    """xAI's own example: 32 + 9 + 94 = 135; the 94 are billed as output."""
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
    }
    reply = chat_with(usage=usage)
    assert isinstance(reply, Reply)
    assert Usage(32, 0, 0, 103, 94) == reply.usage


def test_cached_tokens_that_a_gateway_leaves_out_of_the_input_are_added() -> None:
    """A gateway that translates from Anthropic: the total tells that its input leaves the cached ones out."""
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 1015,
        "prompt_tokens_details": {"cached_tokens": 1000},
    }
    reply = chat_with(usage=usage)
    assert isinstance(reply, Reply)
    assert Usage(1010, 1000, 0, 5) == reply.usage


count = st.one_of(st.none(), st.integers(-5, 2000), st.just(2**70), st.floats(), st.text(max_size=3))
counts = st.dictionaries(
    st.sampled_from(
        [
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
            "prompt_cache_hit_tokens",
        ]
    ),
    count,
)
details = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens", "thinking_tokens"]), count
    ),
)


@settings(deadline=None, max_examples=300)
@given(counts, details, details, st.sampled_from(sorted(PROTOCOLS)))
def test_the_parts_of_usage_never_exceed_their_whole(
    numbers: dict[str, Any], of_input: Any, of_output: Any, name: str
) -> None:
    """0 <= cached + written <= input and 0 <= reasoning <= output, whatever a gateway reports."""
    usage = {
        **numbers,
        "prompt_tokens_details": of_input,
        "input_tokens_details": of_input,
        "completion_tokens_details": of_output,
        "output_tokens_details": of_output,
    }
    read = PROTOCOLS[name].usage({"usage": usage})  # type: ignore[index]
    if read is not None:
        whole = read.input_tokens or 0
        assert read.input_tokens is None or whole > 0
        assert 0 <= read.cached_input_tokens + read.cache_write_tokens <= whole
        assert 0 <= read.reasoning_tokens <= read.output_tokens


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (0.000123, "0.000123"),
        (1.2e-05, "0.000012"),
        (0, "0"),
        (3, "3"),
        ("0.25", "0.25"),
        (-0.0, "0.0"),
        (-1, None),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        ("1e999999", None),
        ("free", None),
        (None, None),
    ],
)
def test_a_reported_cost_is_plain_decimal_text(said: object, expected: str | None) -> None:
    """Floats keep their shortest form; what is no amount of money is unknown."""
    assert expected == cost_text(said)


def test_the_reply_s_own_cost_is_read() -> None:
    """OpenRouter's usage.cost, in dollars."""
    reply = chat_with(usage={"prompt_tokens": 5, "completion_tokens": 7, "cost": 0.00014})
    assert isinstance(reply, Reply)
    assert "0.00014" == reply.reported_usd


@pytest.mark.parametrize(
    ("said", "expected"),
    [("end_turn", "stop"), ("max_tokens", "length"), ("refusal", "content_filter"), ("pause_turn", "length")],
)
def test_anthropic_s_stop_reasons_have_our_words(said: str, expected: str) -> None:
    """One meaning for all protocols; a paused turn is not over, so its answer is cut."""
    reply = PROTOCOLS["messages"].read({"content": [{"type": "text", "text": "x"}], "stop_reason": said})
    assert isinstance(reply, Reply)
    assert expected == reply.finish_reason


def test_texts_of_several_parts_are_joined_and_reasoning_stays_out() -> None:
    """Some servers send chat content as a list of parts."""
    message = {
        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "reasoning_content": "hm",
    }
    reply = PROTOCOLS["chat"].read({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert isinstance(reply, Reply)
    assert "ab" == reply.text


@pytest.mark.parametrize("status", ["cancelled", "queued", "in_progress"])
def test_a_response_that_is_not_finished_is_no_answer_and_not_sent_again(status: str) -> None:
    """Background responses were taken: a retry would pay twice."""
    failure = PROTOCOLS["responses"].read({"status": status, "output": []})
    assert isinstance(failure, Failure)
    assert ("unknown", "bad_reply", "fail_row") == (failure.outcome, failure.kind, failure.action)


# streams

STREAMS = {
    "chat_openai": POSITIVE,
    "chat_crun": POSITIVE,
    "chat_tools": Reply(
        None,
        "tool_calls",
        SMALL,
        '[{"id":"call_1","name":"weather","arguments":"{\\"city\\":\\"Bonn\\"}"},'
        '{"id":"call_2","name":"time","arguments":"{}"}]',
        "gpt-5.4",
        "chatcmpl-2",
    ),
    "completions": REPLIES["completions"],
    "responses": REPLIES["responses"],
    "messages": REPLIES["messages"],
    "messages_tools": REPLIES["messages_tools"],
}


@pytest.mark.parametrize("file", STREAMS)
def test_the_events_of_a_golden_stream_have_the_vendor_s_shape(file: str) -> None:
    """The streams that the tests assemble consist of events as the vendor's own types know them."""
    adapter = TypeAdapter(EVENT_TYPES[protocol_of(file).name])
    events = read_stream(golden_stream(file)).events
    for event in events:
        if event != {"type": "ping"}:
            adapter.validate_python(event)
    assert events


@pytest.mark.parametrize("file", STREAMS)
def test_a_stream_assembles_into_the_unstreamed_reply(file: str) -> None:
    """What is put together has the vendor's unstreamed shape and reads as the unstreamed reply does."""
    protocol = protocol_of(file)
    assembled = protocol.assemble(golden_stream(file))
    assert assembled.complete
    assert STREAMS[file] == protocol.read(assembled.payload)
    TypeAdapter(REPLY_TYPES[protocol.name]).validate_python(assembled.payload)


@pytest.mark.parametrize("file", STREAMS)
def test_a_cut_stream_is_complete_only_when_nothing_is_missing(file: str) -> None:
    """Cut at any byte: it says incomplete, or the reply is the whole one, its usage unknown where that is cut.

    `test_stream_ends` says byte by byte which of both it is.
    """
    protocol, stream = protocol_of(file), golden_stream(file)
    whole = protocol.read(protocol.assemble(stream).payload)
    for end in [*range(0, len(stream), 11), *range(len(stream) - 80, len(stream))]:
        assembled = protocol.assemble(stream[:end])
        if assembled.complete:
            found = protocol.read(assembled.payload)
            assert found.usage in (None, whole.usage)
            assert whole == structs.replace(found, usage=whole.usage)
    assert not protocol.assemble(stream[: len(stream) // 2]).complete


@pytest.mark.parametrize("file", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark_change_nothing(file: str, line_end: bytes, mark: bytes) -> None:
    """LF, CRLF and CR are line ends; a byte order mark may come first; the last blank line may be missing."""
    protocol, stream = protocol_of(file), golden_stream(file)
    changed = mark + stream.replace(b"\n", line_end).rstrip(b"\r\n")
    assert protocol.assemble(stream) == protocol.assemble(changed)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(sorted(STREAMS)))
def test_noise_that_the_sse_rules_allow_changes_nothing(data: st.DataObject, file: str) -> None:
    """Comments, ids, retries, blank lines, mixed line ends, data split into lines where JSON allows a newline."""
    protocol, stream = protocol_of(file), golden_stream(file)
    line_end = st.sampled_from([b"\n", b"\r\n"])  # a CR before an LF would be one line end
    noise = st.sampled_from([b"", b": ping", b":", b"id: 7", b"retry: 10", b"unknown: x", b"nothing"])
    out = b""
    for line in stream.split(b"\n"):
        extra = data.draw(noise)
        out += extra + data.draw(line_end) if extra else b""
        if line.startswith(b"data: {") and data.draw(st.booleans()):
            out += b"data: {" + data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])) + b"data:" + line[7:]
        else:
            out += line
        out += data.draw(line_end)
    assert protocol.assemble(stream) == protocol.assemble(out)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.data())
def test_a_text_survives_any_split_into_chunks(text: str, data: st.DataObject) -> None:
    """A text streamed in any pieces is the text, on chat and on messages."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chat = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        for piece in pieces
    ]
    events = [*deltas, {"type": "message_stop"}]
    messages = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)
    for name, stream in (("chat", chat), ("messages", messages)):
        assembled = PROTOCOLS[name].assemble(stream)  # type: ignore[index]
        reply = PROTOCOLS[name].read(assembled.payload or {})  # type: ignore[index]
        assert isinstance(reply, Reply)
        assert (True, text) == (assembled.complete, reply.text)


def test_a_final_response_without_output_takes_the_finished_items() -> None:
    """Gateways that translate leave the last event's output empty, although the items had come."""
    stream = golden_stream("responses")
    head, _, last = stream.rpartition(b"event: response.completed")
    event = json.loads(last.partition(b"data: ")[2])
    event["response"]["output"] = []
    assembled = PROTOCOLS["responses"].assemble(head + b"data: " + orjson.dumps(event) + b"\n\n")
    assert REPLIES["responses"] == PROTOCOLS["responses"].read(assembled.payload or {})


def test_a_damaged_event_makes_a_stream_incomplete() -> None:
    """A piece that is no JSON is a piece that is missing, even when [DONE] follows."""
    stream = golden_stream("chat_openai").replace(b'"content":"tive"}', b'"content":"tive}')
    assert not PROTOCOLS["chat"].assemble(stream).complete


def test_tool_input_that_a_limit_cut_is_kept_as_it_came() -> None:
    """max_tokens may end a tool's input in the middle: the text stays, the finish reason says why."""
    stream = (
        golden_stream("messages_tools").replace(b'\\"Bonn\\"}', b"").replace(b'"tool_use",', b'"max_tokens",', 2)
    )
    stream = stream.replace(b'"type":"max_tokens"', b'"type":"tool_use"')
    reply = PROTOCOLS["messages"].read(PROTOCOLS["messages"].assemble(stream).payload or {})
    assert isinstance(reply, Reply)
    assert ('[{"id":"toolu_1","name":"weather","arguments":"{\\"city\\": "}]', "length") == (
        reply.tool_calls,
        reply.finish_reason,
    )


def test_a_messages_stream_in_which_no_message_ever_began_is_no_reply():
    """A server that wraps its pieces into other events answers nothing that may pass for an empty text."""
    event = b'data: {"type":"message_delta","delta":{"type":"content_block_delta","delta":{"text":"I"}}}\n\n'
    assembled = PROTOCOLS["messages"].assemble(event * 3 + b"data: [DONE]\n\n")
    assert (None, False) == (assembled.payload, assembled.complete)
