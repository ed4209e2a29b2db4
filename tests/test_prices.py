"""The laws of prices: where they come from, what a request costs, what it may cost at most."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from crun_batch.pricing.costs import charge, hold
from crun_batch.pricing.prices import (
    choose_price,
    price_as_text,
    price_from_job,
    price_from_list,
    price_from_quote,
)
from crun_batch.pricing.repricing import difference, price_from_text, rebound, reprice
from crun_batch.records import PICO, CacheTtl, Cost, Hold, Price, Usage, decimal_text, pico_of
from crun_batch.workload.bodies import cache_ttl

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
CRUN = "https://api.crun.ai/api/v1"
OPENAI = "https://api.openai.com/v1"
CREDITS_SPEC = {
    "currency": "credits",
    "input_per_mtok": Decimal(500),
    "cached_input_per_mtok": Decimal(50),
    "output_per_mtok": Decimal(3000),
    "minimum_per_request": Decimal("0.01"),
}
USD_SPEC = {"currency": "usd", "input_per_mtok": Decimal(2), "output_per_mtok": Decimal(10)}


class Quoted(Struct, frozen=True):
    input_usd: Decimal | None = None
    output_usd: Decimal | None = None
    cached_input_usd: Decimal | None = None
    cache_write_usd: Decimal | None = None
    request_usd: Decimal | None = None


def test_design_example_charges_tokens_above_the_minimum() -> None:
    """1,000 tokens in at 500 and 100 out at 3,000 credits per million are 0.8 credits."""
    cost = charge(price_from_job(CREDITS_SPEC), Usage(input_tokens=1000, output_tokens=100))
    assert Cost(None, pico_of(Decimal("0.8")), "job") == cost


def test_minimum_is_charged_for_a_short_prompt() -> None:
    """A request never costs less than its minimum."""
    cost = charge(price_from_job(CREDITS_SPEC), Usage(input_tokens=10, output_tokens=1))
    assert pico_of(Decimal("0.01")) == cost.credits_pico


def test_cached_and_written_tokens_have_their_own_price() -> None:
    """Cached tokens are part of the input and leave the rest at the input price."""
    spec = {**USD_SPEC, "cached_input_per_mtok": Decimal("0.2"), "cache_write_per_mtok": Decimal("2.5")}
    usage = Usage(input_tokens=1000, cached_input_tokens=600, cache_write_tokens=100, output_tokens=0)
    expected = (300 * Decimal(2) + 600 * Decimal("0.2") + 100 * Decimal("2.5")) / 1_000_000
    assert pico_of(expected) == charge(price_from_job(spec), usage).usd_pico


def test_cached_tokens_without_a_price_cost_the_input_price() -> None:
    """No cached price was given: cached input costs what input costs."""
    price = price_from_job(USD_SPEC)
    plain = charge(price, Usage(input_tokens=1000, output_tokens=7))
    assert plain == charge(price, Usage(input_tokens=1000, cached_input_tokens=900, output_tokens=7))


def test_reasoning_tokens_are_part_of_the_output() -> None:
    """Reasoning tokens are not billed a second time."""
    price = price_from_job(USD_SPEC)
    assert charge(price, Usage(output_tokens=50)) == charge(price, Usage(output_tokens=50, reasoning_tokens=40))


@pytest.mark.parametrize(("tokens", "per_mtok"), [(200_000, 2), (200_001, 4), (300_001, 6)])
def test_a_tier_above_a_context_size_prices_the_whole_request(tokens: int, per_mtok: int) -> None:
    """The highest threshold that the input exceeds decides, whatever the order in the file."""
    tiers = [
        {"above_input_tokens": 300_000, "input_per_mtok": Decimal(6)},
        {"above_input_tokens": 200_000, "input_per_mtok": Decimal(4)},
    ]
    price = price_from_job({**USD_SPEC, "tiers": tiers})
    expected = (Decimal(tokens) * per_mtok + 1000 * 10) / 1_000_000
    assert pico_of(expected) == charge(price, Usage(input_tokens=tokens, output_tokens=1000)).usd_pico


def test_no_price_or_no_usage_is_unknown_not_free() -> None:
    """Cost is None, never 0, where the price or the tokens are unknown."""
    assert Cost() == charge(None, Usage(input_tokens=5))
    assert Cost() == charge(price_from_job(USD_SPEC), None)


def test_a_cost_in_the_reply_wins() -> None:
    """What the gateway states beats any price list; a free reply is free, and the source says so."""
    price, usage = price_from_job(USD_SPEC), Usage(input_tokens=10**6)
    assert Cost(123_456_789_000, None, "reply") == charge(price, usage, reported_usd="0.123456789")
    assert Cost(0, None, "reply") == charge(price, usage, reported_usd="0")
    assert Cost(PICO, 200 * PICO, "reply") == charge(None, None, reported_usd="1", credits_per_usd=Decimal(200))


@pytest.mark.parametrize("text", ["NaN", "-1", "Infinity", "1E+999999999", "", "about 3", "9" * 100])
def test_a_reported_cost_that_is_no_amount_is_as_if_not_stated(text: str) -> None:
    """A hostile or broken cost field neither counts nor costs time."""
    assert "job" == charge(price_from_job(USD_SPEC), Usage(), reported_usd=text).source


def test_a_tiny_reported_cost_is_zero_pico() -> None:
    """An exponent of minus a billion is no reason to allocate a gigabyte."""
    assert 0 == charge(None, None, reported_usd="1E-999999999").usd_pico


def test_credits_and_dollars_meet_only_through_the_rate() -> None:
    """Without credits_per_usd the other unit stays unknown; with it both follow from one exact amount."""
    price, usage = price_from_job(CREDITS_SPEC), Usage(input_tokens=1000)
    unrated = charge(price, usage)
    assert (None, PICO // 2) == (unrated.usd_pico, unrated.credits_pico)
    rated = charge(price, usage, credits_per_usd=Decimal(200))
    assert (PICO // 400, PICO // 2) == (rated.usd_pico, rated.credits_pico)


rates = st.decimals(min_value=0, max_value=1000, places=6)
counts = st.integers(0, 2_000_000)


@settings(max_examples=200, deadline=None)
@given(rates, rates, rates, rates, counts, counts, counts, st.decimals(min_value=0, max_value=1, places=6))
def test_charge_equals_exact_decimal_arithmetic_rounded_once(
    input_rate: Decimal,
    cached_rate: Decimal,
    output_rate: Decimal,
    write_rate: Decimal,
    input_tokens: int,
    cached: int,
    output_tokens: int,
    minimum: Decimal,
) -> None:
    """Integers give what unlimited decimals give, rounded half to even to 12 places."""
    cached = min(cached, input_tokens)
    spec = {
        "currency": "usd",
        "input_per_mtok": input_rate,
        "cached_input_per_mtok": cached_rate,
        "cache_write_per_mtok": write_rate,
        "output_per_mtok": output_rate,
        "minimum_per_request": minimum,
    }
    exact = (input_tokens - cached) * input_rate + cached * cached_rate + output_tokens * output_rate
    wanted = max(minimum, exact.scaleb(-6)).quantize(Decimal(1).scaleb(-12), ROUND_HALF_EVEN)
    usage = Usage(input_tokens=input_tokens, cached_input_tokens=cached, output_tokens=output_tokens)
    assert wanted.scaleb(12) == charge(price_from_job(spec), usage).usd_pico


@settings(max_examples=200, deadline=None)
@given(
    rates, rates, rates, rates, counts, st.integers(0, 5000), st.data(), st.sampled_from([None, "3", "200", "0.7"])
)
def test_no_request_costs_more_than_its_hold(
    input_rate: Decimal,
    cached_rate: Decimal,
    output_rate: Decimal,
    tier_rate: Decimal,
    input_bound: int,
    output_bound: int,
    data: st.DataObject,
    rate: str | None,
) -> None:
    """However many tokens are used, cached or written within the bounds, in whichever tier."""
    tiers = [{"above_input_tokens": 1000, "input_per_mtok": tier_rate}]
    price = price_from_job(
        {
            "currency": "credits",
            "input_per_mtok": input_rate,
            "cached_input_per_mtok": cached_rate,
            "cache_write_per_mtok": tier_rate,
            "output_per_mtok": output_rate,
            "minimum_per_request": Decimal("0.01"),
            "tiers": tiers,
        }
    )
    tokens = data.draw(st.integers(0, input_bound))
    cached = data.draw(st.integers(0, tokens))
    written = data.draw(st.integers(0, tokens - cached))
    usage = Usage(tokens, cached, written, data.draw(st.integers(0, output_bound)))
    credits_per_usd = None if rate is None else Decimal(rate)
    cost = charge(price, usage, credits_per_usd=credits_per_usd)
    bound = hold(price, input_bound, output_bound, credits_per_usd)
    assert cost.credits_pico is not None and bound.credits_pico is not None
    assert cost.credits_pico <= bound.credits_pico
    if credits_per_usd is not None:
        assert cost.usd_pico is not None and bound.usd_pico is not None
        assert cost.usd_pico <= bound.usd_pico


@settings(max_examples=200, deadline=None)
@given(
    rates,
    st.none() | rates,
    counts,
    st.integers(0, 5000),
    st.data(),
    st.decimals(1, 2, places=2),
)
def test_a_cache_write_without_a_price_is_bounded_by_twice_the_input(
    input_rate: Decimal,
    cached_rate: Decimal | None,
    input_bound: int,
    output_tokens: int,
    data: st.DataObject,
    times: Decimal,
) -> None:
    """Anthropic charges 1.25 to 2 times the input price: the bill is not known, what is held for it bounds it."""
    spec = {"currency": "credits", "input_per_mtok": input_rate, "output_per_mtok": Decimal(15)}
    if cached_rate is not None:
        spec["cached_input_per_mtok"] = cached_rate
    price, charged = price_from_job(spec), price_from_job({**spec, "cache_write_per_mtok": input_rate * times})
    written = data.draw(st.integers(0, input_bound))
    usage = Usage(input_bound, 0, written, output_tokens)
    cost = charge(charged, usage).credits_pico
    bound = hold(price, input_bound, output_tokens, cache_ttl="5m").credits_pico
    assert (charge(price, usage).credits_pico is None) == bool(written)
    assert cost is not None and bound is not None and cost <= bound


def test_a_given_price_of_cache_writes_is_what_they_hold() -> None:
    """Twice the input price stands for a price that is not there, not beside one that is."""
    price = price_from_job({**USD_SPEC, "cache_write_per_mtok": USD_SPEC["input_per_mtok"]})
    assert hold(price, 1000, 10) == hold(price, 1000, 10, cache_ttl="5m")


_RATE = st.one_of(st.none(), st.decimals(0, 20, places=2))


@settings(max_examples=200, deadline=None)
@given(_RATE, _RATE, st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 500))
def test_tokens_kept_for_an_hour_have_their_own_price(
    minutes: Decimal | None, hour: Decimal | None, fresh: int, for_minutes: int, for_an_hour: int, output: int
) -> None:
    """The cost is known where the price of each kind that was written is; a hold for an hour bounds both."""
    rates = {"cache_write_per_mtok": minutes, "cache_write_1h_per_mtok": hour}
    price = price_from_job({**USD_SPEC, **rates})
    usage = Usage(
        fresh + for_minutes + for_an_hour, 0, for_minutes + for_an_hour, output, cache_write_1h_tokens=for_an_hour
    )
    cost = charge(price, usage).usd_pico
    asked = ((for_minutes, minutes), (for_an_hour, hour))
    if any(tokens and rate is None for tokens, rate in asked):
        assert cost is None
        return
    written = sum(tokens * (rate or 0) for tokens, rate in asked)
    plain = fresh * USD_SPEC["input_per_mtok"] + output * USD_SPEC["output_per_mtok"]
    assert (written + plain) * 10**6 == cost
    bound = hold(price, usage.input_tokens, output, cache_ttl="1h").usd_pico
    assert bound is not None and cost <= bound


def test_a_list_price_knows_what_an_hour_in_the_cache_costs() -> None:
    """Claude at Anthropic's own address: twice the price of input."""
    price = price_from_list("claude-opus-4-5", "https://api.anthropic.com/v1", at=AT)
    assert price is not None
    assert (5_000_000, 6_250_000, 10_000_000) == tuple(
        None if atto is None else atto // 10**6
        for atto in (price.input_atto, price.cache_write_atto, price.cache_write_1h_atto)
    )
    assert price == price_from_text(price_as_text(price))


