"""A worker's side of leases, without I/O: by its own clock, whatever that of whoever gives says."""

from __future__ import annotations

from typing import Any

import pytest

from crun_batch.gateway.steering import Lease, MoneyStanding, Standing
from crun_batch.records import Halt
from crun_batch.scale.granted import NEVER, RENEWED_EVERY_SECONDS, GrantedPart
from crun_batch.scale.leases import LEASE_SECONDS, LeaseBook, SharedLimits
from crun_batch.scale.messages import Granted, Stop

NO_MONEY = MoneyStanding(None, 0, 0)


class PlayedSession:
    """What a session is told, and what it says of itself."""

    def __init__(self) -> None:
        self.cooling: dict[str, float] = {}
        self.waits = False
        self.leases: list[Lease] = []
        self.heeded: list[tuple[str, float]] = []
        self.halts: list[Halt] = []

    def standing(self) -> Standing:
        return Standing(0, 8, self.waits, NO_MONEY, NO_MONEY, dict(self.cooling))

    def lease(self, lease: Lease) -> None:
        self.leases.append(lease)

    def heed_wave(self, lane: str, until: float) -> None:
        self.heeded.append((lane, until))
        self.cooling[lane] = max(until, self.cooling.get(lane, NEVER))

    def stop(self, halt: Halt) -> None:
        self.halts.append(halt)


class PlayedAsker:
    """A worker of a book, whose clock is so many seconds ahead of the book's; an answer takes a moment."""

    def __init__(self, book: LeaseBook, number: int, ahead: float, takes: float = 0.01) -> None:
        self.book, self.number, self.ahead, self.takes = book, number, ahead, takes
        self.epoch = book.join(number)
        self.session, self.part = PlayedSession(), GrantedPart()

    def at(self, now: float) -> bool:
        """A look at a moment of the book's clock; whether it asked, and was answered."""
        session: Any = self.session
        report = self.part.report_if_due(session, now + self.ahead)
        if report is None:
            return False
        grant = self.book.renew(self.number, self.epoch, report, now + self.takes)
        assert grant is not None
        self.part.take(session, Granted(grant), now + self.ahead + 2 * self.takes)
        return True


@pytest.mark.parametrize("ahead", [0.0, 1_000.0, -500.0])
def test_a_wave_at_one_worker_pauses_the_others_at_their_next_renewal(ahead: float):
    """Within a second, by each one's own clock, and no longer; told back, it is no new one, and does not grow."""
    book = LeaseBook(SharedLimits(8), [(0, 0), (0, 0)])
    one, two = PlayedAsker(book, 0, 0.0), PlayedAsker(book, 1, ahead)
    assert one.at(100.0) and two.at(100.0)
    one.session.cooling["lane"] = 130.0
    assert one.at(100.5), "a wave is told at once"
    assert not two.at(100.9)
    assert two.at(100.0 + RENEWED_EVERY_SECONDS)
    [(lane, until)] = two.session.heeded
    assert "lane" == lane and 130.0 - 0.05 <= until - ahead <= 130.0 + 0.05
    for second in range(102, 120):
        one.at(float(second))
        two.at(float(second))
    assert all(abs(until - ahead - 130.0) <= 0.05 for _, until in two.session.heeded)
    assert all(abs(until - 130.0) <= 0.05 for _, until in one.session.heeded)


def test_a_lease_ends_no_later_than_whoever_gave_it_thinks():
    """Counted from when it was asked for, however long the answer took."""
    book = LeaseBook(SharedLimits(8), [(0, 0)])
    slow = PlayedAsker(book, 0, 40.0, takes=2.0)
    slow.at(100.0)
    assert 100.0 + 40.0 + LEASE_SECONDS == slow.session.leases[-1].until
    assert slow.session.leases[-1].until - 40.0 <= book.lease_ends_at(0)


def test_who_waits_for_money_asks_soon_and_who_was_not_answered_asks_again():
    """Five times a second; nobody asks twice before the first is answered, or given up."""
    session, part = PlayedSession(), GrantedPart()
    anyone: Any = session
    assert part.report_if_due(anyone, 10.0) is not None
    assert part.report_if_due(anyone, 13.0) is None
    part.unanswered()
    assert part.report_if_due(anyone, 13.0) is not None
    part.unanswered()
    session.waits = True
    assert part.report_if_due(anyone, 13.1) is None
    assert part.report_if_due(anyone, 13.25) is not None
    part.take(anyone, Stop(5, "so it is"), 13.3)
    assert [Halt(5, "so it is")] == session.halts and [] == session.leases
