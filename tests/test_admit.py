"""Laws of admission, on a clock that the tests turn."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.per_minute import NEVER, Pace, TokenWindow, UsedShare


def busiest_minute(times):
    """The largest number of events in any half-open window of 60 seconds."""
    times = sorted(times)
    first = busiest = 0
    for last, time in enumerate(times):
        while times[first] <= time - 60.0:
            first += 1
        busiest = max(busiest, last - first + 1)
    return busiest


@pytest.mark.parametrize("per_minute", [1, 7, 60, 600, 5000])
def test_any_minute_holds_at_most_the_limit_and_half_a_percent(per_minute):
    pace, now, sent = Pace(per_minute), 0.0, []
    while now < 200.0:
        wait = pace.wait_seconds(now)
        if wait > 0:
            now += wait
            continue
        pace.take(now)
        sent.append(now)
    assert busiest_minute(sent) <= per_minute * 1.005 + 1e-9
    assert len([time for time in sent if 60 <= time < 180]) >= 0.95 * per_minute * 2


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_a_late_caller_never_exceeds_the_pace(seed):
    draw, pace, now, sent = random.Random(seed), Pace(600), 0.0, []
    while now < 180.0:
        while pace.wait_seconds(now) == 0.0:
            pace.take(now)
            sent.append(now)
        now += draw.choice([0.001, 0.05, 0.4, 3.0])
    assert busiest_minute(sent) <= 603


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32))
def test_real_tokens_of_any_minute_stay_under_the_limit_and_use_it(seed):
    """Admitted by a bound four times too high, corrected after two seconds."""
    draw, window, now = random.Random(seed), TokenWindow(100_000), 0.0
    back, spent, sequence = [], [], itertools.count()
    while now < 300.0:
        while back and back[0][0] <= now:
            _, _, entry, difference = heapq.heappop(back)
            window.correct(now, entry, difference)
        real = draw.randint(50, 500)
        wait = window.wait_seconds(now, 4 * real)
        if wait == 0.0:
            spent.append((now, real))
            heapq.heappush(back, (now + 2.0, next(sequence), window.take(now, 4 * real), -3 * real))
            continue
        now += min(wait, back[0][0] - now if back else wait) + 1e-6
    for start, _ in spent[::50]:
        assert sum(tokens for time, tokens in spent if start <= time < start + 60.0) <= 100_000
    assert sum(tokens for time, tokens in spent if 60 <= time < 240) >= 0.95 * 300_000


def test_a_request_larger_than_the_token_limit_goes_when_the_window_is_empty():
    window = TokenWindow(1000)
    window.take(0.0, 10)
    assert 0.0 < window.wait_seconds(0.0, 5000) <= 60.5
    assert window.wait_seconds(61.0, 5000) == 0.0


def gateway(lane, limit_at, latency, seconds, *, retry_after=None, seed=1):
    """Requests through `lane` to a gateway that refuses what exceeds `limit_at(now)` in flight.

    Returns (answered, refused, mean of requests in flight at the gateway over the last half).
    """
    draw, now, inside, sequence = random.Random(seed), 0.0, 0, itertools.count()
    events, answered, refused, area = [], 0, 0, 0.0
    while now < seconds:
        wait = lane.wait_seconds(now, 1)
        while wait == 0.0:
            admitted = lane.admit(now, 1)
            taken = inside < limit_at(now)
            inside += taken
            delay = latency * draw.uniform(0.8, 1.2) if taken else 0.02
            heapq.heappush(events, (now + delay, next(sequence), admitted, taken))
            wait = lane.wait_seconds(now, 1)
        until = min(events[0][0] if events else NEVER, now + wait)
        area += inside * (until - now) if now > seconds / 2 else 0.0
        now = until
        while events and events[0][0] <= now:
            _, _, admitted, taken = heapq.heappop(events)
            inside -= taken
            if taken:
                answered += 1
                lane.answered(now, admitted, 1)
            else:
                refused += 1
                lane.refused(now, admitted, retry_after)
    return answered, refused, area / (seconds / 2)


@pytest.mark.parametrize("limit", [3, 10, 40, 200])
@pytest.mark.parametrize("retry_after", [None, 1.0])
def test_an_unknown_limit_is_found_used_and_rarely_hit(limit, retry_after):
    """At least 90 % of the gateway's limit is used and at most 2 % of the requests are refused."""
    lane = Lane(ceiling=1000)
    answered, refused, used = gateway(lane, lambda _: limit, 1.0, 900.0, retry_after=retry_after)
    assert refused <= 0.02 * (answered + refused)
    assert used >= 0.9 * limit


