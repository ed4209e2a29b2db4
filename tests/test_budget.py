"""The laws of money: reserved before sending, settled after, never over the cap."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measurements.budget_simulations import simulate

from crun_batch.load.job.job import Job
from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.pricing.may_start import Needs, Preflight, may_start, rows_that_fit, used_up
from crun_batch.pricing.projection import reserved_pico
from crun_batch.records import PICO, Cost, Hold, Price, ProtocolName
from crun_batch.session.tickets import Holds
from crun_batch.workload.request import Request
from crun_batch.workload.target import Target


def test_random_jobs_never_overshoot_and_use_their_budget() -> None:
    """0 over the cap; what stays is less than the largest hold (10,000: measurements/budget_simulations.py)."""
    results = [simulate(seed) for seed in range(200)]
    assert 0 == sum(result.overshoot_pico for result in results)
    assert all(result.unused_below_largest_hold for result in results)
    assert min(result.used_share for result in results) >= 0.99


moves = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "unknown", "release"]), st.integers(0, 300), st.floats(0, 1)),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(moves, st.integers(0, 1000), st.integers(0, 5000))
def test_spent_and_held_stay_under_both_caps(moves: list[tuple[str, int, float]], usd: int, credits_: int) -> None:
    """Any order of reservations and ends, in two units at once, at every moment."""
    book, flying = Reservations(Budget(usd, credits_)), []
    for move, amount, share in moves:
        hold = Hold(amount, amount * 7)
        if move == "reserve":
            fits = book.can_hold(hold)
            assert fits == book.reserve(hold)
            flying += [hold] if fits else []
        elif flying:
            held = flying.pop(0)
            cost = int((held.usd_pico or 0) * share)
            ends = {"settle": Cost(cost, cost * 7), "unknown": Cost(), "release": Cost(0, 0)}
            book.settle(held, ends[move])
        for purse, cap in ((book.usd, usd), (book.credits, credits_)):
            assert 0 <= purse.spent_pico + purse.held_pico + purse.unknown_pico <= cap
            assert 0 == purse.overrun_pico
    assert sum(hold.usd_pico or 0 for hold in flying) == book.usd.held_pico


def test_what_has_no_price_in_a_unit_is_not_held_as_nothing_there() -> None:
    """Nothing is held before the first request, and again when it has ended; what nothing bounds is unknown."""
    book = Reservations(Budget())
    assert (0, 0) == (reserved_pico(book.usd), reserved_pico(book.credits))
    assert book.reserve(Hold(None, 7))
    assert (None, 7) == (reserved_pico(book.usd), reserved_pico(book.credits))
    book.settle(Hold(None, 7), Cost(None, 5))
    assert (None, 0) == (reserved_pico(book.usd), reserved_pico(book.credits))


def test_an_unknown_outcome_keeps_its_hold() -> None:
    """It may have been billed: the money stays set aside."""
    book = Reservations(Budget(100))
    assert book.reserve(Hold(60))
    book.settle(Hold(60), Cost())
    assert not book.can_hold(Hold(41))
    assert book.can_hold(Hold(40))


def test_a_released_hold_is_free_again() -> None:
    """Never sent, or refused: nothing was spent."""
    book = Reservations(Budget(100))
    assert book.reserve(Hold(100))
    book.release(Hold(100))
    assert (0, 0, 100) == (book.usd.spent_pico, book.usd.held_pico, book.usd.free_pico)


def test_a_cost_above_its_hold_is_recorded_as_overrun() -> None:
    """The gateway charged more than the bound: counted in full, and named."""
    book = Reservations(Budget(100))
    assert book.reserve(Hold(10))
    book.settle(Hold(10), Cost(15))
    assert (15, 5, 85) == (book.usd.spent_pico, book.usd.overrun_pico, book.usd.free_pico)


def test_a_capped_unit_has_no_room_for_what_nothing_bounds() -> None:
    """An unknown hold does not pass a cap; without a cap it does."""
    assert not Reservations(Budget(max_usd_pico=100)).can_hold(Hold(None, 5))
    assert Reservations(Budget(max_credits_pico=100)).can_hold(Hold(None, 5))
    assert Reservations(Budget()).can_hold(Hold())


def test_earlier_sessions_count() -> None:
    """A run that goes on has spent what it spent, and still holds what is unknown."""
    book = Reservations(Budget(100), spent=Cost(50), unknown=Hold(20))
    assert not book.can_hold(Hold(31))
    assert book.can_hold(Hold(30))


def test_the_balance_that_must_stay_stays() -> None:
    """keep_credits: what may be spent from a reading on is balance - keep, holds in flight on top."""
    book = Reservations(Budget())
    assert book.reserve(Hold(None, 30))
    book.observe_balance(100, "credits", keep_pico=40)
    assert book.can_hold(Hold(None, 30))
    assert not book.can_hold(Hold(None, 31))
    book.settle(Hold(None, 30), Cost(None, 10))
    assert book.can_hold(Hold(None, 50))
    assert not book.can_hold(Hold(None, 51))
    assert book.can_hold(Hold())
    book.observe_balance(40, "credits", keep_pico=40)
    assert not book.can_hold(Hold())


@pytest.mark.parametrize(
    ("cap", "told"),
    [
        (None, "what the balance has, less budget.keep_credits, is used up: 10 credits are left, and one"),
        (500, "what the balance has, less budget.keep_credits, is used up: 10 credits are left, and one"),
        (35, "30 credits spent, of the 35 credits in budget.max_cost_credits, and one request may cost up to 30"),
    ],
)
def test_what_has_run_out_is_told(cap: int | None, told: str) -> None:
    """A cap with room is not to be raised where it is the balance that has none."""
    budget = Budget(max_credits_pico=None if cap is None else cap * PICO)
    book, hold = Reservations(budget), Hold(None, 30 * PICO)
    book.observe_balance(60 * PICO, "credits", keep_pico=20 * PICO)
    assert book.reserve(hold)
    book.settle(hold, Cost(None, 30 * PICO))
    assert not book.reserve(hold)
    assert told in used_up(Reservations(budget, spent=Cost(None, 30 * PICO)), book)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 4)), max_size=60), st.integers(0, 20)
)
def test_a_balance_read_at_any_moment_allows_all_of_it_and_no_more(
    requests: list[tuple[int, int, int]], keep: int
) -> None:
    """Readings between requests in flight, billed or not yet, neither free nor take away what is there."""
    balance, book = 100, Reservations(Budget())
    book.observe_balance(balance, "credits", keep_pico=keep)
    flying: list[tuple[int, int]] = []
    for hold, cost, reading in requests:
        if book.reserve(Hold(None, hold)):
            flying.append((hold, min(cost, hold)))
            balance -= flying[-1][1]
        if reading == 1:
            book.observe_balance(balance, "credits", keep_pico=keep)
        if reading >= 2 and flying:
            settled_hold, settled_cost = flying.pop(0)
            book.settle(Hold(None, settled_hold), Cost(None, settled_cost))
    for settled_hold, settled_cost in flying:
        book.settle(Hold(None, settled_hold), Cost(None, settled_cost))
    assert balance >= keep
    assert balance - keep == book.credits.free_pico


def test_a_balance_that_others_spend_from_or_that_lags_or_is_topped_up() -> None:
    """Less than our own requests explain: what is read counts. More, without a rise: it lags. A rise: a top-up."""
    book = Reservations(Budget())
    book.observe_balance(100, "credits")
    assert book.reserve(Hold(None, 10))
    book.settle(Hold(None, 10), Cost(None, 10))
    book.observe_balance(100, "credits")
    assert 90 == book.credits.free_pico
    book.observe_balance(50, "credits")
    assert 50 == book.credits.free_pico
    book.observe_balance(250, "credits")
    assert 250 == book.credits.free_pico


def start(needs: dict[Any, Needs], budget: Budget = Budget(), **more: Any) -> Preflight:  # noqa: B008
    options: dict[str, Any] = {"balance": None, "credits_mode": "require"} | more
    return may_start(needs, Reservations(budget), **options)


def needs_of(low: int | None, expected: int | None = None, rows: int = 100, finished: int = 0) -> dict[Any, Needs]:
    need = Needs(rows, finished, low, expected)
    return {"usd": need, "credits": need}


def test_enough_money_starts() -> None:
    """Exactly enough is enough."""
    found = start(needs_of(5 * PICO), Budget(5 * PICO, 5 * PICO), balance=(Decimal(5), "credits"))
    assert Preflight(True) == found


def test_a_cap_below_the_expected_cost_names_the_limit_that_fits() -> None:
    """10 expected for 100 rows, 5 in the budget: 50 rows fit, and the finished ones come before them."""
    found = start(needs_of(PICO, 10 * PICO, finished=20), Budget(5 * PICO))
    assert (False, 70) == (found.may_start, found.limit)
    assert "--limit 70" in found.sentence
    assert "--until-budget" in found.sentence


def test_without_a_pilot_the_low_cost_decides() -> None:
    """Low fits: the run starts, whatever the high end."""
    assert start(needs_of(5 * PICO), Budget(5 * PICO)).may_start
    assert "at least" in start(needs_of(6 * PICO), Budget(5 * PICO)).sentence


def test_until_budget_starts_all_the_same() -> None:
    """Asked to go on until the money is gone: a note instead of a refusal, for cap and balance."""
    found = start(needs_of(10 * PICO), Budget(5 * PICO), until_budget=True, balance=(Decimal(1), "credits"))
    assert found.may_start
    assert 2 == len(found.notes)


def test_an_unknown_price_with_a_budget_refuses_even_until_budget() -> None:
    """Nothing can be reserved, so no cap can be kept."""
    found = start(needs_of(None), Budget(5 * PICO), until_budget=True)
    assert not found.may_start
    assert "unknown" in found.sentence
    needs: dict[Any, Needs] = {"usd": Needs(1, 0, None, unpriced=["m-1", "m-2"])}
    assert "a request to m-1, m-2 costs in usd" in start(needs, Budget(5)).sentence


@pytest.mark.parametrize(("mode", "starts"), [("require", False), ("warn", True), ("off", True)])
def test_credits_modes(mode: str, starts: bool) -> None:
    """require refuses, warn says it, off does not look."""
    found = start(needs_of(10 * PICO), balance=(Decimal("7.5"), "credits"), credits_mode=mode, keep=Decimal("2.5"))
    assert starts == found.may_start
    assert (mode == "warn") == any("7.5" in note for note in found.notes)
    assert (None if starts else 50) == found.limit


def test_a_gateway_without_a_balance_goes_on_and_says_so() -> None:
    """Said once, in the notes."""
    found = start(needs_of(10 * PICO))
    assert found.may_start
    assert any("no balance call" in note for note in found.notes)


def test_a_balance_against_an_unknown_price_is_said_not_refused() -> None:
    """A pilot can measure it."""
    found = start(needs_of(None), balance=(Decimal(10), "credits"))
    assert found.may_start
    assert any("unknown" in note for note in found.notes)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000), st.integers(0, 100), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_rows_that_fit_do_fit(rows: int, finished: int, cost: int, left: int) -> None:
    """At the mean cost the named rows cost no more than what is left, and one more would."""
    limit = rows_that_fit(Needs(rows, finished, cost), left)
    assert finished <= limit <= finished + rows
    assert (limit - finished) * cost <= left * rows
    if limit < finished + rows:
        assert (limit - finished + 1) * cost > left * rows


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_the_rows_that_fit_find_room_for_their_reservations(
    rows: int, cost: int, beyond: int, left: int, is_expected: bool
) -> None:
    """Once rows have finished, room for the most of the last one is left; before, for the most of each."""
    need = Needs(rows, 0, cost, cost if is_expected else None, most_pico=cost + beyond)
    limit = rows_that_fit(need, left)
    others = cost if is_expected else cost + beyond

    def needed(fitting: int) -> int:
        return (fitting - 1) * others + cost + beyond

    assert 0 <= limit <= rows
    assert not limit or needed(limit) <= left * rows
    assert limit == rows or needed(limit + 1) > left * rows


def test_what_fits_at_the_most_is_told_with_the_most() -> None:
    """Before rows have finished; what fits is never told by an amount that the sentence does not name."""
    needs: dict[Any, Needs] = {"usd": Needs(100, 0, 6 * PICO, most_pico=50 * PICO), "credits": Needs(100, 0, None)}
    assert (
        "100 rows cost at least $6.00, at most $50.00, and budget.max_cost_usd has $5.00 left of $5.00; "
        "--limit 10 fits even at the most, --until-budget starts all the same"
    ) == start(needs, Budget(5 * PICO)).sentence
    assert "; not one more row fits: it would reserve up to $0.50, " in start(needs, Budget(PICO // 3)).sentence


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 3),
    units=st.integers(1, 3),
    need=st.integers(1, 10**13),
    cap=st.integers(0, 10**13),
    spent=st.integers(0, 2 * 10**13),
    unknown=st.integers(0, 10**13),
    until_budget=st.booleans(),
)
def test_no_refusal_speaks_of_negative_money_or_of_one_rows(
    rows: int, units: int, need: int, cap: int, spent: int, unknown: int, until_budget: bool
) -> None:
    """A budget that is overspent is used up; what is left is said only where something is; one row costs."""
    asked = Needs(rows, 0, need, units=units)
    reservations = Reservations(Budget(cap, cap), spent=Hold(spent, spent), unknown=Hold(unknown, unknown))
    found = may_start(
        {"usd": asked, "credits": asked},
        reservations,
        balance=None,
        credits_mode="off",
        until_budget=until_budget,
    )
    said = " ".join([found.sentence, *found.notes])
    assert not re.search(r"-\d|-\$|(?<![\d.,])(1 (rows|units|credits)\b|0 credits left)", said)
    assert (found.may_start and not until_budget) == (need <= cap - spent - unknown and not until_budget)
    if need > cap - spent - unknown:
        assert ("used up" in said) == (spent + unknown >= cap) or until_budget


def test_a_large_cap_is_told_as_it_is() -> None:
    """Not rounded to six digits, which made 1,234,570 credits of it."""
    needs: dict[Any, Needs] = {"credits": Needs(1, 0, 3 * 10**6 * PICO), "usd": Needs(1, 0, None)}
    said = start(needs, Budget(None, 123456789 * PICO // 100)).sentence
    assert "budget.max_cost_credits has 1,234,567.89 credits left of 1,234,567.89 credits" in said


def test_an_emptied_purse_fits_no_row() -> None:
    """Overspent: not one more row, and no negative limit."""
    found = start(needs_of(10 * PICO, finished=3), Budget(0))
    assert (False, 3) == (found.may_start, found.limit)
    assert "not one more row fits" in found.sentence


@pytest.mark.parametrize(
    ("protocol", "body", "times"),
    [
        ("messages", b"{}", 2),
        ("chat", b'{"messages":[{"content":[{"text":"a","cache_control":{"type":"ephemeral"}}]}]}', 2),
        ("chat", rb'{"messages":[{"content":"what is \"cache_control\"?"}]}', 1),
        ("responses", b"{}", 1),
        ("completions", b"{}", 1),
    ],
)
def test_what_may_write_a_cache_holds_twice_its_input(protocol: ProtocolName, body: bytes, times: int) -> None:
    """Where no price of cache writes is given: by Anthropic's protocol, and where the body asks for a cache."""
    price = Price(currency="usd", source="job", input_atto=10**9, output_atto=0)
    endpoint = {"protocol": protocol, "base_url": "http://h/v1"}
    job = Job(model="m", prompt={"user": "a"}, endpoint=endpoint, params={"max_output_tokens": 9})
    writes = Target(0, "m", job).cache_ttl(body)
    request = Request(body, "0" * 32, "0" * 32, "m", 1000, 10, cache_ttl=writes)
    assert Hold(times * 1000 * 1000, None) == Holds(lambda *_: [price], None)(request)
