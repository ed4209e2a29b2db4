"""Laws of refusals and of lanes beside each other: the pool itself, against gateways played in virtual time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_gateway import (
    Bucket,
    Gateway,
    MinuteWindow,
    Nothing,
    Played,
    Room,
    Scatter,
    constant,
    play,
    spread,
)

from crun_batch.errors import EXIT_GATEWAY_REFUSED
from crun_batch.gateway.admission import Lane
from crun_batch.gateway.pool_seams import PoolSettings
from crun_batch.gateway.retry import RetryPolicy
from crun_batch.records import Again, Outcome, Ticket, Tries

LATENCIES = {"bursts": (constant(0.1), 0.1), "one by one": (spread(2.0), 0.05)}


class Tape(Nothing):
    """Hooks that keep the tries of rows that are sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.tries: list[Tries] = []

    def concluded(self, outcomes: Sequence[Outcome]) -> list[Ticket | None]:
        self.tries += [one.decision.tries for one in outcomes if isinstance(one.decision, Again)]
        return super().concluded(outcomes)


waits = st.none() | st.sampled_from([0.0, 0.3, 1.0, 5.0, 40.0])
rules = st.one_of(
    st.builds(Scatter, st.floats(0.0, 0.6), waits, st.sampled_from([429, 503, 529]), st.integers(0, 99)),
    st.builds(lambda room, wait: Room(lambda now: room, wait), st.integers(1, 70), waits),
    st.builds(lambda end, wait: Room(lambda now: 0 if now < end else 64, wait), st.floats(0.0, 20.0), waits),
    st.builds(Bucket, st.floats(5.0, 500.0), st.floats(1.0, 50.0), waits),
    st.builds(lambda limit, tells: MinuteWindow(limit, tells=tells), st.integers(50, 500), st.booleans()),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(rules, min_size=1, max_size=3), st.sampled_from(sorted(LATENCIES)), st.integers(0, 99))
def test_no_row_is_sent_before_its_own_retry_after_and_no_refusal_counts(rules, latency, seed):
    """Whatever refuses, alone or together: every row is answered once, no wait cut short, no attempt counted."""
    tape = Tape()
    gateway = Gateway(rules, *LATENCIES[latency])
    played = play(gateway, rows=120, lanes=[Lane(ceiling=64)], concurrency=64, seed=seed, hooks=tape)
    assert 0 == played.too_early()
    assert 120 == played.answered()
    assert played.refused() == len(tape.tries)
    assert {(0, 0)} >= {(tries.counted, tries.unknown) for tries in tape.tries}


@pytest.mark.parametrize("latency", sorted(LATENCIES))
@pytest.mark.parametrize("wait", [None, 1.0, 5.0])
@pytest.mark.parametrize(("share", "kept"), [(0.01, 0.9), (0.03, 0.85), (0.1, 0.7)])
def test_scattered_refusals_cost_little(share, kept, wait, latency):
    """Rows per second while there are new ones, against the same run without refusals."""

    def drained_at(rules):
        gateway = Gateway(rules, *LATENCIES[latency])
        return play(gateway, rows=3000, lanes=[Lane(ceiling=64)], concurrency=64).drained_at()

    assert kept * drained_at([Scatter(share, wait, 503 if wait is None else 429)]) <= drained_at([])


@pytest.mark.parametrize("latency", sorted(LATENCIES))
@pytest.mark.parametrize("scattered", [0.0, 0.01])
@pytest.mark.parametrize("limit", [7, 20, 100])
def test_an_unknown_limit_is_found_and_kept_in_bursts_and_with_scatter(limit, scattered, latency):
    """90 % of it is used, and at most two in a hundred are refused beside those that are anyway."""
    rules = [Room(lambda now: limit, 5.0), *([Scatter(scattered, 5.0)] if scattered else [])]
    seconds, refusal_seconds = (constant(1.0), 0.05) if latency == "bursts" else LATENCIES[latency]
    played = play(
        Gateway(rules, seconds, refusal_seconds), seconds=300.0, lanes=[Lane(ceiling=512)], concurrency=512
    )
    assert played.mean_inside(60.0, 300.0) >= 0.9 * limit
    assert played.refused_share() <= 0.02 + scattered


