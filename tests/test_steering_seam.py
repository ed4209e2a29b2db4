"""Laws of what may change while a session runs: places, rates, money, leases; on a clock that the tests turn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_gateway import Gateway, MinuteWindow, Nothing, Played, constant, play
from run_kit import charged_credits, job, run, simulator, texts
from test_admit import busiest_minute

from crun_batch.errors import EXIT_GATEWAY_REFUSED, EXIT_OUT_OF_MONEY
from crun_batch.gateway.admission import AdaptiveLimit, Lane
from crun_batch.gateway.per_minute import NEVER, Pace, TokenWindow
from crun_batch.gateway.pool import Pool
from crun_batch.gateway.pool_seams import PoolSettings
from crun_batch.gateway.refusals import Evidence
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.gateway.steering import Allowance, Lease, SteeredSession
from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.records import PICO, Cost, Hold, Ticket

BOUNDLESS = Gateway([], constant(1.0), 0.0)
GIVES_UP_AFTER_SECONDS = 100.0
Move = tuple[float, Callable[[Pool], None]]


def played(
    allowance: Allowance, moves: Sequence[Move], *, rows: int, lanes: int = 1, hooks: Nothing | None = None
) -> Played:
    """Rows that take a second each, under an allowance that is changed at some times."""
    return play(
        [BOUNDLESS] * lanes,
        rows=rows,
        lanes=[Lane(ceiling=64, adaptive=False) for _ in range(lanes)],
        concurrency=64,
        hooks=hooks,
        settings=PoolSettings(64, 600.0, RetryPolicy(), GIVES_UP_AFTER_SECONDS, allowance=allowance),
        moves=moves,
    )


def doing(allowance: Allowance, **values: Any) -> Callable[[Pool], None]:
    """Changes the allowance, and tells the pool."""

    def move(pool: Pool) -> None:
        for name, value in values.items():
            setattr(allowance, name, value)
        pool.wake()

    return move


def sent_between(whole: Played, begin: float, end: float) -> int:
    return sum(begin <= each.sent_at < end for each in whole.requests)


def answered(whole: Played, begin: float = 0.0, end: float = NEVER) -> int:
    """Of all lanes together."""
    return sum(not each.refused and begin <= each.back_at < end for each in whole.requests)


def most_inside(whole: Played, begin: float, end: float) -> int:
    return max(inside for at, inside in whole.changes if begin <= at < end)


@given(st.integers(1, 9), st.integers(0, 9), st.booleans(), st.floats(0, 9), st.floats(0, 9))
def test_the_least_of_limit_lease_and_pause_counts(
    limit: int, leased: int, is_paused: bool, until: float, now: float
) -> None:
    allowance = Allowance(limit, valid_until=until)
    allowance.leased, allowance.is_paused = leased, is_paused
    assert (0 if is_paused or now >= until else min(limit, leased)) == allowance.places(now)


@pytest.mark.parametrize("lanes", [1, 3])
def test_places_may_become_fewer_and_more_while_requests_are_in_flight(lanes: int) -> None:
    """What is in flight above a lower limit is waited for, and nothing goes meanwhile."""
    allowance = Allowance(12)
    moves = [(5.5, doing(allowance, concurrency=3)), (10.5, doing(allowance, concurrency=30))]
    whole = played(allowance, moves, rows=200, lanes=lanes)

    assert (12, 3, 30) == tuple(most_inside(whole, *times) for times in ((0, 5.5), (6.5, 10.5), (10.5, 99)))
    assert 0 == sent_between(whole, 5.5, 6.0)
    assert whole.halt is None and 200 * lanes == answered(whole)


@pytest.mark.parametrize("lanes", [1, 3])
def test_nothing_goes_in_a_pause_however_long_and_all_goes_on_afterwards(lanes: int) -> None:
    """A pause longer than the time without success after which a run gives up is no reason to."""
    allowance = Allowance(4)
    moves = [(3.5, doing(allowance, is_paused=True)), (1000.0, doing(allowance, is_paused=False))]
    whole = played(allowance, moves, rows=40, lanes=lanes)

    assert whole.halt is None and 40 * lanes == answered(whole)
    assert 0 == sent_between(whole, 3.5, 1000.0)
    assert 0 < sent_between(whole, 1000.0, 1000.1)


def test_what_is_in_flight_at_a_pause_is_waited_for() -> None:
    allowance = Allowance(4)
    whole = played(
        allowance, [(3.5, doing(allowance, is_paused=True)), (50.0, doing(allowance, is_paused=False))], rows=20
    )
    assert 4 == whole.answered(3.5, 50.0)


def test_a_gateway_that_fails_before_and_after_a_pause_is_given_up_only_for_the_time_in_which_it_was_asked() -> (
    None
):
    """90 s of failures, a pause of an hour, then another while: the hour is no time without success."""
    allowance = Allowance(4)
    lane = Lane(ceiling=4, adaptive=False)
    refuses_all = Gateway([MinuteWindow(0, tells=False)], constant(1.0), 1.0)
    moves = [(90.0, doing(allowance, is_paused=True)), (3600.0, doing(allowance, is_paused=False))]
    whole = play(
        refuses_all,
        rows=10,
        lanes=[lane],
        concurrency=4,
        settings=PoolSettings(4, 600.0, RetryPolicy(), GIVES_UP_AFTER_SECONDS, allowance=allowance),
        moves=moves,
    )
    assert whole.halt is not None and EXIT_GATEWAY_REFUSED == whole.halt.exit_code
    assert 3600.0 + GIVES_UP_AFTER_SECONDS - 1 <= whole.seconds <= 3600.0 + GIVES_UP_AFTER_SECONDS + 70


def test_nothing_goes_before_the_first_lease_nor_after_one_has_ended() -> None:
    """Each lease is good for what its time bears, though nobody says that it is over."""
    allowance = Allowance(4, valid_until=-NEVER)
    moves = [(10.0, doing(allowance, valid_until=13.0)), (20.0, doing(allowance, valid_until=NEVER))]
    whole = played(allowance, moves, rows=40)

    assert [] == [each for each in whole.requests if each.sent_at < 10.0 or 13.0 <= each.sent_at < 20.0]
    assert 12 == sent_between(whole, 10.0, 13.0)
    assert whole.halt is None and 40 == whole.answered()


class Purse(Nothing):
    """Money for so many requests; what is said when it is used up."""

    def __init__(self, requests: int, says: Literal["wait", "none"]) -> None:
        super().__init__()
        self.requests, self.says = requests, says

    def reserve(self, ticket: Ticket) -> Literal["held", "wait", "none"]:
        if self.requests == 0:
            return self.says
        self.requests -= 1
        return "held"


@pytest.mark.parametrize("lanes", [1, 3])
def test_who_waits_for_money_goes_on_when_it_comes_and_who_has_none_ends(lanes: int) -> None:
    """`wait` is no end, however long it takes; `none` is one as soon as nothing in flight could give room."""
    purse, waited = Purse(10, "wait"), []

    def refill(pool: Pool) -> None:
        waited.append((pool.waits_for_money, pool.in_flight, pool.halt))
        purse.requests = 30 * lanes
        pool.wake()

    whole = played(Allowance(4), [(1000.0, refill)], rows=20, lanes=lanes, hooks=purse)
    assert [(True, 0, None)] == waited
    assert whole.halt is None and 20 * lanes == answered(whole)
    assert 10 == answered(whole, 0.0, 1000.0)

    ended = played(Allowance(4), [], rows=20, lanes=lanes, hooks=Purse(10, "none"))
    assert ended.halt is not None and EXIT_OUT_OF_MONEY == ended.halt.exit_code
    assert 10 == answered(ended)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32))
def test_a_pace_that_is_changed_holds_in_each_minute_that_lies_after_the_change(seed: int) -> None:
    draw, pace, now, sent = random.Random(seed), Pace(600), 0.0, []
    limits = [(0.0, 600)]
    while now < 600.0:
        if draw.random() < 0.002:
            limits.append((now, draw.choice([60, 200, 1000, 3000])))
            pace.set_limit(limits[-1][1])
        wait = pace.wait_seconds(now)
        if wait > 0.0:
            now += min(wait, 0.05)
            continue
        pace.take(now)
        sent.append(now)
    for (begin, limit), (end, _) in zip(limits, [*limits[1:], (600.0, 0)], strict=True):
        times = [time for time in sent if begin <= time < end]
        assert not times or busiest_minute(times) <= limit * 1.005 + 1
        if end - begin > 62.0:
            assert len([time for time in times if time >= end - 60.0]) >= 0.95 * limit


def test_a_window_of_tokens_counts_the_minute_before_a_change_under_the_new_limit() -> None:
    window = TokenWindow(1000)
    window.take(0.0, 900)
    window.limit = 500
    assert 0.0 < window.wait_seconds(1.0, 1)
    window.limit = 2000
    assert 0.0 == window.wait_seconds(1.0, 1000)
    window.limit = NEVER
    assert 0.0 == window.wait_seconds(1.0, 10**9)


def test_limits_per_minute_may_come_and_go_with_requests_in_flight() -> None:
    """What went without a limit is back under one, and the other way round: nothing is counted twice."""
    lane = Lane(ceiling=8)
    unlimited = lane.admit(0.0, 100)
    lane.set_rates(60.0, 1000)
    limited = lane.admit(1.0, 900)
    assert 0.0 < lane.wait_seconds(1.0, 200)
    lane.answered(2.0, unlimited, 50)
    lane.set_rates(None, None)
    assert 0.0 == lane.wait_seconds(2.0, 10**6)
    lane.answered(3.0, limited, 10)
    lane.set_rates(None, 1000)
    assert 0.0 == lane.wait_seconds(3.0, 990) < lane.wait_seconds(3.0, 991)


@given(st.integers(1, 200), st.integers(1, 2000), st.booleans())
def test_a_ceiling_bounds_from_the_moment_at_which_it_is_set(before: int, after: int, adaptive: bool) -> None:
    limit = AdaptiveLimit(before, adaptive=adaptive)
    for second in range(50):
        limit.crowded(float(second))
    assert before == limit.value
    limit.set_ceiling(after)
    assert min(before, after) == limit.value if adaptive else after == limit.value
    for second in range(50, 100):
        limit.crowded(float(second))
    assert after == limit.value


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(41, 400), st.lists(st.integers(1, 40), max_size=900))
def test_evidence_that_grows_forgets_nothing(small: int, large: int, levels: list[int]) -> None:
    """As if it had been as large from the start: the same refusals bring the same verdicts."""
    grown, known = Evidence(40), Evidence(large)
    for level in levels:
        assert grown.sent(level) == known.sent(level)
    grown.grow(large)
    serial = grown.sent(large)
    assert serial == known.sent(large)
    for level in (large, small):
        said = [one.refused(serial, level, is_late=False, nothing_borne=False) for one in (grown, known)]
        assert said[0] == said[1]


def test_a_wave_that_others_met_is_one_cut_and_one_pause_however_often_it_is_told() -> None:
    lane = Lane(ceiling=64, adaptive=True)
    lane.limit.value = 40.0
    for now in (10.0, 11.0, 12.0):
        lane.heed_wave(now, 20.0)
    assert (20.0, 20.0) == (lane.limit.value, lane.paused_until)
    lane.heed_wave(13.0, 25.0)  # the same one, a longer pause
    assert (20.0, 25.0) == (lane.limit.value, lane.paused_until)
    lane.heed_wave(30.0, 29.0)  # over
    assert (20.0, 25.0) == (lane.limit.value, lane.paused_until)
    lane.heed_wave(31.0, 35.0)  # another one
    assert (10.0, 35.0) == (lane.limit.value, lane.paused_until)


money_moves = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "unknown", "cap"]), st.integers(0, 300)), max_size=80
)


@settings(max_examples=200, deadline=None)
@given(money_moves, st.integers(0, 1000))
def test_caps_that_change_are_never_exceeded_and_never_set_below_what_is_committed(
    moves: list[tuple[str, int]], cap: int
) -> None:
    """A cap that cannot hold is refused and changes nothing, in any order of reservations, ends and changes."""
    book, flying = Reservations(Budget(cap, None)), []
    for move, amount in moves:
        if move == "reserve" and book.reserve(Hold(amount)):
            flying.append(Hold(amount))
        elif move == "cap":
            if amount < book.usd.committed_pico:
                with pytest.raises(ValueError, match="below what is spent"):
                    book.set_caps(Budget(amount, None))
            else:
                book.set_caps(Budget(amount, None))
                cap = amount
        elif flying and move in ("settle", "unknown"):
            hold = flying.pop(0)
            cost = Cost(usd_pico=min(amount, hold.usd_pico or 0)) if move == "settle" else Cost()
            book.settle(hold, cost)
        assert cap == book.usd.cap_pico
        assert cap >= book.usd.committed_pico


@pytest.mark.parametrize(
    ("hold", "expected"),
    [
        (Hold(50, 0), "wait"),
        (Hold(None, 0), "none"),  # no cap has room for what nothing bounds
        (Hold(90, 0), "none"),  # the balance has no room for it, whatever the cap
    ],
)
def test_only_what_a_higher_cap_would_let_pass_waits_for_one(hold: Hold, expected: str) -> None:
    book = Reservations(Budget(max_usd_pico=10))
    book.observe_balance(80, "usd")
    assert not book.reserve(hold)
    assert "none" == book.refusal(hold)
    book.more_may_come = True
    assert expected == book.refusal(hold)


# --- whole sessions --------------------------------------------------------------------------------------------


def test_a_session_lives_on_slices_of_money_and_never_spends_more_than_it_was_given(tmp_path: Path) -> None:
    """Nothing is sent before the first lease; a slice is used up, the session waits, until all is done."""
    given: list[int] = []
    stood: list[bool] = []

    async def steer(session: SteeredSession) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.3)
        assert 0 == session.standing().in_flight == session.standing().credits.committed_pico
        while True:
            standing = session.standing()
            if not given or standing.waits_for_money:
                stood.append(standing.waits_for_money)
                given.append((given[-1] if given else 0) + PICO // 2)
                session.lease(
                    Lease(loop.time() + 600, 4, max_credits_pico=given[-1], more_may_come=True, rate_share=0.5)
                )
            assert standing.credits.committed_pico <= given[-1]
            await asyncio.sleep(0.02)

    with simulator() as at:
        capped = job(at, tmp_path, budget={"max_cost_credits": 1000})
        done = run(capped, texts(60), steer=steer, until_budget=True)
        assert ("finished", 0) == (done.status, done.exit_code)
        assert charged_credits(at) * PICO <= given[-1]
    assert [False, True] == stood[:2] and len(given) > 2


def test_a_lease_that_ends_stops_the_sending_and_a_new_one_goes_on_with_it(tmp_path: Path) -> None:
    """Nobody needs to say that it has ended; what was in flight then is answered."""
    counts: list[tuple[int, int]] = []

    async def steer(session: SteeredSession) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(2):
            session.lease(Lease(loop.time() + 0.3, 2))
            await asyncio.sleep(1.0)
            counts.append((session.standing().in_flight, at.ledger()["count"]))
        session.lease(Lease(loop.time() + 600, 64))

    with simulator(latency_seconds=0.05) as at:
        done = run(job(at, tmp_path), texts(80), steer=steer)
        assert ("finished", 0) == (done.status, done.exit_code)
    (first_in_flight, first), (second_in_flight, second) = counts
    assert (0, 0) == (first_in_flight, second_in_flight)
    assert 0 < first < second < 80


def test_what_steers_and_fails_ends_the_session_and_is_raised(tmp_path: Path) -> None:
    async def steer(session: SteeredSession) -> None:
        raise LookupError("whoever leases is gone")

    with simulator() as at, pytest.raises(LookupError, match="whoever leases is gone"):
        run(job(at, tmp_path), texts(3), steer=steer)
