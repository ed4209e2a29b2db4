"""Who of several workers may use what: the laws of leases in virtual time, with deaths, delays, late reports."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crun_batch.scale.leases import (
    LEASE_SECONDS,
    TOKEN_REST_SECONDS,
    WHOLE_SHARE,
    Grant,
    LeaseBook,
    SharedLimits,
    UnitMoney,
    WorkerReport,
)

STEP_SECONDS = 0.05


class PlayedWorker:
    """A process that obeys its grants: it sends while it may, and each request holds more than it costs."""

    def __init__(self, number: int, rows: int, draw: random.Random, spent: int) -> None:
        self.number, self.rows, self.draw = number, rows, draw
        self.epoch = 0
        self.spent = spent
        self.flying: list[tuple[float, int]] = []
        self.grant: Grant | None = None
        self.post: list[tuple[float, Any]] = []
        """What is under way to it, or from it."""
        self.asked_at = float("-inf")
        self.is_asking = False
        self.ended = False
        self.used_up = False

    @property
    def committed(self) -> int:
        return self.spent + sum(hold for _, hold in self.flying)

    def places(self, now: float) -> int:
        grant = self.grant
        return 0 if grant is None or grant.is_paused or now >= grant.until else grant.places

    def has_room(self, hold: int) -> bool:
        cap = None if self.grant is None else self.grant.max_usd_pico
        return cap is None or self.committed + hold <= max(cap, self.floor)

    floor = 0
    """What was committed when the grant came: no cap is below."""

    def live(self, now: float, hold: int, seconds: float) -> None:
        for ends_at, held in [one for one in self.flying if one[0] <= now]:
            self.flying.remove((ends_at, held))
            self.spent += self.draw.randint(held // 3, held)
        while self.rows and len(self.flying) < self.places(now) and self.has_room(hold):
            self.flying.append((now + self.draw.uniform(0.2, 2.0) * seconds, hold))
            self.rows -= 1
        if self.grant is not None and not self.grant.more_may_come and not self.has_room(hold) and not self.flying:
            self.used_up = self.ended = True
        if not self.rows and not self.flying:
            self.ended = True

    def waits(self, now: float, hold: int) -> bool:
        return bool(self.rows) and self.places(now) > len(self.flying) and not self.has_room(hold)

    def report(self, now: float, hold: int) -> WorkerReport:
        grant = self.grant
        cap = None if grant is None else grant.max_usd_pico
        told = None if cap is None else max(cap, self.floor)
        return WorkerReport(
            in_flight=len(self.flying),
            places=0 if grant is None else grant.places,
            share=0 if grant is None else grant.share,
            waits_for_money=self.waits(now, hold),
            usd=UnitMoney(told, self.committed, hold),
        )


class Play:
    """Some workers under one book, some of which die."""

    def __init__(self, seed: int, *, workers: int, places: int, cap: int | None, deaths: float = 0.0) -> None:
        self.draw = random.Random(seed)
        self.hold = 100
        self.cap, self.concurrency = cap, places
        self.workers = [
            PlayedWorker(n, self.draw.randint(0, 400), self.draw, self.draw.randint(0, 200) if cap else 0)
            for n in range(workers)
        ]
        self.book = LeaseBook(SharedLimits(places, cap), [(one.committed, 0) for one in self.workers])
        self.deaths = deaths
        self.dead: list[tuple[float, int]] = []
        """Until when what a dead one had in flight may be under way, and how much that is."""
        self.most_in_flight = 0
        for one in self.workers:
            one.epoch = self.book.join(one.number)

    def run(self, seconds: float) -> None:
        now = 0.0
        while now < seconds and not all(one.ended for one in self.workers):
            now += STEP_SECONDS
            for worker in self.workers:
                if not worker.ended:
                    self._step(worker, now)
            self._hold_the_laws(now)

    def _step(self, worker: PlayedWorker, now: float) -> None:
        if self.draw.random() < self.deaths:
            self._die(worker, now)
        for due, message in [one for one in worker.post if one[0] <= now]:
            worker.post.remove((due, message))
            self._delivered(worker, message, now)
        worker.live(now, self.hold, 1.0)
        every = 0.2 if worker.waits(now, self.hold) else 1.0
        if not worker.is_asking and now - worker.asked_at >= every:
            worker.is_asking, worker.asked_at = True, now
            worker.post.append((now + self.draw.uniform(0, 0.4), (worker.epoch, worker.report(now, self.hold))))
        if worker.ended:
            self.book.leave(worker.number, worker.epoch, (worker.committed, 0), now)

    def _delivered(self, worker: PlayedWorker, message: Any, now: float) -> None:
        if isinstance(message, tuple):
            epoch, report = message
            grant = self.book.renew(worker.number, epoch, report, now)
            assert (grant is None) == (epoch != worker.epoch)
            if grant is not None:
                worker.post.append((now + self.draw.uniform(0, 0.4), grant))
            return
        worker.is_asking = False
        worker.floor, worker.grant = worker.committed, message

    def _die(self, worker: PlayedWorker, now: float) -> None:
        """Its journal says what it had in flight; its reports may still be under way; another takes its place."""
        until = 0.0 if worker.grant is None else worker.grant.until
        self.dead.append((until, len(worker.flying)))
        worker.spent, worker.flying, worker.grant, worker.is_asking = worker.committed, [], None, False
        worker.post = [one for one in worker.post if isinstance(one[1], tuple)]
        self.book.leave(worker.number, worker.epoch, (worker.committed, 0), now)
        worker.epoch = self.book.join(worker.number)

    def _hold_the_laws(self, now: float) -> None:
        late = sum(flying for until, flying in self.dead if until > now)
        in_flight = sum(len(one.flying) for one in self.workers)
        self.most_in_flight = max(self.most_in_flight, in_flight)
        assert in_flight + late <= self.concurrency
        if self.cap is not None:
            assert sum(one.committed for one in self.workers) <= self.cap
        shares = (one.grant.share for one in self.workers if one.grant is not None and not one.ended)
        assert sum(shares) <= WHOLE_SHARE


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(9, 60))
def test_never_more_in_flight_and_never_more_spent_than_all_may(seed: int, workers: int, places: int):
    """Workers join, end, die with requests in flight, report late and again: both laws hold at every moment."""
    draw = random.Random(seed)
    cap = draw.choice([None, draw.randint(2_000, 60_000)])
    play = Play(seed, workers=workers, places=places, cap=cap, deaths=draw.choice([0.0, 0.002, 0.02]))
    play.run(60)


@pytest.mark.parametrize("workers", [1, 2, 8, 32])
def test_a_budget_is_used_up_to_its_last_request(workers: int):
    """What is left when all have ended is less than one request holds; and nobody waits for ever."""
    for seed in range(6):
        play = Play(seed, workers=workers, places=64, cap=None)
        play.cap = 20_000
        for one in play.workers:
            one.rows, one.spent = 2_000, 0
        play.book = LeaseBook(SharedLimits(64, play.cap), [(0, 0)] * workers)
        for one in play.workers:
            one.epoch = play.book.join(one.number)
        play.run(600)
        assert all(one.ended and one.used_up for one in play.workers)
        assert play.cap - play.hold < sum(one.committed for one in play.workers) <= play.cap


def test_all_places_are_used_and_given_on_when_a_worker_ends():
    """Equal parts while all are at work; the last one gets them all."""
    play = Play(1, workers=4, places=30, cap=None)
    for number, one in enumerate(play.workers):
        one.rows = 100 if number else 3_000
    play.run(30)
    assert 30 == play.most_in_flight and all(one.ended for one in play.workers[1:])
    play.run(10)
    assert 30 == play.workers[0].places(0.0)


def test_who_died_keeps_its_places_until_its_lease_has_ended():
    """What it had sent may still be under way: its successor gets what is free, and no more before."""
    book = LeaseBook(SharedLimits(10), [(0, 0), (0, 0)])
    epochs = [book.join(0), book.join(1)]
    for worker in (0, 1):
        grant = book.renew(worker, epochs[worker], WorkerReport(), 0.0)
        assert grant is not None and 5 == grant.places
    book.leave(0, epochs[0], (0, 0), 1.0)
    again = book.join(0)
    assert None is book.renew(0, epochs[0], WorkerReport(), 1.1), "an earlier epoch is not answered"
    early = book.renew(0, again, WorkerReport(), 1.2)
    late = book.renew(0, again, WorkerReport(), LEASE_SECONDS + 0.1)
    assert early is not None and late is not None and (0, 5) == (early.places, late.places)


def test_a_part_that_is_lowered_is_given_on_when_it_was_given_back():
    """The first worker had all; another joins: it gets its half when the first has reported that it let go."""
    book = LeaseBook(SharedLimits(10), [(0, 0), (0, 0)])
    first = book.join(0)
    assert 10 == book.renew(0, first, WorkerReport(), 0.0).places  # type: ignore[union-attr]
    second = book.join(1)
    assert 0 == book.renew(1, second, WorkerReport(), 0.1).places  # type: ignore[union-attr]
    assert 5 == book.renew(0, first, WorkerReport(in_flight=10, places=10), 0.2).places  # type: ignore[union-attr]
    assert 0 == book.renew(1, second, WorkerReport(), 0.3).places  # type: ignore[union-attr]
    book.renew(0, first, WorkerReport(in_flight=7, places=5), 0.4)
    assert 3 == book.renew(1, second, WorkerReport(), 0.5).places  # type: ignore[union-attr]


def test_a_share_of_tokens_rests_for_a_minute_before_another_has_it():
    """What was used under it is still in the window; a share of requests is paced, and goes on at once."""
    for has_token_rate, after in ((True, WHOLE_SHARE // 2), (False, WHOLE_SHARE)):
        book = LeaseBook(SharedLimits(10, has_token_rate=has_token_rate), [(0, 0), (0, 0)])
        epochs = [book.join(0), book.join(1)]
        for worker in (0, 1):
            assert WHOLE_SHARE // 2 == book.renew(worker, epochs[worker], WorkerReport(), 0.0).share  # type: ignore[union-attr]
        book.leave(0, epochs[0], (0, 0), 1.0)
        own = WorkerReport(share=WHOLE_SHARE // 2, places=5)
        assert after == book.renew(1, epochs[1], own, 2.0).share  # type: ignore[union-attr]
        late = 2.0 + TOKEN_REST_SECONDS
        for at in range(3, int(late) - 1):
            book.renew(1, epochs[1], own, float(at))
        assert WHOLE_SHARE == book.renew(1, epochs[1], own, late).share  # type: ignore[union-attr]


def test_a_wave_at_one_worker_is_told_to_the_others_once():
    """Until it is over; who has met it, or has heard of it, is told nothing."""
    book = LeaseBook(SharedLimits(10), [(0, 0), (0, 0)])
    epochs = [book.join(0), book.join(1)]
    met = book.renew(0, epochs[0], WorkerReport(cooling_until={"lane": 20.0}), 10.0)
    assert met is not None and {} == met.waves
    told = book.renew(1, epochs[1], WorkerReport(), 10.1)
    assert told is not None and {"lane": 20.0} == told.waves
    heard = book.renew(1, epochs[1], WorkerReport(cooling_until={"lane": 20.0}), 11.0)
    over = book.renew(1, epochs[1], WorkerReport(), 21.0)
    assert heard is not None and over is not None and [{}, {}] == [heard.waves, over.waves]