STORM_BEGINS, STORM_SECONDS = 180.0, 10.0


@pytest.mark.parametrize("latency", sorted(LATENCIES))
@pytest.mark.parametrize(
    ("limit", "seconds_later"), [*((40, later) for later in (0.0, 7.0, 20.0, 60.0)), (300, 0.0), (300, 20.0)]
)
def test_after_a_storm_the_pace_is_back_within_a_minute(limit, seconds_later, latency):
    """Whenever it comes: what is tried at that moment, a lower limit, is not taken for what the gateway bears."""
    begins = STORM_BEGINS + seconds_later
    room = Room(lambda now: 0 if begins <= now < begins + STORM_SECONDS else limit)
    seconds, refusal_seconds = (constant(1.0), 0.05) if latency == "bursts" else LATENCIES[latency]
    played = play(
        Gateway([room], seconds, refusal_seconds), seconds=400.0, lanes=[Lane(ceiling=512)], concurrency=512
    )
    recovered = begins + STORM_SECONDS + 60.0
    assert played.mean_inside(recovered, recovered + 30.0) >= 0.9 * played.mean_inside(60.0, 180.0)


def test_three_refusals_in_a_row_are_chance_however_rare_they_were():
    """One in a hundred meets three in a row once in a million requests, and no pause of a lane is as cheap."""
    lane = Lane(ceiling=64)
    for _ in range(3000):
        lane.answered(0.0, lane.admit(0.0, 0), None)
    for admitted in [lane.admit(1.0, 0) for _ in range(3)]:
        lane.refused(1.0, admitted, 5.0)
    assert lane.paused_until <= 1.0


def paces(sick: Gateway | None, *, lanes: int = 20, rows: int = 400) -> tuple[list[float], Played]:
    """When each of the healthy variants is done."""
    healthy = Gateway([], constant(0.5), 0.05)
    gateways = [healthy if sick is None or number else sick for number in range(lanes)]
    settings = PoolSettings(64, 600.0, RetryPolicy(), 1e9)
    played = play(
        gateways,
        rows=rows,
        seconds=300.0,
        lanes=[Lane(ceiling=64) for _ in range(lanes)],
        concurrency=64,
        settings=settings,
    )
    done = [
        max(each.back_at for each in played.requests if each.variant == number and not each.refused)
        for number in range(1, lanes)
    ]
    return done, played


@pytest.mark.parametrize(
    "sick",
    [
        Gateway([Room(lambda now: 0, 30.0)], constant(0.5), 0.05),
        Gateway([Room(lambda now: 0)], constant(0.5), 0.05),
        Gateway([Bucket(0.2, 1.0, 5.0)], constant(0.5), 0.05),
    ],
    ids=["429 with Retry-After 30", "429 without", "a trickle"],
)
def test_a_sick_lane_costs_the_others_nothing(sick):
    """Twenty variants, one of them sick: each other one keeps 95 % of its pace."""
    without, _ = paces(None)
    beside, _ = paces(sick)
    assert all(alone >= 0.95 * now for alone, now in zip(without, beside, strict=True))


@pytest.mark.parametrize("lanes", [2, 5, 20])
@pytest.mark.parametrize("seconds", [2.0, 30.0, 250.0])
def test_a_slow_lane_leaves_the_others_their_places(seconds, lanes):
    """One of them answers late and refuses nothing: each other one keeps 95 % of its pace."""
    without, _ = paces(None, lanes=lanes)
    beside, _ = paces(Gateway([], constant(seconds), 0.05), lanes=lanes)
    assert all(alone >= 0.95 * now for alone, now in zip(without, beside, strict=True))


def test_a_slow_lane_is_lent_what_others_do_not_use():
    """Beside one with 60 requests a minute, which needs a place or two, it has most of the 64."""
    slow, quick = Gateway([], constant(30.0), 0.05), Gateway([], constant(0.5), 0.05)
    lanes = [Lane(ceiling=64), Lane(ceiling=64, requests_per_minute=60)]
    played = play([slow, quick], seconds=300.0, lanes=lanes, concurrency=64)
    assert 55 <= played.mean_inside(60.0, 300.0) <= 64
    assert 290 <= played.answered(variant=1)


