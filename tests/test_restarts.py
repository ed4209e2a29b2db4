"""A worker that is lost is started again, for days; one that is lost at once, time and again, is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from crun_batch.scale.restarts import Restarts

HOUR = 3600.0
lifetimes = st.lists(st.floats(0.0, 2 * HOUR), max_size=30)


def starts(lifetimes: list[float]) -> list[float]:
    """When a worker is started that lives for these times, as long as it may be."""
    restarts, now, started = Restarts(), 0.0, []
    for seconds in lifetimes:
        if not restarts.may_start(now):
            break
        restarts.start(now)
        started.append(now)
        now += seconds
    return started


@given(lifetimes)
def test_there_are_at_most_four_starts_within_an_hour(lifetimes: list[float]) -> None:
    started = starts(lifetimes)
    assert all(fifth - first > HOUR for first, fifth in zip(started, started[4:], strict=False))


@given(st.lists(st.floats(HOUR / 4 + 1, 2 * HOUR), max_size=30))
def test_one_that_lives_for_a_while_is_started_for_ever(lifetimes: list[float]) -> None:
    assert len(lifetimes) == len(starts(lifetimes))


def test_one_that_cannot_live_is_given_up() -> None:
    assert [0.0, 1.0, 2.0, 3.0] == starts([1.0] * 10)
