"""The laws of what is billed beside tokens: it is named, its cost is null unless stated, no budget bears it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from said_gateway import gateway

import crun_batch
from crun_batch import InputError, Run
from crun_batch.gateway.protocols import PROTOCOLS
from crun_batch.load.job.job import Job
from crun_batch.pricing.account import added
from crun_batch.pricing.costs import charge
from crun_batch.pricing.prices import price_from_job
from crun_batch.records import Failure, Usage

MODEL = "claude-opus-5-5"
PRICE = {"currency": "usd", "input_per_mtok": 5, "output_per_mtok": 25, "cache_write_per_mtok": "6.25"}
SPEC = {key: value if key == "currency" else Decimal(value) for key, value in PRICE.items()}
CHAT_COUNTS = {"prompt_tokens": 100, "completion_tokens": 30, "total_tokens": 130}
COUNTS = {"input_tokens": 100, "output_tokens": 30}
CACHE = {"cache_creation_input_tokens": 40}

BESIDE: dict[str, tuple[str, dict[str, Any], str]] = {
    "OpenAI, spoken questions": ("chat", {"prompt_tokens_details": {"audio_tokens": 80}}, "audio tokens"),
    "OpenAI, spoken answers": ("chat", {"completion_tokens_details": {"audio_tokens": 20}}, "audio tokens"),
    "Google, drawn answers": ("chat", {"completion_tokens_details": {"image_tokens": 20}}, "image tokens"),
    "Mistral, Voxtral": ("chat", {"prompt_audio_seconds": 17}, "audio tokens"),
    "xAI, sources": ("chat", {"num_sources_used": 4}, "searches"),
    "xAI, tools": ("responses", {"num_server_side_tools_used": 3}, "hosted tools"),
    "Anthropic, searches": ("messages", {"server_tool_use": {"web_search_requests": 2}}, "searches"),
    "LiteLLM, searches": ("chat", {"prompt_tokens_details": {"web_search_requests": 2}}, "searches"),
    "Anthropic, compaction": (
        "messages",
        {"iterations": [{"type": "compaction", "input_tokens": 9}, {"type": "message", **COUNTS}]},
        "compaction",
    ),
    "two of them": (
        "messages",
        {"server_tool_use": {"web_search_requests": 2}, "iterations": [{"type": "compaction"}]},
        "searches, compaction",
    ),
}
"""What a reply's usage says beside its counts -> the protocol, that, and what it was billed for."""
NOTHING_BESIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI": (
        "chat",
        {
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    ),
    "xAI": ("responses", {"num_sources_used": 0, "num_server_side_tools_used": 0}),
    "Anthropic": (
        "messages",
        CACHE
        | {
            "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 0},
            "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 3},
            "iterations": [{"type": "message", **COUNTS}],
            "inference_geo": "global",
            "speed": "standard",
        },
    ),
    "nulls": ("messages", {"server_tool_use": None, "cache_creation": None, "iterations": None, "speed": None}),
    "other types": ("messages", {"server_tool_use": [3], "cache_creation": [], "iterations": [3, "x"]}),
}


