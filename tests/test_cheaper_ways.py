"""The laws of the cheaper ways: the same answers, priced in each way to ask, by arithmetic that a hand can do."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import ENVIRON, job, simulator

import crun_batch
from crun_batch.console.estimates import estimate_text
from crun_batch.pricing.prices import price_from_job, price_from_list
from crun_batch.pricing.service_tiers import price_at
from crun_batch.pricing.ways import AnswerLength, Frame, Offer, PricedWay, cheapest, ways_of
from crun_batch.records import PICO
from crun_batch.reporting.read import read_report
from crun_batch.simulator.process import start_simulator
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.packing import instruction, packed_reply, packed_schema, packed_text

AT = datetime(2026, 11, 1, tzinfo=UTC)
OPENAI = "https://api.openai.com/v1"
MINI = price_from_job(
    {
        "currency": "credits",
        "input_per_mtok": Decimal(100),
        "cached_input_per_mtok": Decimal(10),
        "output_per_mtok": Decimal(600),
        "minimum_per_request": Decimal("0.01"),
    }
)
"""The price of README's job."""
FREE_OF_MINIMUM = price_from_job(
    {
        "currency": "credits",
        "input_per_mtok": Decimal(100),
        "cached_input_per_mtok": Decimal(10),
        "output_per_mtok": Decimal(600),
    }
)


def costs(texts: list[int], answer: AnswerLength, *offers: Offer) -> list[PricedWay]:
    return ways_of(texts, answer, offers, lambda pico: pico)


def alone(tokens: int, price: Any = MINI) -> Offer:
    return Offer("as it is", "", Frame(1, tokens), price)


@pytest.mark.parametrize(
    ("frame", "saves"),
    [
        (Frame(2, 85, 8, 16), -0.31),
        (Frame(10, 85, 8, 80), 0.03),
        (Frame(10, 60, 4, 36), 0.36),
    ],
)
def test_packing_by_hand(frame: Frame, saves: float) -> None:
    """20 rows of 20 tokens behind 30, answers of 2.08: alone each costs the minimum of 0.01, 0.2 together.

    Two rows as JSON: (85 + 2 x 28) x 0.0001 + round(16 + 4.16) x 0.0006 = 0.0261, ten times that is 31 % more.
    Ten rows as JSON: (85 + 280) x 0.0001 + 101 x 0.0006 = 0.0971. Ten lines: (60 + 240) x 0.0001 + 57 x 0.0006.
    """
    as_is, packed = costs([20] * 20, AnswerLength(2.08), alone(30), Offer("packed", "", frame, MINI))
    assert 20 * PICO // 100 == as_is.low
    assert saves == pytest.approx(float(packed.saving(as_is)[0] or 0), abs=0.006)


def test_a_cached_prefix_by_hand() -> None:
    """Ten requests of 1,500 + 300 tokens: the first pays all, nine read 1,500 at a tenth."""
    cached = Offer("cached", "", Frame(1, 1500, prefix_tokens=1500), FREE_OF_MINIMUM, is_cached=True)
    as_is, way = costs([300] * 10, AnswerLength(20), alone(1500, FREE_OF_MINIMUM), cached)
    assert 10 * (180_000_000_000 + 12_000_000_000) == as_is.low
    assert 180_000_000_000 + 9 * (30_000_000_000 + 15_000_000_000) + 10 * 12_000_000_000 == way.low


def test_a_written_prefix_costs_what_a_write_costs() -> None:
    """One write at 1.25 times the input, then reads; with one row it costs more than it saves."""
    price = price_from_job(
        {
            "currency": "usd",
            "input_per_mtok": Decimal(4),
            "output_per_mtok": Decimal(0),
            "cached_input_per_mtok": Decimal("0.4"),
            "cache_write_per_mtok": Decimal(5),
        }
    )
    frame = Frame(1, 1000, prefix_tokens=1000)
    offer = Offer("cached", "", frame, price, is_cached=True, writes_cache=True)
    [one] = costs([0], AnswerLength(0), offer)
    [three] = costs([0] * 3, AnswerLength(0), offer)
    assert (5 * 10**9, 5 * 10**9 + 2 * 4 * 10**8) == (one.low, three.low)