def answers_where_latency_grows(lane, knee, power, seconds, *, seed=1):
    """Answers in the last quarter of the time; above `knee` in flight the latency of a second grows."""
    draw, now, sequence, events, answered = random.Random(seed), 0.0, itertools.count(), [], 0
    while now < seconds:
        while (wait := lane.wait_seconds(now, 1)) == 0.0:
            admitted = lane.admit(now, 1)
            latency = draw.lognormvariate(0.0, 0.5) * max(1.0, lane.in_flight / knee) ** power
            heapq.heappush(events, (now + latency, next(sequence), admitted))
        now = min(events[0][0], now + wait)
        while events[0][0] <= now:
            lane.answered(now, heapq.heappop(events)[2], 1)
            answered += now >= seconds * 3 / 4
    return answered


@pytest.mark.parametrize("power", [1, 2, 3])
def test_where_latency_grows_with_the_load_no_collapse(power):
    """Without refusals, at a ceiling four times the knee: three quarters of what the best limit answers."""
    fixed = answers_where_latency_grows(Lane(ceiling=40, adaptive=False), 40, power, 200.0)
    found = answers_where_latency_grows(Lane(ceiling=160), 40, power, 1200.0) / 6
    assert found >= 0.75 * fixed


def test_a_run_of_a_minute_is_spent_on_no_trial():
    """Latency that does not grow: first the whole ceiling is used all the time, later nearly all of it."""
    lane, now, flight = Lane(ceiling=100), 0.0, deque()
    answered = {"first minute": 0, "later": 0}
    lowest = dict.fromkeys(answered, 100.0)
    while now < 600.0:
        part = "first minute" if now <= 60.0 else "later"
        while flight and flight[0][0] <= now:
            lane.answered(now, flight.popleft()[1], 1)
            answered[part] += 1
        while (wait := lane.wait_seconds(now, 1)) == 0.0:
            flight.append((now + 1.0, lane.admit(now, 1)))
        if now > 2.0:
            lowest[part] = min(lowest[part], lane.limit.value)
        now = min(flight[0][0], now + wait)
    assert lowest == {"first minute": 100.0, "later": 75.0}
    assert answered["later"] > 0.97 * 100 * 540


def test_a_request_counts_with_what_others_used_of_their_bounds():
    """Its bound until thirty have told; then the mean and a margin that shrinks as more are in flight."""
    share = UsedShare()
    for used in [0.1, 0.3] * 14 + [0.1]:
        share.learn(used)
    assert share.expected(10) == 1.0
    share.learn(0.3)
    assert 0.2 < share.expected(100) < share.expected(3) < 0.4


def test_after_a_storm_the_former_rate_is_back_within_a_minute():
    """For ten seconds everything is refused; within a minute at least 90 % of the former rate is reached."""
    lane = Lane(ceiling=64)
    answered, refused, used = gateway(lane, lambda now: 0 if 50 <= now < 60 else 64, 1.0, 140.0)
    assert used >= 0.9 * 64
    assert refused <= 0.02 * answered


def test_one_wave_of_refusals_cuts_once():
    """Requests sent before the cut belong to its wave, however many come back refused."""
    lane = Lane(ceiling=64, adaptive=True)
    lane.limit.value = 64.0
    flight = [lane.admit(0.0, 1) for _ in range(64)]
    lane.refused(1.0, flight[0], None)
    after_first = lane.limit.value
    for admitted in flight[1:]:
        lane.refused(1.1, admitted, None)
    assert lane.limit.value == after_first
    assert lane.in_flight == 0