@pytest.mark.parametrize(
    ("body", "is_messages", "ttl"),
    [
        (b'{"messages":[]}', False, ""),
        (b'{"messages":[]}', True, "5m"),
        (b'{"cache_control":{"type":"ephemeral"}}', False, "5m"),
        (b'{"cache_control":{"type":"ephemeral","ttl":"1h"}}', False, "1h"),
        (b'{"cache_control":{"ttl":"1h"}}', True, "1h"),
        (b'{"text":"\\"1h\\""}', True, "5m"),
    ],
)
def test_a_body_says_how_long_its_input_is_kept(body: bytes, is_messages: bool, ttl: str) -> None:
    """Anthropic's `cache_control`, through whichever protocol."""
    assert ttl == cache_ttl(body, is_messages)


def test_hold_rounds_up() -> None:
    """Half a pico held is one pico held."""
    price = Price(currency="usd", source="job", input_atto=1, output_atto=1)
    exact = Decimal(3).scaleb(-6).to_integral_value(ROUND_CEILING)
    assert Hold(int(exact), None) == hold(price, 2, 1)


@pytest.mark.parametrize("bounds", [(None, 10), (10, None)])
def test_nothing_is_held_where_nothing_bounds(bounds: tuple[int | None, int | None]) -> None:
    """Without an input bound (an image by URL) or an output limit there is no upper bound."""
    assert Hold() == hold(price_from_job(USD_SPEC), *bounds)
    assert Hold() == hold(None, 10, 10)