def test_the_last_lane_with_work_has_all_places():
    """Nothing is kept for lanes that have nothing more to send, once a minute is over."""
    slow, quick = Gateway([], constant(30.0), 0.05), Gateway([], constant(0.5), 0.05)
    lanes = [Lane(ceiling=64, adaptive=False) for _ in range(2)]
    played = play([slow, quick], rows=1000, lanes=lanes, concurrency=64)
    assert played.mean_inside(100.0, 400.0) >= 60


def test_how_far_lanes_drift_apart_is_bounded_by_memory(monkeypatch):
    """Tickets that wait for a paused lane are drawn until they fill their bytes; then the others wait too."""
    monkeypatch.setattr("crun_batch.gateway.queues.MOST_WAITING_BYTES", 100 * 2048)
    _, played = paces(Gateway([Room(lambda now: 0, 1000.0)], constant(0.5), 0.05), lanes=2)
    assert 90 <= max(each.row for each in played.requests) <= 110


def refusing_run(gateways, *, set_aside, give_up_seconds=1e9, rows=50):
    told: list[tuple[int, str]] = []
    settings = PoolSettings(
        16, 600.0, RetryPolicy(), give_up_seconds, (lambda *each: told.append(each)) if set_aside else None
    )
    lanes = [Lane(ceiling=16) for _ in gateways]
    return play(gateways, rows=rows, lanes=lanes, concurrency=16, settings=settings), told


def test_a_variant_that_the_gateway_refuses_is_set_aside_and_the_others_finish():
    gateways = [Gateway([Scatter(1.0, None, 401)], constant(0.5), 0.05), Gateway([], constant(0.5), 0.05)]
    played, told = refusing_run(gateways, set_aside=True)
    assert 50 == played.answered(variant=1)
    assert [0] == [variant for variant, _ in told]
    assert EXIT_GATEWAY_REFUSED == played.halt.exit_code
    assert played.halt.others_are_finished
    assert (
        "v0: the gateway refuses this job: it does not accept the key (HTTP 401: too many requests"
        in played.halt.words
    )
    assert 16 >= sum(each.variant == 0 for each in played.requests)


def test_where_nothing_is_set_aside_the_first_refusal_stops_all():
    gateways = [Gateway([Scatter(1.0, None, 401)], constant(0.5), 0.05), Gateway([], constant(0.5), 0.05)]
    played, _ = refusing_run(gateways, set_aside=False)
    assert 50 > played.answered(variant=1)
    assert not played.halt.others_are_finished


def test_where_all_variants_are_set_aside_the_run_stops():
    gateways = [Gateway([Scatter(1.0, None, 401)], constant(0.5), 0.05) for _ in range(3)]
    played, told = refusing_run(gateways, set_aside=True, rows=10_000)
    assert [0, 1, 2] == sorted(variant for variant, _ in told)
    assert 16 >= len(played.requests)
    assert EXIT_GATEWAY_REFUSED == played.halt.exit_code


@pytest.mark.parametrize("wait", [None, 30.0, 72_000.0])
def test_without_success_it_gives_up_at_the_limit_and_says_what_it_was_told(wait):
    """However long the Retry-After: exit 5 after the ten minutes, with the words of the gateway."""
    gateway = Gateway([Room(lambda now: 0, wait)], constant(0.5), 0.05)
    played, _ = refusing_run([gateway], set_aside=False, give_up_seconds=600.0)
    assert 600.0 <= played.seconds <= 601.0
    assert EXIT_GATEWAY_REFUSED == played.halt.exit_code
    told = " (next try after 20 hours)" if wait == 72_000.0 else ""
    assert f"no success for 10 minutes; what failed last: HTTP 429: too many requests{told}" == played.halt.words


def test_a_variant_without_success_for_long_is_set_aside_and_the_others_finish():
    gateways = [Gateway([Room(lambda now: 0, 30.0)], constant(0.5), 0.05), Gateway([], constant(60.0), 0.05)]
    played, told = refusing_run(gateways, set_aside=True, give_up_seconds=120.0, rows=100)
    assert 100 == played.answered(variant=1)
    assert [(0, "no success for 2 minutes; what failed last: HTTP 429: too many requests")] == told
    assert EXIT_GATEWAY_REFUSED == played.halt.exit_code
