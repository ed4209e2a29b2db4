"""Replies that come one by one are taken in together, and nothing is sent too late for that."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from played_gateway import Gateway, Nothing, constant, play

from crun_batch.gateway.admission import Lane
from crun_batch.gateway.gathering import Crowd, ReplyRate, RestTrial, gather_seconds, rest_seconds
from crun_batch.records import Attempt, Fault, Response

ROWS, IN_FLIGHT = 12_000, 64


class Steps(Nothing):
    """Counts how many replies each step takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[int] = []

    def arrived(self, arrivals: Sequence[tuple[Attempt, Response | Fault]]) -> list[Response | Fault]:
        if arrivals:
            self.came.append(len(arrivals))
        return super().arrived(arrivals)


def steps_of(gateway: Gateway) -> tuple[list[int], float]:
    """Replies of each step, and when the last row was sent."""
    steps = Steps()
    lane = Lane(ceiling=IN_FLIGHT, adaptive=False)
    played = play(gateway, rows=ROWS, lanes=[lane], concurrency=IN_FLIGHT, hooks=steps)
    assert played.answered() == ROWS
    return steps.came, played.drained_at()


def test_what_comes_one_by_one_is_taken_in_together_and_the_gateway_never_waits() -> None:
    """It works on one request after the other, 0.4 ms on each, and always has one to work on."""
    came, drained_at = steps_of(Gateway([], lambda draw, inside: 0.0004 * inside, 0.001))
    assert ROWS / len(came) > 8
    assert drained_at < 1.01 * 0.0004 * ROWS


def test_where_nothing_queues_the_loop_never_rests() -> None:
    """What is in flight is the limit: a rest would lower the pace."""
    _, drained_at = steps_of(Gateway([], constant(0.05), 0.001))
    assert drained_at < 0.05 * (1 + 0.05) * ROWS / IN_FLIGHT


def test_a_lane_that_answers_at_once_is_not_held_up_by_another_where_requests_queue() -> None:
    """A rest is for what queues: of 32 that take 5 ms each nothing does, whatever waits elsewhere."""
    quick, queue = Gateway([], constant(0.005), 0.001), Gateway([], lambda draw, inside: 0.0005 * inside, 0.001)
    lanes = [Lane(ceiling=32, adaptive=False), Lane(ceiling=512, adaptive=False)]
    played = play([quick, queue], seconds=2.0, lanes=lanes, concurrency=544)
    assert played.answered() > 0.8 * 2.0 * 32 / 0.005


def test_what_looks_like_a_queue_and_is_none_is_found_out() -> None:
    """Half of the replies take 5 ms and half 200 ms: a rest would lower the pace by an eighth."""

    def answer_seconds(draw: random.Random, inside: int) -> float:
        return draw.choice((0.005, 0.2))

    lane = Lane(ceiling=160, adaptive=False)
    played = play(Gateway([], answer_seconds, 0.001), seconds=22.0, lanes=[lane], concurrency=160)
    ideal = 160 / 0.1025
    assert played.answered(6.0, 10.0) < 0.9 * 4.0 * ideal
    assert played.answered(18.0, 22.0) > 0.97 * 4.0 * ideal


@given(st.floats(0.0, 1.0), st.floats(-0.03, 0.03))
def test_rests_are_left_for_a_minute_where_they_lower_the_pace(left: float, rise: float) -> None:
    """By more than 5 %, and tried anew then; whether the pace rises or falls meanwhile makes no difference."""
    trial, rested = RestTrial(), list[float]()
    for tick in range(1_200):
        trial.took_in(0.1 * tick, round(10_000 * (1 + rise * tick / 50) * (left if trial.may_rest else 1.0)))
        rested += [0.1 * tick] if trial.may_rest else []
    assert sum(moment < 10.0 for moment in rested) == 100
    for minute in (0.0, 60.0):
        assert 39 <= sum(minute + 10.0 <= moment < minute + 18.0 for moment in rested) <= 41
        after = sum(minute + 18.1 <= moment < minute + 60.0 for moment in rested)
        assert after > 410 or left < 0.96
        assert after == 0 or left > 0.94


crowds = st.builds(
    Crowd,
    came=st.integers(1, 100),
    in_flight=st.integers(1, 5_000),
    took_seconds=st.floats(0.0, 1_000.0),
    quickest_seconds=st.floats(0.0001, 100.0) | st.just(float("inf")),
)
paces = st.floats(0.0, 1e6)


@given(crowds, paces)
def test_a_rest_is_short_beside_what_queues_and_ends_with_enough_replies(crowd: Crowd, pace: float) -> None:
    """A quarter of the time in the queue, half of what is in flight or 128 replies, 50 ms: whichever is least.

    Never where few come, or 32 have.
    """
    rest = rest_seconds(crowd, pace)
    assert 0.0 <= rest <= 0.05
    assert rest * pace <= min(128, crowd.in_flight / 2) * (1 + 1e-9)
    assert rest == 0.0 or rest <= 0.25 * (crowd.in_flight / pace - 2 * crowd.quickest_seconds)
    assert rest == 0.0 or (crowd.came < 32 and pace >= 1_000)


@given(crowds, paces)
def test_one_request_that_others_pass_does_not_change_a_rest(crowd: Crowd, pace: float) -> None:
    """A server need not be fair: what the latest one took says nothing of the queue."""
    passed = structs.replace(crowd, took_seconds=8.3)
    assert rest_seconds(crowd, pace) == rest_seconds(passed, pace)


@given(st.lists(st.tuples(st.floats(0.001, 10.0), st.integers(1, 200)), min_size=16, max_size=40))
def test_the_pace_is_that_of_the_latest_sixteen_steps(steps: list[tuple[float, int]]) -> None:
    """Replies of fifteen of them, by the time since the first; steps that took in nothing do not count."""
    pace, now = ReplyRate(), 0.0
    for waited, replies in steps[:15]:
        pace.took_in(now := now + waited, replies)
        pace.took_in(now, 0)
    assert pace.replies_per_second == 0.0
    for waited, replies in steps[15:]:
        pace.took_in(now := now + waited, replies)
    latest = steps[-15:]
    assert pace.replies_per_second == pytest.approx(sum(n for _, n in latest) / sum(s for s, _ in latest))


@given(st.floats(0.0, 1_000.0))
def test_a_reply_waits_five_milliseconds_at_most(took_seconds: float) -> None:
    assert 0.0 <= gather_seconds(took_seconds) <= min(0.005, 0.05 * took_seconds)