def test_a_crun_price_without_its_minimum_is_unknown() -> None:
    """Behind CRUN a price without minimum_per_request is half a price; 0 says that there is none."""
    spec = {key: value for key, value in CREDITS_SPEC.items() if key != "minimum_per_request"}
    choice = choose_price("gpt-5.4", CRUN, job_spec=spec, at=AT)
    assert None is choice.price
    assert "minimum_per_request" in choice.reason
    assert None is not choose_price("m", CRUN, job_spec={**spec, "minimum_per_request": Decimal(0)}, at=AT).price
    assert None is not choose_price("gpt-5.4", OPENAI, job_spec=spec, at=AT).price


def test_list_prices_do_not_hold_behind_crun_or_an_unknown_host() -> None:
    """A list price anywhere but at the provider's own host would be a guess."""
    assert None is choose_price("gpt-5.4", CRUN, at=AT).price
    assert None is choose_price("gpt-5.4", "http://127.0.0.1:8080/v1", at=AT).price
    assert None is choose_price("gpt-5.4", CRUN, quote=Quoted(Decimal(1), Decimal(1)), at=AT).price


def test_the_order_is_job_then_models_then_list() -> None:
    """Each source is used only where the one before it is silent."""
    quote = Quoted(Decimal("0.000001"), Decimal("0.000002"))
    sources = [
        choose_price("gpt-5.4", OPENAI, job_spec=USD_SPEC, quote=quote, at=AT).price,
        choose_price("gpt-5.4", OPENAI, quote=quote, at=AT).price,
        choose_price("gpt-5.4", OPENAI, at=AT).price,
    ]
    assert ["job", "models", "list"] == [price and price.source for price in sources]


