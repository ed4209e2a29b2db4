"""The laws of service tiers: the tier that serves a request is the one that is estimated, held for and billed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bill_kit import MODEL, PLAIN, PRICE, Bench, gateway, sums_of_attempts
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import wait_until

from crun_batch import InputError, RefusedToStart, Run
from crun_batch.pricing.costs import charge, hold
from crun_batch.pricing.prices import price_as_text, price_from_job, price_from_list
from crun_batch.pricing.repricing import difference, price_from_text, rebound
from crun_batch.pricing.service_tiers import price_at, prices_by_request
from crun_batch.records import Hold, Usage, decimal_text
from crun_batch.simulator import SimulatorProcess

FLEX = {
    "input_per_mtok": "300",
    "cached_input_per_mtok": "30",
    "cache_write_per_mtok": "375",
    "output_per_mtok": "1500",
}
PRIORITY = {key: str(4 * Decimal(value)) for key, value in FLEX.items()}
TIERED = {**PRICE, "service_tiers": {"flex": FLEX, "priority": PRIORITY}}
"""Half the price, and twice."""


def exact(prices: dict[str, Any]) -> dict[str, Any]:
    """As a job file's prices are read: amounts are exact."""
    return {
        key: exact(value) if isinstance(value, dict) else value if key == "currency" else Decimal(value)
        for key, value in prices.items()
    }


SPEC = exact(TIERED)
AT = datetime(2026, 11, 1, tzinfo=UTC)
OPENAI = "https://api.openai.com/v1"


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatorProcess]:
    model = {key: value for key, value in TIERED.items() if key != "currency"}
    with gateway(models={MODEL: model}) as simulator:
        yield simulator


@pytest.fixture
def simulator(shared: SimulatorProcess) -> SimulatorProcess:
    shared.change(**PLAIN, served_tiers={}, names_tier=True)
    return shared


def assert_exact(bench: Bench, run: Run) -> None:
    """Summary = sum over attempts = ledger, to the last digit."""
    assert {bench.charged} == {Decimal(run.summary["cost_credits"])} | sums_of_attempts(run)
    assert [] == run.verify(data=True)


@pytest.mark.parametrize(
    ("tier", "credits"),
    [
        (None, 600),
        ("default", 600),
        ("standard", 600),
        ("on_demand", 600),
        ("FLEX", 300),
        ("priority", 1200),
        ("scale", None),
        ("batch", None),
    ],
)
def test_a_request_is_charged_as_at_the_tier_that_served_it(tier: str | None, credits: int | None) -> None:
    """A tier without a price of its own has none: never the standard one."""
    cost = charge(price_from_job(SPEC), Usage(10**6, 0, 0, 0, 0, tier)).credits_pico
    assert (None if credits is None else credits * 10**12) == cost


def test_a_tier_without_a_minimum_has_the_models() -> None:
    """The least charge is the gateway's, whichever tier serves."""
    usage = Usage(1, 0, 0, 1, 0, "flex")
    assert 10**10 == charge(price_from_job(SPEC), usage).credits_pico


