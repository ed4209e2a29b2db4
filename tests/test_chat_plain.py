"""The short way to read a chat reply says what the long way says, or nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulator_kit import BODIES, CHAT, gateway, send

from crun_batch.gateway.protocols.chat import PROTOCOL, read
from crun_batch.gateway.protocols.chat_plain import read_plain
from crun_batch.records import Usage

ODD = st.sampled_from([None, 0, 1, -1, 3.0, 10**13, "", "x", True, [], {}, [{}], {"cached_tokens": 3}])
COUNTS = st.one_of(st.integers(0, 300), ODD)
DETAILS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("cached_tokens", "cache_write_tokens", "reasoning_tokens"), COUNTS)
        | dict.fromkeys(
            ("audio_tokens", "image_tokens", "web_search_requests", "cache_creation_token_details", "audio"), ODD
        ),
    ),
    ODD,
)
BILLED_BESIDE = (
    *("cost_in_usd_ticks", "speed", "inference_geo", "cache_creation", "server_tool_use", "iterations"),
    *("prompt_audio_seconds", "num_sources_used", "num_server_side_tools_used"),
)
USAGES = st.one_of(
    st.fixed_dictionaries(
        {"prompt_tokens": COUNTS, "completion_tokens": COUNTS},
        optional={
            "total_tokens": st.one_of(COUNTS, st.just(10**6)),
            "prompt_tokens_details": DETAILS,
            "completion_tokens_details": DETAILS,
            "input_tokens_details": DETAILS,
            "output_tokens_details": DETAILS,
            "prompt_cache_hit_tokens": COUNTS,
            "cache_read_input_tokens": COUNTS,
            "cache_creation_input_tokens": COUNTS,
            "input_tokens": COUNTS,
            "cached_tokens": COUNTS,
            "cache_write_tokens": COUNTS,
            "reasoning_tokens": COUNTS,
            "cost": st.one_of(st.floats(0, 1), ODD),
            **dict.fromkeys(BILLED_BESIDE, ODD),
        },
    ),
    ODD,
)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"content": st.one_of(st.text(max_size=20), ODD)},
        optional={
            "refusal": ODD,
            "annotations": st.one_of(ODD, st.just([{"type": "url_citation"}])),
            "tool_calls": st.one_of(ODD, st.just([{"id": "a", "function": {"name": "f", "arguments": "{}"}}])),
            "function_call": ODD,
            "role": st.just("assistant"),
        },
    ),
    ODD,
)
REASONS = st.one_of(st.sampled_from(["stop", "length", "error", "refusal", "end_turn", "pause_turn"]), ODD)
CHOICES = st.one_of(
    st.fixed_dictionaries(
        {"message": MESSAGES},
        optional={
            "finish_reason": REASONS,
            "error": ODD,
            "native_finish_reason": REASONS,
            "provider_specific_fields": st.fixed_dictionaries({}, optional={"native_finish_reason": REASONS})
            | ODD,
        },
    ),
    ODD,
)
PAYLOADS = st.fixed_dictionaries(
    {"choices": st.one_of(st.lists(CHOICES, max_size=2), ODD)},
    optional={"usage": USAGES, "id": ODD, "model": ODD, "object": ODD, "code": ODD},
)
PLAIN: dict[str, Any] = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [{"message": {"content": "4", "refusal": None}, "finish_reason": "stop", "logprobs": None}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}


@settings(max_examples=500, deadline=None)
@given(PAYLOADS)
@example(PLAIN)
def test_both_ways_of_reading_agree(payload: dict[str, Any]) -> None:
    """Whatever the short way reads, the long way reads the same."""
    body = orjson.dumps(payload)
    plain = read_plain(body)

    assert plain is None or plain == read(orjson.loads(body))


USUAL = {
    "only counts": ({}, Usage(9, 0, 0, 2, 0)),
    "null details": ({"prompt_tokens_details": None, "completion_tokens_details": None}, Usage(9, 0, 0, 2, 0)),
    "OpenAI": (
        {
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0},
        },
        Usage(9, 4, 0, 2, 1),
    ),
    "writes": (
        {"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}},
        Usage(9, 4, 3, 2, 0),
    ),
    "DeepSeek": ({"prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5}, Usage(9, 4, 0, 2, 0)),
}


@pytest.mark.parametrize("form", USUAL)
def test_the_usual_replies_go_the_short_way(form: str) -> None:
    """Else it would not be worth having."""
    counts, usage = USUAL[form]
    payload = PLAIN | {"usage": PLAIN["usage"] | counts}
    plain = read_plain(orjson.dumps(payload))

    assert plain is not None
    assert ("4", usage) == (plain.text, plain.usage)
    assert plain == read(payload)
    assert PROTOCOL.read_plain is read_plain


def test_the_simulators_replies_go_the_short_way() -> None:
    """So that what is measured against it is measured the usual way."""
    _, _, payload = send(gateway(), CHAT, BODIES[CHAT])

    assert read_plain(orjson.dumps(payload)) is not None


def test_no_broken_body_goes_the_short_way() -> None:
    """Bad UTF-8 in a field that nobody reads, an error beside the answer, a body that is too deep or cut."""
    body = orjson.dumps(PLAIN)
    deep = b"[" * 200_000

    for broken in (
        body[:-1],
        body[:-1] + b',"x":"\xff"}',
        body[:-1] + b',"error":{"message":"no"}}',
        body[:-1] + b',"type":"error"}',
        body[:-1] + b',"x":' + deep,
        b"[]",
        b"",
    ):
        assert read_plain(broken) is None