def test_list_prices_carry_their_tiers_and_cached_price() -> None:
    """GPT-5.4 is dearer above 272,000 input tokens, cached input included."""
    price = price_from_list("gpt-5.4", OPENAI, at=AT)
    assert price is not None and price.cached_input_atto is not None
    assert price.cached_input_atto < price.input_atto
    ((threshold, tier),) = price.tiers
    assert 272_000 == threshold
    assert tier.input_atto > price.input_atto


@pytest.mark.parametrize("model", ["gpt-5.4", "gpt-4o"])
@pytest.mark.parametrize("input_tokens", [1000, 300_000])
def test_list_prices_charge_what_genai_prices_charges(model: str, input_tokens: int) -> None:
    """Our integers agree with the library's own calculation, below and above its tiers."""
    import genai_prices

    usage = genai_prices.Usage(input_tokens=input_tokens, cache_read_tokens=500, output_tokens=77)
    theirs = genai_prices.calc_price(usage, model, provider_api_url=OPENAI, genai_request_timestamp=AT)
    ours = charge(price_from_list(model, OPENAI, at=AT), Usage(input_tokens, 500, 0, 77))
    assert pico_of(theirs.total_price) == ours.usd_pico


def test_list_prices_depend_on_the_moment_that_is_passed() -> None:
    """DeepSeek was cheaper at night: the hour of the given moment decides, not the clock."""
    prices = {
        price_from_list("deepseek-chat", "https://api.deepseek.com", at=AT.replace(hour=hour))
        for hour in range(24)
    }
    assert 2 == len(prices)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com.example.org/v1",
        "https://user@api.openai.com/v1",
        "https://example.org/api.openai.com",
        "https://example.org/x.googleapis.com",
        "http://api.openai.com/v1",
    ],
)
def test_a_host_that_only_looks_like_the_provider_has_no_list_price(url: str) -> None:
    """genai-prices matches prefixes; we ask for the whole host."""
    for model in ("gpt-4o", "gemini-2.5-pro"):
        assert None is price_from_list(model, url, at=AT)


def test_an_unknown_model_has_no_list_price() -> None:
    """A lookup that fails is an unknown price."""
    assert None is price_from_list("no-such-model-17", OPENAI, at=AT)


def test_a_quote_prices_tokens_and_a_fee_for_each_request() -> None:
    """OpenRouter's pricing.request comes on top of the tokens, it is no minimum."""
    quote = Quoted(Decimal("0.0000025"), Decimal("0.00001"), request_usd=Decimal("0.001"))
    cost = charge(price_from_quote(quote), Usage(input_tokens=1000, output_tokens=100))
    assert Cost(pico_of(Decimal("0.0045")), None, "models") == cost