@settings(deadline=None)
@given(
    texts=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    rows=st.sampled_from([1, 2, 5, 10, 25, 50]),
    tokens=st.integers(0, 50),
)
def test_each_row_is_in_one_pack(texts: list[int], rows: int, tokens: int) -> None:
    """Without overhead and minimum, packing changes nothing but how often the prefix is paid."""
    packs = -(-len(texts) // rows)
    [way] = costs(texts, AnswerLength(tokens), Offer("", "", Frame(rows, 7), FREE_OF_MINIMUM))
    expected = (sum(texts) + 7 * packs) * 10**8 + len(texts) * tokens * 6 * 10**8
    assert expected == way.low


def test_nothing_is_named_under_a_tenth() -> None:
    """By what is expected; before the first answer at the end where it saves less."""
    as_is = PricedWay("as it is", "", 100, None, 1000)
    assert None is cheapest(as_is, [PricedWay("a", "", 50, None, 950), PricedWay("b", "", 91, None, 100)])
    assert "a" == getattr(
        cheapest(as_is, [PricedWay("a", "", 50, None, 900), PricedWay("b", "", 91, None, 100)]), "name", None
    )
    known = PricedWay("as it is", "", 100, 200, 1000)
    assert "a" == getattr(
        cheapest(known, [PricedWay("a", "", 50, 100, 1100), PricedWay("b", "", 1, 190, 1)]), "name", None
    )
    assert None is cheapest(as_is, [])


def test_a_batchs_price_is_the_lists() -> None:
    """Half of the standard price for gpt-5.4, from the day on which it was listed."""
    price = price_from_list("gpt-5.4", OPENAI, at=AT)
    batch = price_at(price, "batch")
    assert price is not None
    assert batch is not None
    assert (price.input_atto, price.output_atto) == (2 * batch.input_atto, 2 * batch.output_atto)


def test_what_stands_around_packed_rows() -> None:
    """Short numbers and nothing else; the schema asks for exactly so many."""
    assert "[1] a\n\n[2] b" == packed_text(["a", "b"])
    assert "1 x\n2 y" == packed_reply(["x", "y"], "lines")
    assert '{"answers":[{"n":1,"answer":"x"}]}' == packed_reply(["x"], "json")
    answers = packed_schema(3)["properties"]["answers"]
    assert (3, 3) == (answers["minItems"], answers["maxItems"])


def told(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """The estimate of a job against the simulator."""
    with simulator() as at:
        return crun_batch.estimate(job(at, folder, **keys), table=pl.DataFrame(rows), environ=ENVIRON)


def test_an_estimate_counts_the_jobs_own_texts(tmp_path: Path) -> None:
    """40 short rows behind 300 words: lines of 25 rows save most; the amounts are those of the tokens sent."""
    system = "Consider every word with care. " * 50
    rows = [{"id": n, "text": f"Is {n} even?"} for n in range(40)]
    document = told(
        tmp_path,
        rows,
        model="gpt-5.4-mini",
        prompt={"system": system, "user": "{{ text }}"},
        params={"max_output_tokens": 4},
    )
    [ways] = document["ways"]
    assert document["cost_credits"]["low"] == ways["as_it_is"]["low"]
    assert document["cost_credits"]["high"] == ways["as_it_is"]["high"]
    named = {way["way"]: way for way in ways["ways"]}
    assert {f"{rows} rows in one request as {form}" for rows in (2, 5, 10, 25) for form in ("json", "lines")} <= {
        *named
    }
    assert "50 rows in one request as lines" not in named
    count = token_counter("gpt-5.4-mini").count
    fixed = 3 + 4 + 4 + count(f"{system}\n\n{instruction(10, 'lines')}")
    item = round(count(packed_text([""] * 10)) / 10)
    own = [count(row["text"]) for row in rows]
    output = 4 * (count(packed_reply(["x"] * 10, "lines")) - 10)
    expected = (4 * fixed + 40 * item + sum(own)) * Decimal("0.0001") + (output + 40) * Decimal("0.0006")
    assert expected == pytest.approx(
        Decimal(named["10 rows in one request as lines"]["cost"]["low"]), rel=Decimal("0.01")
    )
    assert "25 rows in one request as lines" in (ways["cheapest"] or {})["way"]
    assert "cheaper" in estimate_text(document, 80)


@pytest.mark.parametrize(
    "keys",
    [
        {"prompt": {"system": "{{ text }}", "user": "{{ text }}"}},
        {
            "params": {
                "max_output_tokens": 9,
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            }
        },
        {"params": {"max_output_tokens": 9, "stop": ["."]}},
        {"endpoint": {"protocol": "completions"}},
        {"prompt": {"turns": ["{{ text }}", "and?"]}},
    ],
)
def test_what_cannot_be_packed_is_not_priced_so(tmp_path: Path, keys: dict[str, Any]) -> None:
    """A system prompt of its own, tools, stop sequences, a conversation: what `pack` would refuse."""
    rows = [{"id": n, "text": f"Is {n} even?"} for n in range(10)]
    ways = told(tmp_path, rows, **keys)["ways"]
    assert [] == [way["way"] for told_ in ways for way in told_["ways"] if "rows in one request" in way["way"]]


def test_a_long_prefix_is_priced_as_cached(tmp_path: Path) -> None:
    """From 1,024 tokens on, with the price of cached input; the template's own beginning belongs to it."""
    rows = [{"id": n, "text": f"Number {n}"} for n in range(20)]
    for words, is_priced in ((2_000, True), (300, False)):
        document = told(tmp_path, rows, prompt={"user": "a b " * (words // 2) + "{{ text }}"})
        named = [way["way"] for way in document["ways"][0]["ways"]]
        assert is_priced == ("a cached prefix" in named)


LONG_GUIDE = "Consider every word with care. " * 300
CACHED: dict[str, Any] = {
    "prompt": {"system": LONG_GUIDE, "user": "{{ text }}", "cache": "auto"},
    "params": {"max_output_tokens": 4},
}


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_cached_job_is_told_what_its_cache_does(concurrency: int, tmp_path: Path) -> None:
    """As it is means with the cache: what is read of the input, what that saves; and it is what a run costs.

    A key for each place in flight has its own first request, which pays for the prefix.
    """
    rows = [{"id": n, "text": f"Is {n} even?"} for n in range(40)]
    limits = {"concurrency": concurrency}
    with simulator(cached_share=1.0) as at:
        spec = job(at, tmp_path, limits=limits, **CACHED)
        document = crun_batch.estimate(spec, table=pl.DataFrame(rows), environ=ENVIRON)
        [ways] = document["ways"]
        cache = ways["cache"]
        plain = crun_batch.estimate(
            job(at, tmp_path / "plain", **{**CACHED, "prompt": {**CACHED["prompt"], "cache": "off"}}),
            table=pl.DataFrame(rows),
            environ=ENVIRON,
        )
    assert cache["without"] == plain["ways"][0]["as_it_is"]
    whole = document["variants"][0]["input_tokens"]
    assert cache["read_share"] == pytest.approx(cache["prefix_tokens"] * (40 - concurrency) / whole, rel=1e-3)
    saved = (Decimal(cache["without"]["low"]) - Decimal(ways["as_it_is"]["low"])) * 10**6
    assert saved == (500 - 50) * cache["prefix_tokens"] * (40 - concurrency)
    assert document["cost_credits"]["low"] == cache["without"]["low"], "which no provider promises"
    said = " ".join(estimate_text(document, 80).split())
    assert (
        f"of the input is read from the provider's cache, if it keeps the {cache['prefix_tokens']:,} tokens"
        in said
    )
    assert not [way for way in ways["ways"] if "prompt: {cache" in (way["job"] or "")]


def test_what_a_cached_run_costs_is_what_its_estimate_said(tmp_path: Path) -> None:
    """Through the simulator, which keeps whatever it has seen: within two percent of the ledger."""
    table = pl.DataFrame({"id": range(40), "text": [f"Is {n} even?" for n in range(40)]})
    price = {"currency": "credits", "input_per_mtok": 500, "cached_input_per_mtok": 50, "output_per_mtok": 3000}
    models = {"gpt-5.4": {**price, "cache_write_per_mtok": 500, "minimum_per_request": "0.01"}}
    with start_simulator(tokenizer="auto", balance_credits="1000", cached_share=1.0) as at:
        spec = job(at, tmp_path, limits={"concurrency": 1}, prices={"models": models}, **CACHED)
        [ways] = crun_batch.estimate(spec, table=table, environ=ENVIRON)["ways"]
        done = crun_batch.run(spec, table=table, environ=ENVIRON, handle_signals=False)
        assert done.cost_credits == Decimal(at.ledger()["charge_credits"])
        data = read_report(done.directory)
    assert Decimal(ways["as_it_is"]["high"]) == pytest.approx(done.cost_credits, rel=Decimal("0.02"))
    assert data.cache is not None
    assert data.cache.cached_tokens / data.cache.input_tokens == pytest.approx(
        ways["cache"]["read_share"], abs=0.01
    )


def test_a_cache_that_costs_more_than_it_saves_says_so(tmp_path: Path) -> None:
    """One row: its prefix is written at 1.25 times the input, and nobody reads it."""
    models = {
        "claude-sonnet-4-5": {
            "currency": "credits",
            "input_per_mtok": 600,
            "cached_input_per_mtok": 60,
            "cache_write_per_mtok": 750,
            "output_per_mtok": 3000,
            "minimum_per_request": 0,
        }
    }
    keys = {"model": "claude-sonnet-4-5", "endpoint": {"protocol": "messages"}, "prices": {"models": models}}
    prompt = {**CACHED["prompt"], "system": LONG_GUIDE * 4}
    document = told(tmp_path, [{"id": 1, "text": "Is 1 even?"}], **{**CACHED, **keys, "prompt": prompt})
    [ways] = document["ways"]
    assert ways["cache"]["saves"]["low"] == pytest.approx(-0.25, abs=0.01)
    assert 0 == ways["cache"]["read_share"]
    assert "which costs 25 % more" in " ".join(estimate_text(document, 80).split())


def test_a_job_that_packs_is_told_what_else_it_could_be(tmp_path: Path) -> None:
    """Each row alone, more rows, the other format, another tier; two rows as JSON cost more than one alone."""
    rows = [{"id": n, "text": f"Is {n} even?"} for n in range(60)]
    keys = {"model": "gpt-5.4-mini", "params": {"max_output_tokens": 4}, "pack": {"rows": 2, "format": "json"}}
    document = told(tmp_path, rows, prompt={"system": "Answer.", "user": "{{ text }}"}, **keys)
    [ways] = document["ways"]
    named = {way["way"]: way for way in ways["ways"]}
    assert "2 rows in one request as json" not in named
    assert named["each row alone"]["saves"]["low"] > 0
    assert "pack: null" == named["each row alone"]["job"]
    assert float(document["cost_credits"]["low"]) == pytest.approx(float(ways["as_it_is"]["low"]), rel=0.05)
    assert ways["cheapest"] is not None


EVEN = {"type": "object", "properties": {"even": {"type": "boolean"}}, "required": ["even"]}


@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_answers_with_a_schema_are_priced_in_packs_as_they_would_be_sent(protocol: str, tmp_path: Path) -> None:
    """As JSON alone; what the way is said to cost is what the job's estimate says that is written so, and back."""
    rows = [{"id": n, "text": f"Is {n} even?"} for n in range(60)]
    models = {
        "gpt-5.4-mini": {"currency": "credits", "input_per_mtok": 100, "output_per_mtok": 600},
    }
    keys = {
        "model": "gpt-5.4-mini",
        "endpoint": {"protocol": protocol},
        "prompt": {"system": "Consider every word with care. " * 40, "user": "{{ text }}"},
        "params": {"max_output_tokens": 12},
        "output_schema": EVEN,
        "prices": {"models": models},
    }
    alone = told(tmp_path, rows, **keys)
    packed = told(tmp_path, rows, **keys, pack={"rows": 10, "format": "json"})
    there = {way["way"]: way for way in alone["ways"][0]["ways"]}
    back = {way["way"]: way for way in packed["ways"][0]["ways"]}
    assert not [way for way in (*there, *back) if "as lines" in way]
    ten = there["10 rows in one request as json"]
    assert float(packed["cost_credits"]["low"]) == pytest.approx(float(ten["cost"]["low"]), rel=0.02)
    assert alone["ways"][0]["as_it_is"] == back["each row alone"]["cost"]
    assert packed["ways"][0]["as_it_is"] == ten["cost"]


def test_flex_and_batch_are_priced_where_their_price_is_known(tmp_path: Path) -> None:
    """The job's table names them; the cheapest says what to write."""
    models = {
        "gpt-5.4": {
            "currency": "credits",
            "input_per_mtok": 500,
            "output_per_mtok": 3000,
            "minimum_per_request": 0,
            "service_tiers": {"flex": {"input_per_mtok": 250, "output_per_mtok": 1500}},
        }
    }
    rows = [{"id": n, "text": f"Number {n}"} for n in range(3)]
    document = told(tmp_path, rows, prices={"models": models}, params={"max_output_tokens": 9, "tools": []})
    [ways] = document["ways"]
    best = ways["cheapest"]
    assert "params: {service_tier: flex}" == best["job"] or "the flex tier" in best["way"]
    flex = next(way for way in ways["ways"] if way["way"] == "the flex tier")
    assert {"low": 0.5, "expected": None, "high": 0.5} == flex["saves"]
    assert not any("batch" in way["way"] for way in ways["ways"])


BATCHES: dict[str, tuple[dict[str, Any], list[str | None]]] = {
    "a share of the price": ({}, ["lane: batch"]),
    "a protocol whose batches are not sent": (
        {"endpoint": {"protocol": "messages"}, "batch": {"form": "openai"}},
        [None],
    ),
    "replies as streams": ({"endpoint": {"stream": True}}, [None]),
    "a job that goes that way": ({"lane": "batch"}, []),
}
LANES = ("batch", "batch-then-live")


@pytest.mark.parametrize("case", BATCHES)
def test_batches_are_named_where_the_job_can_go_there(case: str, tmp_path: Path) -> None:
    """With the key that asks for them, and only where it is not refused; a job in batches is told of none."""
    keys, asks = BATCHES[case]
    price = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    prices = {"models": {"gpt-5.4": price}, "batch_share": 0.25}
    rows = [{"id": n, "text": f"Number {n}"} for n in range(3)]
    document = told(tmp_path, rows, prices=prices, params={"max_output_tokens": 9, "tools": []}, **keys)
    found = [way for one in document["ways"] for way in one["ways"] if way["way"] == "the batch tier"]
    assert asks == [way["job"] for way in found]
    assert [0.75] * len(asks) == [way["saves"]["low"] for way in found]


@pytest.mark.parametrize("lane", LANES)
def test_a_job_in_batches_is_told_what_it_costs_live(lane: str, tmp_path: Path) -> None:
    """At the live price, several rows in one request too, where these save more than the batch does."""
    price = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    prices = {"models": {"gpt-5.4": price}, "batch_share": 0.5}
    keys = {
        "prices": prices,
        "params": {"max_output_tokens": 2},
        "prompt": {"system": "a b c " * 150, "user": "{{ text }}"},
    }
    rows = [{"id": n, "text": f"Number {n}"} for n in range(50)]
    live, batched = told(tmp_path, rows, **keys), told(tmp_path, rows, **keys, lane=lane)
    there = {way["way"]: way for way in live["ways"][0]["ways"]}
    here = {way["way"]: way for way in batched["ways"][0]["ways"]}
    assert live["ways"][0]["as_it_is"] == here["live"]["cost"]
    assert "lane: live" == here["live"]["job"]
    lines = "25 rows in one request as lines"
    assert there[lines]["cost"] == here[f"{lines}, live"]["cost"]
    assert "pack: {rows: 25, format: lines}; lane: live" == here[f"{lines}, live"]["job"]
    assert all("live" in way for way in here)
    assert "as lines, live" in batched["ways"][0]["cheapest"]["way"]
    assert batched["ways"][0]["as_it_is"] == there["the batch tier"]["cost"]


def test_an_unknown_price_tells_nothing(tmp_path: Path) -> None:
    """No way is cheaper than what is not known."""
    document = told(tmp_path, [{"id": 1, "text": "x"}], prices={})
    assert [] == document["ways"]
