"""The laws of token counts and estimates."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from crun_batch.pricing.costs import charge, hold
from crun_batch.pricing.estimate import Tally, Terms, combine
from crun_batch.pricing.figures import Limits
from crun_batch.pricing.finished import Finished
from crun_batch.pricing.prices import price_from_job
from crun_batch.pricing.time_needed import time_needed
from crun_batch.pricing.tokens import (
    Counter,
    PromptCount,
    approximate_tokens,
    count_body,
    remembering,
    vocabulary_of,
)
from crun_batch.records import Usage, pico_of
from crun_batch.vocabulary import counters
from crun_batch.vocabulary.counters import token_counter

PRICE = price_from_job(
    {
        "currency": "credits",
        "input_per_mtok": Decimal(500),
        "output_per_mtok": Decimal(3000),
        "minimum_per_request": Decimal("0.05"),
    }
)


@pytest.mark.parametrize(
    ("model", "vocabulary"),
    [
        ("gpt-5.4", "o200k_base"),
        ("openai/gpt-4o-mini", "o200k_base"),
        ("GPT-4.1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("ft:gpt-4o:acme", "o200k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-4omega", None),
        ("claude-sonnet-4-5", None),
        ("o1a", None),
    ],
)
def test_a_models_family_decides_its_vocabulary(model: str, vocabulary: str | None) -> None:
    """A family ends where its name ends: gpt-4 is not gpt-4o."""
    assert vocabulary == vocabulary_of(model)


def counted(messages: list[dict[str, Any]], counter: Counter) -> PromptCount:
    return count_body(json.dumps({"messages": messages}).encode(), counter)


def test_a_chat_prompt_counts_text_roles_and_what_starts_the_reply() -> None:
    """OpenAI's documented count: 3 a message, its role, its text, 3 for the reply."""
    pytest.importorskip("bpe_openai")
    counter = token_counter("gpt-4o")
    assert counter.exact
    assert 2 == counter.count("hello world")
    messages = [{"role": "system", "content": "hello world"}, {"role": "user", "content": "hello world"}]
    assert 3 + 2 * (3 + 1 + 2) == counted(messages, counter).tokens
    assert counted(messages, counter) == counted(messages, remembering(counter))


def test_without_the_vocabulary_counts_are_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    """bpe-openai is optional: without it OpenAI's models are counted like any other."""
    monkeypatch.setattr(counters, "_bindings", lambda: None)
    counter = token_counter("gpt-4o")
    assert not counter.exact
    assert 3 == counter.count("hello world")


def test_parts_of_a_message_are_counted_and_images_named() -> None:
    """Text parts count; what is no text is not guessed at."""
    parts = [{"type": "text", "text": "abcdefgh"}, {"type": "image_url", "image_url": {"url": "https://x.test/a"}}]
    found = counted([{"role": "user", "content": parts}], token_counter("claude"))
    assert (3 + 4 + 2, 1) == (found.tokens, found.uncounted_parts)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "abcdefgh"}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "abcdefgh"}]}]},
        {"system": [{"type": "text", "text": "abcd"}], "messages": [{"role": "user", "content": "abcd"}]},
    ],
)
def test_a_whole_body_is_counted_whichever_its_protocol(body: dict[str, object]) -> None:
    """Chat, responses and messages bodies of the same text have the same count."""
    assert 9 == count_body(orjson.dumps(body), token_counter("claude")).tokens