@pytest.mark.parametrize(
    ("asked", "held"),
    [(None, 600), ("default", 600), ("flex", 600), ("priority", 1200), ("auto", 1200), ("scale", None)],
)
def test_a_hold_bounds_each_tier_that_may_serve(asked: str | None, held: int | None) -> None:
    """Who asks for flex may be served at the standard price, who asks for auto at any."""
    found = [hold(price, 10**6, 0) for price in prices_by_request(price_from_job(SPEC), asked)]
    amounts = [one.credits_pico for one in found]
    assert (None if held is None else held * 10**12 * 5 // 4) == (None if None in amounts else max(amounts))  # type: ignore[type-var]


def test_list_prices_know_the_tiers_of_their_provider() -> None:
    """gpt-5.4 at OpenAI: flex is half of the standard price, priority more; what is not listed is unknown."""
    price = price_from_list("gpt-5.4", OPENAI, at=AT)
    assert price is not None
    flex, priority = price_at(price, "flex"), price_at(price, "priority")
    assert flex is not None
    assert priority is not None
    assert (price.input_atto, price.output_atto) == (2 * flex.input_atto, 2 * flex.output_atto)
    assert priority.input_atto > price.input_atto
    assert None is price_at(price, "scale")
    assert price is price_at(price, "default")


def test_before_its_price_was_listed_a_tier_has_none() -> None:
    """A list that says from when on a tier's price holds says nothing of the time before."""
    price = price_from_list("gpt-5.4", OPENAI, at=AT.replace(year=2026, month=9))
    assert price is not None
    assert None is price_at(price, "flex")


def test_tiers_survive_the_way_through_job_json() -> None:
    """What is frozen into a run is what was used, and its changes are told by the tier's name."""
    price = price_from_job(SPEC)
    again = price_from_text(json.loads(json.dumps(price_as_text(price))))
    assert price == again
    other = price_from_job(
        {**SPEC, "service_tiers": {"flex": {**SPEC["service_tiers"]["flex"], "output_per_mtok": Decimal(1)}}}
    )
    told = difference(price, other) or ""
    assert "at flex input 300" in told
    assert "at priority" in told
    assert None is difference(price, again)


@settings(deadline=None)
@given(
    tokens=st.integers(1, 10**6),
    output=st.integers(0, 10**5),
    rates=st.tuples(*[st.integers(1, 9)] * 4),
    asked=st.sampled_from([None, "flex"]),
)
def test_a_hold_under_another_price_still_bounds_the_cost(
    tokens: int, output: int, rates: tuple[int, ...], asked: str | None
) -> None:
    """Whichever tier serves it in the end."""
    before = price_from_job(SPEC)
    now = price_from_job(
        {
            **SPEC,
            "input_per_mtok": 100 * rates[0],
            "output_per_mtok": 100 * rates[1],
            "service_tiers": {
                "flex": {
                    "input_per_mtok": 100 * rates[2],
                    "output_per_mtok": 100 * rates[3],
                    "cache_write_per_mtok": 0,
                }
            },
        }
    )
    held = [
        hold(price, tokens, output, cache_ttl="5m").credits_pico or 0 for price in prices_by_request(before, asked)
    ]
    grown = rebound(Hold(None, max(held)), before, now, None, asked).credits_pico
    for tier in ("default", asked):
        usage = Usage(tokens, 0, 0, output, 0, tier)
        assert (charge(now, usage).credits_pico or 0) <= (grown or 0)


def billed_at(run: Run) -> list[str | None]:
    """The tiers of the answered attempts."""
    return sorted(
        {*run.sql("select service_tier as t from attempts where outcome = 'done'")["t"].to_pylist()}, key=str
    )


@pytest.mark.parametrize(
    ("protocol", "stream"),
    [
        ("chat", False),
        ("chat", True),
        ("responses", False),
        ("responses", True),
        ("messages", False),
        ("messages", True),
        ("completions", False),
    ],
)
def test_flex_costs_what_the_ledger_says_in_every_protocol(
    simulator: SimulatorProcess, tmp_path: Path, protocol: str, stream: bool
) -> None:
    """Estimated, held for and billed at the tier's price."""
    bench = Bench(
        tmp_path,
        simulator,
        rows=12,
        endpoint={"protocol": protocol, "stream": stream},
        params={"service_tier": "flex"},
        prices={"models": {MODEL: TIERED}},
    )
    low = Decimal(bench.estimate()["cost_credits"]["low"])
    run = bench.run()
    assert_exact(bench, run)
    assert ["flex"] == billed_at(run)
    assert 0 < low <= bench.charged
    assert run.sql("select count(*) as n from attempts where cost_credits > held_credits")["n"][0].as_py() == 0
    half = run.sql(
        "select sum(greatest(0.01, (input_tokens - cached_input_tokens - cache_write_tokens) * 0.0003 "
        "+ cached_input_tokens * 0.00003 + cache_write_tokens * 0.000375 + output_tokens * 0.0015)) as c "
        "from attempts"
    )["c"][0].as_py()
    assert half == bench.charged


@pytest.mark.parametrize(
    ("served", "credits"), [("default", "standard"), ("priority", "priority"), ("scale", None)]
)
def test_the_tier_that_the_reply_names_is_billed(
    simulator: SimulatorProcess, tmp_path: Path, served: str, credits: str | None
) -> None:
    """Whatever was asked for; one that no price is known for costs null, and no hold bounds it."""
    simulator.change(served_tiers={"flex": served})
    bench = Bench(tmp_path, simulator, rows=8, params={"service_tier": "flex"}, prices={"models": {MODEL: TIERED}})
    run = bench.run()
    assert [served] == billed_at(run)
    if credits is not None:
        assert_exact(bench, run)
        return
    assert (None, 8) == (run.cost_credits, run.summary["unpriced_attempts"])
    assert {None} == set(run.results().collect()["cost_credits"])
    assert [0] == run.sql("select count(held_credits) as n from attempts")["n"].to_pylist()
    assert [] == run.verify(data=True)


def test_a_budget_ends_where_an_unpriced_tier_serves(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """What was held for the tiers that it has prices for does not bound another's."""
    simulator.change(served_tiers={"flex": "scale"})
    keys: dict[str, Any] = {"params": {"service_tier": "flex"}, "prices": {"models": {MODEL: TIERED}}}
    bench = Bench(
        tmp_path, simulator, rows=40, limits={"concurrency": 2}, budget={"max_cost_credits": "50"}, **keys
    )
    run = bench.run()
    assert (4, True) == (run.summary["exit_code"], run.summary["attempts"] < 40)
    assert "the service tier 'scale'" in run.summary["stop_reason"]


def test_a_reply_that_names_no_tier_is_billed_as_asked(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """The price table of the job says what that costs here."""
    simulator.change(names_tier=False)
    bench = Bench(tmp_path, simulator, rows=8, params={"service_tier": "flex"}, prices={"models": {MODEL: TIERED}})
    run = bench.run()
    assert ["flex"] == billed_at(run)
    assert_exact(bench, run)


def test_an_account_that_is_served_at_another_tier_is_billed_so_without_asking(
    simulator: SimulatorProcess, tmp_path: Path
) -> None:
    """A project may have priority as its default: the reply says so."""
    simulator.change(served_tiers={"auto": "priority"})
    bench = Bench(tmp_path, simulator, rows=8, prices={"models": {MODEL: TIERED}})
    run = bench.run()
    assert ["priority"] == billed_at(run)
    assert_exact(bench, run)


def test_an_unpriced_tier_starts_under_no_budget(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Nothing could be reserved; the key that is missing is named, and nothing is sent."""
    bench = Bench(tmp_path, simulator, params={"service_tier": "flex"}, budget={"max_cost_credits": "5"})
    notes = bench.estimate()["variants"][0]["notes"]
    assert any(f"prices.models.{MODEL}.service_tiers.flex" in note for note in notes)
    with pytest.raises(RefusedToStart, match="unknown"):
        bench.run()
    assert 0 == bench.answered


def test_tiers_can_be_an_axis(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Each variant has the price of its tier; bodies from a table name their own."""
    bench = Bench(
        tmp_path,
        simulator,
        rows=6,
        prices={"models": {MODEL: TIERED}},
        sweep={"params.service_tier": ["default", "flex", "priority"]},
    )
    run = bench.run()
    assert_exact(bench, run)
    assert ["default", "flex", "priority"] == billed_at(run)


def test_bodies_name_their_own_tier(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """As all else in a body that is sent as it is."""
    bodies = [
        json.dumps(
            {
                "model": MODEL,
                "max_tokens": 40,
                "messages": [{"role": "user", "content": f"{n}?"}],
                "service_tier": tier,
            }
        )
        for n, tier in enumerate(("flex", "default", "priority"))
    ]
    bench = Bench(tmp_path, simulator, params=None, model=None, prices={"models": {MODEL: TIERED}})
    pl.DataFrame({"body": bodies}).write_parquet(tmp_path / "bodies.parquet")
    bench.write(prompt=None, input=None)
    bench.write(
        prompt={"body_column": "body"}, input={"table": "bodies.parquet"}, budget={"max_cost_credits": "9"}
    )
    run = bench.run()
    assert_exact(bench, run)
    assert ["default", "flex", "priority"] == billed_at(run)


def test_a_kill_changes_no_tier(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Replies that nobody had read are billed at their tier; those that never came keep its hold."""
    simulator.change(latency_seconds=0.05, names_tier=False)
    bench = Bench(
        tmp_path, simulator, rows=60, params={"service_tier": "flex"}, prices={"models": {MODEL: TIERED}}
    )
    process = bench.start()
    try:
        wait_until(lambda: bench.answered > 12, seconds=150)
    finally:
        process.kill()
        process.communicate()
    simulator.change(latency_seconds=0.0)
    run = bench.run()
    bill = run.summary["bill_credits"]
    assert Decimal(bill["low"]) <= bench.charged <= Decimal(bill["high"])
    assert {"flex"} == {*run.sql("select service_tier as t from attempts")["t"].to_pylist()}
    assert [] == run.verify(data=True)


def test_corrected_prices_price_each_attempt_at_its_tier(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Stored tokens at stored tiers, whether sealed or in a live segment."""
    simulator.change(served_tiers={"flex": "priority"})
    wrong = {**TIERED, "service_tiers": {"flex": FLEX, "priority": FLEX}}
    bench = Bench(tmp_path, simulator, rows=8, params={"service_tier": "flex"}, prices={"models": {MODEL: wrong}})
    first = bench.run()
    assert (first.cost_credits or 0) < bench.charged
    bench.write(prices={"models": {MODEL: TIERED}})
    assert_exact(bench, bench.run(correct_prices=True))


def test_mistakes_in_tiers_are_named(tmp_path: Path, simulator: SimulatorProcess) -> None:
    """A tier is a whole price."""
    bench = Bench(
        tmp_path,
        simulator,
        prices={"models": {MODEL: {**PRICE, "service_tiers": {"flex": {"input_per_mtok": 1}}}}},
    )
    with pytest.raises(InputError, match=r"service_tiers\.flex\.output_per_mtok"):
        bench.run()


def test_the_price_in_words() -> None:
    """An amount is told as it was written."""
    price: Any = price_as_text(price_from_job(SPEC))
    assert ("300", decimal_text(10**10)) == (
        price["service_tiers"]["flex"]["input_per_mtok"],
        price["service_tiers"]["flex"]["minimum_per_request"],
    )