def lane_at(level):
    """A lane at this limit whose last 200 requests were answered, at every level up to it."""
    lane = Lane(ceiling=1000)
    lane.limit.value = float(level)
    for burst in range(-(-200 // level)):
        flight = [lane.admit(float(burst), 1) for _ in range(level)]
        for admitted in flight:
            lane.answered(burst + 0.5, admitted, 1)
        lane.limit.value = float(level)
    return lane


@pytest.mark.parametrize("level", [4, 20, 64])
def test_one_refusal_among_answers_is_a_matter_of_its_row(level):
    """At a level at which others were answered just before: no cut, no pause, whatever Retry-After says."""
    lane = lane_at(level)
    flight = [lane.admit(1000.0, 1) for _ in range(level)]
    lane.refused(1000.1, flight[level // 2], 60.0)
    assert lane.limit.value == level
    assert lane.wait_seconds(1000.1, 1) == 0.0


def test_a_refusal_at_a_level_that_was_never_borne_cuts_below_it_and_pauses_nothing():
    lane = lane_at(20)
    lane.limit.value = 21.0
    flight = [lane.admit(1000.0, 1) for _ in range(21)]
    lane.refused(1000.1, flight[20], 60.0)
    assert 0.9 * 21 <= lane.limit.value < 21
    lane.answered(1001.0, flight[0], 1)
    lane.answered(1001.0, flight[1], 1)
    assert lane.wait_seconds(1001.0, 1) == 0.0


def test_a_cut_is_taken_back_when_others_at_its_level_are_answered():
    """The first requests of all, sent before anything is known: one is refused, those beside it are answered."""
    lane = Lane(ceiling=64, adaptive=True)
    lane.limit.value = 64.0
    flight = [lane.admit(0.0, 1) for _ in range(64)]
    lane.refused(0.1, flight[20], 5.0)
    assert lane.limit.value < 21
    for admitted in flight[21:]:
        lane.answered(2.0, admitted, 1)
    assert lane.limit.value >= 42


@pytest.mark.parametrize("told", [None, 7.0])
def test_where_all_are_refused_the_lane_waits_as_long_as_it_was_told(told):
    """After as many in a row as chance does not bring; where nothing is told, half a second."""
    lane = lane_at(64)
    flight = [lane.admit(1000.0, 1) for _ in range(64)]
    for admitted in flight:
        lane.refused(1000.1, admitted, told)
    assert lane.wait_seconds(1000.1, 1) == pytest.approx(told or 0.5)
    assert lane.limit.value == 32.0


def test_a_longer_wait_told_by_a_late_refusal_lengthens_the_pause():
    lane = lane_at(64)
    flight = [lane.admit(1000.0, 1) for _ in range(64)]
    for admitted in flight[:-1]:
        lane.refused(1000.1, admitted, 2.0)
    lane.refused(1000.2, flight[-1], 9.0)
    assert lane.wait_seconds(1000.2, 1) == pytest.approx(9.0)


def test_headers_that_say_nothing_remains_pause_until_their_reset_at_most_a_minute():
    lane = Lane(ceiling=4)
    lane.heed(0.0, 3.0)
    assert lane.wait_seconds(0.0, 1) == pytest.approx(3.0)
    lane.heed(0.0, 2.0)
    assert lane.wait_seconds(0.0, 1) == pytest.approx(3.0)
    lane.heed(0.0, 86_400.0)
    assert lane.wait_seconds(0.0, 1) == pytest.approx(60.0)


def test_without_adaptation_the_ceiling_is_the_limit():
    lane = Lane(ceiling=50, adaptive=False)
    for _ in range(50):
        assert lane.wait_seconds(0.0, 1) == 0.0
        lane.admit(0.0, 1)
    assert lane.wait_seconds(0.0, 1) == NEVER