@pytest.mark.parametrize(
    "quote", [Quoted(), Quoted(Decimal(1)), Quoted(Decimal(-1), Decimal(-1)), Quoted(Decimal("NaN"), Decimal(1))]
)
def test_a_quote_that_is_no_price_is_unknown(quote: Quoted) -> None:
    """Half a quote, OpenRouter's -1, and NaN are no price."""
    assert None is price_from_quote(quote)


def test_repricing_prices_stored_tokens_and_keeps_what_the_reply_said() -> None:
    """New prices change what was computed from tokens, not what the gateway stated."""
    new = price_from_job({**USD_SPEC, "input_per_mtok": Decimal(4)})
    usage = Usage(input_tokens=1_000_000)
    assert Cost(4 * PICO, None, "job") == reprice(new, usage, Cost(2 * PICO, None, "job"))
    assert Cost(7, None, "reply") == reprice(new, usage, Cost(7, None, "reply"))


def test_repricing_leaves_what_a_reply_stated_as_it_was_to_the_last_digit() -> None:
    """In credits too, which come from what the reply wrote, and not from that, rounded."""
    text, rate = "0.0000000000014", Decimal("173.3")
    stored = charge(None, Usage(), reported_usd=text, credits_per_usd=rate)
    assert Cost(1, 243, "reply") == stored == reprice(None, Usage(), stored, rate, text)


_AMOUNT = st.decimals(0, 5000, places=6)
_SPEC = st.fixed_dictionaries(
    {"currency": st.just("credits"), "input_per_mtok": _AMOUNT, "output_per_mtok": _AMOUNT},
    optional=dict.fromkeys(
        ("cached_input_per_mtok", "cache_write_per_mtok", "cache_write_1h_per_mtok", "minimum_per_request"),
        _AMOUNT,
    ),
)
_TIERED = st.builds(
    lambda spec, tier: {**spec, "tiers": [{"above_input_tokens": 1000, **tier}]},
    _SPEC,
    st.fixed_dictionaries({"input_per_mtok": _AMOUNT, "output_per_mtok": _AMOUNT}),
)


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(_SPEC, _TIERED),
    st.one_of(_SPEC, _TIERED),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.sampled_from(get_args(CacheTtl)),
)
def test_a_hold_under_another_price_still_bounds_the_request(
    before: dict[str, Any], now: dict[str, Any], input_tokens: int, output_tokens: int, cache_ttl: CacheTtl
) -> None:
    """Its tokens are not recorded, and yet it is at least what they would hold today, or unknown."""
    old, new = price_from_job(before), price_from_job(now)
    was = hold(old, input_tokens, output_tokens, cache_ttl=cache_ttl)
    held = rebound(was, old, new).credits_pico
    bound = hold(new, input_tokens, output_tokens, cache_ttl=cache_ttl).credits_pico
    assert held is None or (bound is not None and held >= bound)


@settings(max_examples=100, deadline=None)
@given(st.one_of(_SPEC, _TIERED))
def test_a_frozen_price_reads_back(spec: dict[str, Any]) -> None:
    """What job.json says of a price is the price."""
    price = price_from_job(spec)
    assert price == price_from_text(price_as_text(price))
    assert difference(price, price_from_text(price_as_text(price))) is None


def test_a_changed_price_is_told_in_words() -> None:
    """Both prices, as a person writes them; an unknown one is said to be that."""
    old, new = price_from_job(CREDITS_SPEC), price_from_job({**CREDITS_SPEC, "output_per_mtok": Decimal(3500)})
    told = "input 500, cached input 50, output {} credits"
    assert (difference(old, new) or "").split(" -> ") == [
        told.format("3000").replace(" credits", ", minimum 0.01 credits"),
        told.format("3500").replace(" credits", ", minimum 0.01 credits"),
    ]
    assert (difference(None, new) or "").startswith("unknown -> input 500")
    assert difference(None, None) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(-(10**24), 10**24))
def test_decimal_text_is_exact(pico: int) -> None:
    """Text and pico-units are the same amount, without exponent or trailing zeros."""
    text = decimal_text(pico)
    assert Decimal(pico).scaleb(-12) == Decimal(text)
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


def test_price_as_text_is_what_a_person_would_write() -> None:
    """The numbers of the job file come back."""
    text = price_as_text(price_from_job(CREDITS_SPEC))
    assert ("500", "50", "3000", "0.01") == (
        text["input_per_mtok"],
        text["cached_input_per_mtok"],
        text["output_per_mtok"],
        text["minimum_per_request"],
    )