@pytest.mark.parametrize("body", [b"[1]", b"{", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    """ValueError, for the row to fail with."""
    with pytest.raises(ValueError):
        count_body(body, token_counter("claude"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4))
def test_bytes_of_the_body_bound_its_tokens(texts: list[str]) -> None:
    """No counter finds more tokens in a request than its body has bytes."""
    messages = [{"role": "user", "content": text} for text in texts]
    body = json.dumps({"model": "gpt-4o", "messages": messages}, ensure_ascii=False).encode("utf-8", "replace")
    for model in ("gpt-4o", "claude"):
        assert counted(messages, token_counter(model)).tokens <= len(body)


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_approximation_is_a_quarter_of_the_bytes(text: str) -> None:
    """ASCII or not, the same rule."""
    assert -(-len(text.encode("utf-8", "replace")) // 4) == approximate_tokens(text)


def test_approximation_is_near_o200k_on_prose_code_and_chinese() -> None:
    """Within 0.7 to 1.4 of the exact count, on three kinds of text."""
    pytest.importorskip("bpe_openai")
    exact = token_counter("gpt-4o").count
    prose = "The delivery came two days late and the box was damaged, but the support helped quickly. "
    code = "def total(rows):\n    return sum(row.price * row.count for row in rows if row.paid)\n"
    chinese = "快递晚了两天才到,包装也破了,不过客服处理得很快。"
    for text in (prose, code, chinese):
        assert 0.7 < approximate_tokens(text) / exact(text) < 1.4


def test_a_lone_surrogate_is_counted() -> None:
    """A text that cannot be encoded does not end an estimate."""
    assert token_counter("gpt-4o").count("\ud800x") > 0
    assert approximate_tokens("\ud800x") > 0


def tally_of(lengths: list[int], **terms: object) -> Tally:
    kept = {"price": PRICE, "max_output_tokens": 64, "counter_exact": True, **terms}
    tally = Tally(Terms("base", "m", **kept))  # type: ignore[arg-type]
    for length in lengths:
        tally.row()
        tally.add(length, f"hash {length}")
    return tally


lengths_lists = st.lists(st.integers(0, 400), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(lengths_lists, st.integers(1, 3))
def test_low_and_high_are_sums_of_single_charges(lengths: list[int], repeats: int) -> None:
    """Low: one output token a request; high: its hold. Counting by length changes nothing."""
    estimate = tally_of(lengths, repeats=repeats).estimate()
    low = sum(charge(PRICE, Usage(input_tokens=n, output_tokens=1)).credits_pico or 0 for n in lengths)
    high = sum(hold(PRICE, n, 64).credits_pico or 0 for n in lengths)
    assert (low * repeats, high * repeats) == (estimate.cost_credits.low, estimate.cost_credits.high)
    assert (len(lengths) * repeats, sum(lengths) * repeats) == (estimate.requests, estimate.input_tokens)
    assert None is estimate.cost_usd.low


@settings(max_examples=100, deadline=None)
@given(lengths_lists)
def test_identical_requests_and_what_sharing_them_saves(lengths: list[int]) -> None:
    """Every request but the first of its kind; sharing them leaves the cost of the distinct ones."""
    whole, distinct = tally_of(lengths).estimate(), tally_of(sorted(set(lengths))).estimate()
    assert len(lengths) - len(set(lengths)) == whole.identical.requests
    assert whole.cost_credits.low is not None and whole.identical.saves_credits.low is not None
    assert distinct.cost_credits.low == whole.cost_credits.low - whole.identical.saves_credits.low
    assert not whole.identical.at_least


def test_what_the_minimum_adds_is_said_without_advice() -> None:
    """20 tokens in and 1 out are 0.013 credits: the minimum of 0.05 adds 0.037 to each of 10 requests.

    Whether several rows in one request would cost less is not known here: nothing is said of it.
    """
    estimate = tally_of([20] * 10).estimate()
    assert estimate.minimum is not None
    assert (10, pico_of(Decimal("0.37"))) == (estimate.minimum.requests_low, estimate.minimum.adds_low_pico)
    assert (0, 0) == (estimate.minimum.requests_high, estimate.minimum.adds_high_pico)
    [note] = [note for note in estimate.notes if "minimum" in note]
    said = "10 requests cost no more than the minimum of 0.05 credits, which adds up to 74 % of the bill"
    assert said == note
    [one] = [note for note in tally_of([20]).estimate().notes if "minimum" in note]
    assert one.startswith("1 request costs no more than the minimum of 0.05 credits")
    in_dollars = structs.replace(PRICE, currency="usd")
    [one] = [note for note in tally_of([20], price=in_dollars).estimate().notes if "minimum" in note]
    assert one.startswith("1 request costs no more than the minimum of $0.05, ")


def test_no_note_where_the_minimum_hardly_matters() -> None:
    """Long prompts: no word about the minimum."""
    assert () == tally_of([5000] * 10).estimate().notes


def test_a_sample_is_scaled_and_says_so() -> None:
    """10 random rows of 1,000: sums times 100, with the interval of the mean and a note."""
    estimate = tally_of([100, 200] * 5).estimate(rows=1000)
    assert (150_000, 1000) == (estimate.input_tokens, estimate.requests)
    # deviation 52.7, times 1.96 / sqrt 10, times 1,000 rows, times sqrt(1 - 0.01)
    assert 32_501 == pytest.approx(estimate.input_tokens_error, abs=5)
    assert "estimated from 10 random rows of 1,000" in estimate.notes
    assert estimate.identical.at_least


def test_without_an_output_limit_the_high_end_is_unknown() -> None:
    """Nothing bounds the output: high is None and a note says why."""
    tally = Tally(Terms("base", "m", PRICE, counter_exact=True))
    tally.row()
    tally.add(10)
    estimate = tally.estimate()
    assert None is estimate.cost_credits.high
    assert None is estimate.output_tokens.high
    assert any("max_output_tokens" in note for note in estimate.notes)


def test_an_unknown_price_leaves_cost_unknown_and_says_why() -> None:
    """Never 0, never a guess; one unknown variant makes the sum unknown."""
    unknown = Tally(Terms("b", "m", None, "no price is known for m"))
    unknown.row()
    unknown.add(10)
    estimate = combine([tally_of([10]).estimate(), unknown.estimate()], Limits(64))
    assert None is estimate.cost_credits.low
    assert "no price is known for m" in estimate.variants[1].notes


def test_expected_follows_from_the_finished_rows() -> None:
    """The mean of what finished, for every request still to be sent."""
    finished = Finished(10, 1000, 0, 300, 10, None, 7 * 10**12)
    estimate = tally_of([100] * 40).estimate(finished=finished)
    assert (1200, 28 * 10**12) == (estimate.output_tokens.expected, estimate.cost_credits.expected)
    assert estimate.cost_credits.expected == estimate.cost_credits.best


@pytest.mark.parametrize(
    ("limits", "seconds", "limited_by"),
    [
        (Limits(64), None, None),
        (Limits(64, requests_per_minute=600), 100.0, "requests_per_minute"),
        (Limits(64, requests_per_minute=600, tokens_per_minute=1_000), 6000.0, "tokens_per_minute"),
        (Limits(10, requests_per_minute=60_000, latency_seconds=2.0), 200.0, "concurrency"),
    ],
)
def test_time_under_the_limits(limits: Limits, seconds: float | None, limited_by: str | None) -> None:
    """The slowest of the known limits decides; nothing known is said as such."""
    needed = time_needed(1000, 100_000, limits)
    assert (seconds, limited_by) == (needed.seconds, needed.limited_by)


def test_per_minute_limits_hold_for_each_model() -> None:
    """Two variants of one model share its limit; two models do not."""
    limits = Limits(64, requests_per_minute=60)
    same = combine([tally_of([10] * 60).estimate()] * 2, limits)
    other = Tally(Terms("other", "n", PRICE))
    other.row()
    other.add(1)
    assert 120.0 == same.time_low.seconds
    assert 60.0 == combine([tally_of([10] * 60).estimate(), other.estimate()], limits).time_low.seconds


def test_an_estimate_is_plain_data() -> None:
    """to_dict is JSON, amounts as decimal text."""
    data = json.loads(json.dumps(combine([tally_of([20] * 10).estimate()], Limits(64)).to_dict()))
    assert "0.5" == data["cost_credits"]["low"]
    assert None is data["cost_usd"]["low"]
    assert "not limited" == data["time"]["low"]["limited_by"]
    assert "0.37" == data["variants"][0]["minimum_charge"]["adds_beyond_tokens"]["low"]


def test_nothing_left_to_send_costs_nothing() -> None:
    """A finished run's estimate is 0, not an error."""
    estimate = Tally(Terms("base", "m", PRICE)).estimate()
    assert (0, 0, 0) == (estimate.requests, estimate.cost_credits.low, estimate.cost_credits.high)