def body(protocol: str, usage: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A whole reply with this usage beside the counts."""
    told = {"id": "r1", "model": MODEL}
    if protocol == "chat":
        choice = {"index": 0, "message": {"role": "assistant", "content": "4"}, "finish_reason": "stop"}
        return told | {"choices": [choice], "usage": CHAT_COUNTS | usage} | more
    if protocol == "responses":
        message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]}
        items = [*more.pop("output", ()), message]
        return told | {"status": "completed", "output": items, "usage": COUNTS | usage} | more
    block = {"type": "text", "text": "4"}
    return (
        told | {"type": "message", "content": [block], "stop_reason": "end_turn", "usage": COUNTS | usage} | more
    )


def usage_of(protocol: str, payload: dict[str, Any]) -> Usage:
    reply = PROTOCOLS[protocol].read(payload)  # type: ignore[index]
    assert not isinstance(reply, Failure) and reply.usage is not None
    return reply.usage


@pytest.mark.parametrize("said", BESIDE)
def test_what_is_billed_beside_the_tokens_is_named_and_makes_the_cost_unknown(said: str) -> None:
    """Sources: the providers' API references and price pages; a cost that counts it as text would be wrong."""
    protocol, told, words = BESIDE[said]
    usage = usage_of(protocol, body(protocol, told))

    assert words == usage.other_charges
    assert (100, 30) == (usage.input_tokens, usage.output_tokens)
    cost = charge(price_from_job(SPEC), usage)
    assert (None, None, None) == (cost.usd_pico, cost.credits_pico, cost.source)
    assert "reply" == charge(price_from_job(SPEC), usage, reported_usd="0.02").source


@pytest.mark.parametrize("said", NOTHING_BESIDE)
def test_a_usage_that_counts_none_of_it_is_priced_by_its_tokens(said: str) -> None:
    """Zeros, nulls and what is no count say nothing."""
    protocol, told = NOTHING_BESIDE[said]
    usage = usage_of(protocol, body(protocol, told))

    assert (None, None) == (usage.other_charges, usage.service_tier)
    assert charge(price_from_job(SPEC), usage).usd_pico is not None


CITED = [{"type": "url_citation", "url_citation": {"url": "https://example.org", "title": "x"}}]


@pytest.mark.parametrize(
    ("notes", "words"), [(CITED, "searches"), ([], None), (None, None), ([{"type": "file"}], None)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_reply_that_cites_pages_has_searched(notes: Any, words: str | None, stream: bool) -> None:
    """OpenAI's search models bill each search and count none (its price page; LiteLLM's tracker, #10384)."""
    if stream:
        delta = {"role": "assistant", "content": "4", "annotations": notes}
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}, {"usage": CHAT_COUNTS}]
        lines = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
        payload = PROTOCOLS["chat"].assemble(lines.encode()).payload
        assert payload is not None
    else:
        payload = body("chat", {})
        payload["choices"][0]["message"]["annotations"] = notes

    assert words == usage_of("chat", payload).other_charges


HOUR = {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30}
HOURS: dict[str, tuple[str, dict[str, Any]]] = {
    "Anthropic": ("messages", CACHE | {"cache_creation": HOUR}),
    "LiteLLM": (
        "chat",
        CACHE
        | {"prompt_tokens": 140, "total_tokens": 170}
        | {"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_token_details": HOUR}},
    ),
}


@pytest.mark.parametrize("said", HOURS)
def test_tokens_that_a_cache_keeps_for_an_hour_are_told_apart(said: str) -> None:
    """They cost twice the input's price, those of five minutes 1.25 times (Anthropic's price page)."""
    protocol, told = HOURS[said]
    usage = usage_of(protocol, body(protocol, told))

    assert (40, 30, None) == (usage.cache_write_tokens, usage.cache_write_1h_tokens, usage.other_charges)
    assert charge(price_from_job(SPEC), usage).usd_pico is None
    known = price_from_job(SPEC | {"cache_write_1h_per_mtok": Decimal(10)})
    assert (100 * 5 + 30 * 25 + 10 * Decimal("6.25") + 30 * 10) * 10**6 == charge(known, usage).usd_pico


def test_an_impossible_share_of_an_hour_is_not_believed() -> None:
    """More than was written at all."""
    told = CACHE | {"cache_creation": {"ephemeral_1h_input_tokens": 41}}

    assert PROTOCOLS["messages"].usage(body("messages", told)) is None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("web_search_call", "searches"),
        ("file_search_call", "searches"),
        ("code_interpreter_call", "hosted tools"),
        ("image_generation_call", "image tokens"),
        ("reasoning", None),
        ("mcp_list_tools", None),
    ],
)
def test_calls_of_openais_own_tools_are_seen_in_the_output(kind: str, words: str | None) -> None:
    """A response's usage does not count them; each call costs (OpenAI's price page, built-in tools)."""
    payload = body("responses", {}, output=[{"type": kind, "id": "x", "status": "completed"}])

    assert words == usage_of("responses", payload).other_charges


@pytest.mark.parametrize(
    ("told", "tier"),
    [
        ({"service_tier": "standard", "speed": "fast"}, "fast"),
        ({"speed": "fast"}, "fast"),
        ({"service_tier": "batch", "inference_geo": "us"}, "batch+us"),
        ({"service_tier": "priority", "speed": "fast", "inference_geo": "us"}, "priority+fast+us"),
        ({"service_tier": "standard", "inference_geo": "global"}, "standard"),
        ({"service_tier": "standard", "inference_geo": "not_available", "speed": "standard"}, "standard"),
    ],
)
def test_speed_and_place_are_tiers_with_prices_of_their_own(told: dict[str, Any], tier: str) -> None:
    """Anthropic bills fast mode at a multiple, and inference in the US at 1.1 times, of every token price."""
    usage = usage_of("messages", body("messages", told))

    assert tier == usage.service_tier
    known = charge(price_from_job(SPEC), usage).usd_pico is not None
    assert (tier == "standard") == known
    own = SPEC | {"service_tiers": {tier: {"input_per_mtok": Decimal(30), "output_per_mtok": Decimal(150)}}}
    assert (100 * 30 + 30 * 150) * 10**6 == charge(price_from_job(own), usage).usd_pico


@pytest.mark.parametrize(
    ("told", "usd"),
    [
        ({"cost_in_usd_ticks": 37756000}, "0.0037756"),
        ({"cost_in_usd_ticks": 200000000}, "0.02"),
        ({"cost_in_usd_ticks": 0}, None),
        ({"cost_in_usd_ticks": -1}, None),
        ({"cost_in_usd_ticks": "x"}, None),
        ({"cost_in_usd_ticks": None}, None),
        ({"cost_in_usd_ticks": 10**17}, None),
        ({"cost_in_usd_ticks": 37756000, "cost": 0.5}, "0.5"),
        ({"cost_in_usd_ticks": 37756000, "cost": None}, "0.0037756"),
    ],
)
@pytest.mark.parametrize("protocol", ["chat", "responses"])
def test_xais_ticks_are_the_cost_that_the_reply_states(
    protocol: str, told: dict[str, Any], usd: str | None
) -> None:
    """Ten thousand million of them are a dollar, tools included (xAI's docs, "Cost Tracking")."""
    reply = PROTOCOLS[protocol].read(body(protocol, told))  # type: ignore[index]

    assert (None if usd is None else Decimal(usd)) == (
        None if reply.reported_usd is None else Decimal(reply.reported_usd)
    )


def test_usage_of_several_attempts_keeps_what_one_of_them_named() -> None:
    """A unit's second attempt does not hide what the first was billed for."""
    both = added(Usage(1, output_tokens=2, other_charges="searches"), Usage(3, output_tokens=4))

    assert Usage(4, output_tokens=6, other_charges="searches") == both


HOSTED: dict[str, dict[str, Any]] = {
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "web_search_20250305"}]},
    "modalities": {"modalities": ["text", "audio"], "audio": {"voice": "alloy"}},
    "web_search_options": {"web_search_options": {}},
    "search_parameters": {"search_parameters": {"mode": "auto"}},
    "plugins": {"plugins": [{"id": "web"}]},
    "mcp_servers": {"mcp_servers": [{"type": "url", "url": "https://x"}]},
    "enable_search": {"enable_search": True},
}
OWN: dict[str, dict[str, Any]] = {
    "functions": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "Anthropic's form of one": {"tools": [{"name": "f", "input_schema": {}}]},
    "run here": {"tools": [{"type": "bash_20250124", "name": "bash"}, {"type": "custom", "name": "f"}]},
    "text": {"modalities": ["text"]},
    "off": {"enable_search": False, "plugins": []},
}
ROWS = pl.DataFrame({"id": range(40), "text": [f"question {row}" for row in range(40)]})
Make = Callable[..., Job]


def job(base_url: str, folder: Path, **keys: Any) -> Job:
    return Job(
        endpoint={"base_url": base_url, "auth": "none", "protocol": "messages"},
        **{
            "name": "beside",
            "input": {"id": "id"},
            "model": MODEL,
            "prompt": {"user": "{{ text }}"},
            "params": {"max_output_tokens": 300},
            "prices": {"models": {MODEL: PRICE}},
            "output": {"dir": str(folder / "run")},
        }
        | keys,
    )


@pytest.fixture
def searching() -> Iterator[str]:
    """A gateway that searches for every third question, asked or not."""

    def said(asked: Mapping[str, Any]) -> tuple[int, Any]:
        number = int(asked["messages"][-1]["content"].split()[-1])
        return 200, body("messages", {"server_tool_use": {"web_search_requests": int(number % 3 == 0)}})

    with gateway(said) as base_url:
        yield base_url


def run(of: Job, **options: Any) -> Run:
    return crun_batch.run(of, table=ROWS, handle_signals=False, **options)


@pytest.mark.parametrize("field", HOSTED)
@pytest.mark.parametrize("cap", ["max_cost_usd", "max_cost_credits"])
def test_no_budget_bears_what_the_gateway_does_of_its_own(field: str, cap: str, tmp_path: Path) -> None:
    """Nothing bounds it, so nothing could be reserved: the key is named, and what to do."""
    keys = {"params": {"max_output_tokens": 300, **HOSTED[field]}, "budget": {cap: 1}}

    with pytest.raises(InputError, match=rf"params\.{field}.*with a budget"):
        run(job("http://127.0.0.1:9/v1", tmp_path, **keys))


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt"])
def test_no_budget_bears_what_the_gateway_keeps(field: str, tmp_path: Path) -> None:
    """In the params as in a row's own body: it is input that no byte of ours bounds."""
    params = {"max_output_tokens": 300, field: {"id": "x"} if field == "prompt" else "x"}
    with pytest.raises(InputError, match=rf"params\.{field}.*with a budget"):
        Job(
            endpoint={"base_url": "http://127.0.0.1:9/v1", "auth": "none", "protocol": "responses"},
            model=MODEL,
            prompt={"user": "{{ text }}"},
            params=params,
            budget={"max_cost_usd": 1},
        )


@pytest.mark.parametrize("said", OWN)
def test_tools_that_run_here_are_no_matter_to_a_budget(said: str, searching: str, tmp_path: Path) -> None:
    """Their calls are tokens, and those are bounded."""
    keys = {"params": {"max_output_tokens": 300, **OWN[said]}, "budget": {"max_cost_usd": 1}}

    assert crun_batch.estimate(job(searching, tmp_path, **keys), table=ROWS)["may_start"]


@pytest.mark.parametrize("field", HOSTED)
def test_an_estimate_says_that_it_does_not_bound_it(field: str, searching: str, tmp_path: Path) -> None:
    """Tokens are counted all the same; how much it may be at most is unknown, never a number."""
    keys = {"params": {"max_output_tokens": 300, **HOSTED[field]}}
    told = crun_batch.estimate(job(searching, tmp_path, **keys), table=ROWS)

    assert told["cost_usd"]["at_most"] is None and told["cost_usd"]["low"] is not None
    assert any(f"what the gateway does for {field} is billed" in note for note in told["variants"][0]["notes"])


def test_bodies_of_a_table_are_held_to_the_same(searching: str, tmp_path: Path) -> None:
    """The row that asks for a search is named."""
    asked = [{"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "1"}]} for _ in range(3)]
    asked[1] |= HOSTED["tools"]
    table = pl.DataFrame({"id": [1, 2, 3], "body": [json.dumps(one) for one in asked]})
    of = Job(
        endpoint={"base_url": searching, "auth": "none", "protocol": "messages"},
        input={"id": "id"},
        prompt={"body_column": "body"},
        prices={"models": {MODEL: PRICE}},
        budget={"max_cost_usd": 1},
        output={"dir": str(tmp_path / "run")},
    )

    with pytest.raises(InputError, match="row 1: its body has tools"):
        crun_batch.run(of, table=table, handle_signals=False)


def test_a_search_that_nobody_asked_for_is_recorded_and_costs_null(searching: str, tmp_path: Path) -> None:
    """Never the price of its tokens; how much more it is, is said to be unknown; new prices do not change that."""
    done = run(job(searching, tmp_path))
    told = done.sql(
        "select other_charges as what, count(*) as n, count(cost_usd) as priced, count(held_usd) as held "
        "from attempts group by 1 order by 1 nulls last"
    ).to_pylist()

    assert [
        {"what": "searches", "n": 14, "priced": 0, "held": 0},
        {"what": None, "n": 26, "priced": 26, "held": 26},
    ] == told
    assert 14 == done.summary["unpriced_attempts"]
    assert [] == done.verify(data=True)
    shown = crun_batch.show(done, 3)
    assert "searches" == shown["units"][0]["attempts"][0]["other_charges"]
    dearer = PRICE | {"input_per_mtok": 50}
    anew = run(job(searching, tmp_path, prices={"models": {MODEL: dearer}}), correct_prices=True)
    assert 14 == anew.summary["unpriced_attempts"]
    assert Decimal(anew.summary["cost_usd"]) == 26 * (100 * 50 + 30 * 25) / Decimal(10**6)


def test_an_hour_in_the_cache_is_recorded_and_priced_anew(tmp_path: Path) -> None:
    """Null without its price; with one, what was recorded is priced at it."""
    told = CACHE | {"cache_creation": HOUR}
    with gateway(lambda asked: (200, body("messages", told))) as base_url:
        done = run(job(base_url, tmp_path))
        assert (None, 40) == (done.cost_usd, done.summary["unpriced_attempts"])
        known = {"models": {MODEL: PRICE | {"cache_write_1h_per_mtok": 10}}}
        anew = run(job(base_url, tmp_path, prices=known), correct_prices=True)

    assert 40 * (100 * 5 + 30 * 25 + 10 * Decimal("6.25") + 30 * 10) / 10**6 == anew.cost_usd
    assert {30} == set(anew.sql("select cache_write_1h_tokens as n from attempts")["n"].to_pylist())
    assert [] == anew.verify(data=True)


def test_a_budget_stops_at_the_first_such_reply(searching: str, tmp_path: Path) -> None:
    """What is in flight then is kept, nothing more is sent, and it is said why."""
    stopped = run(job(searching, tmp_path, budget={"max_cost_usd": 100}, limits={"concurrency": 2}))

    assert 4 == stopped.summary["exit_code"]
    assert 1 <= stopped.summary["attempts"] <= 4
    assert "billed for searches" in stopped.summary["stop_reason"]
