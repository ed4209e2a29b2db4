"""A worker's side of leases: when it asks, what it reports, how it obeys. Decided without I/O.

Whoever grants may be on another machine with another clock. A lease counts from the moment at which it was asked
for, so a worker's own end of it is never after the giver's. The giver's clock is known as well as its quickest
answer tells, and never thought to be ahead of what it is: a wave that is told and reported back does not grow.
"""

from __future__ import annotations

from crun_batch.gateway.steering import Lease, MoneyStanding, SteeredSession
from crun_batch.records import Halt
from crun_batch.scale.leases import WHOLE_SHARE, Grant, UnitMoney, WorkerReport
from crun_batch.scale.messages import Stop, ToWorker, Wave

RENEWED_EVERY_SECONDS = 1.0
LOOKED_EVERY_SECONDS = 0.05
WAITS_BETWEEN_SECONDS = 0.2
"""How often a worker that waits for money asks again."""
LEAST_SHARE = 1e-9
NEVER = float("-inf")


class GrantedPart:
    """What a session has been granted."""

    def __init__(self) -> None:
        self._grant: Grant | None = None
        self._until = NEVER
        self._is_asking = False
        self._asked_at = NEVER
        self._ahead_seconds = NEVER
        """How far the giver's clock is ahead of ours, at least."""
        self._told: dict[str, float] = {}
        """The waves that were reported or heard of -> their ends, by our clock."""

    def report_if_due(self, session: SteeredSession, now: float) -> WorkerReport | None:
        """Once a second; at once where refusals came in a wave, soon where there is no money."""
        standing = session.standing()
        is_new_wave = any(until > self._told.get(lane, 0.0) for lane, until in standing.cooling_until.items())
        every = WAITS_BETWEEN_SECONDS if standing.waits_for_money else RENEWED_EVERY_SECONDS
        if self._is_asking or not (is_new_wave or now - self._asked_at >= every):
            return None
        self._is_asking, self._asked_at = True, now
        grant = self._grant if now < self._until else None
        cooling = standing.cooling_until if self._ahead_seconds > NEVER else {}
        self._told |= cooling
        return WorkerReport(
            in_flight=standing.in_flight,
            places=0 if grant is None else grant.places,
            share=0 if grant is None else grant.share,
            waits_for_money=standing.waits_for_money,
            usd=_money(standing.usd, grant),
            credits=_money(standing.credits, grant),
            cooling_until={lane: until + self._ahead_seconds for lane, until in cooling.items()},
        )

    def take(self, session: SteeredSession, message: ToWorker, now: float) -> None:
        """Obey an answer, or what came without being asked for."""
        if isinstance(message, Stop):
            session.stop(Halt(message.exit_code, message.reason))
        elif isinstance(message, Wave):
            self._heed(session, message.until)
        else:
            grant = message.grant
            self._is_asking, self._grant = False, grant
            self._until = self._asked_at + grant.until - grant.now
            self._ahead_seconds = max(self._ahead_seconds, grant.now - now)
            session.lease(lease_of(grant, self._until, session))
            self._heed(session, grant.waves)

    def unanswered(self) -> None:
        """No answer will come any more; the next report may go."""
        self._is_asking = False

    def forget_clock(self) -> None:
        """Another gives now, by another clock: what its waves are, it will tell."""
        self._ahead_seconds = NEVER

    def _heed(self, session: SteeredSession, waves: dict[str, float]) -> None:
        if self._ahead_seconds == NEVER:
            return
        for lane, until in waves.items():
            own = until - self._ahead_seconds
            session.heed_wave(lane, own)
            self._told[lane] = own


def _money(standing: MoneyStanding, grant: Grant | None) -> UnitMoney:
    cap = None if grant is None else standing.cap_pico
    return UnitMoney(cap, standing.committed_pico, standing.largest_hold_pico, standing.has_met_unbounded)


def lease_of(grant: Grant, until: float, session: SteeredSession) -> Lease:
    """The grant as the session takes it. What was committed since it was decided cannot be taken back any more."""
    standing = session.standing()
    caps = (grant.max_usd_pico, standing.usd), (grant.max_credits_pico, standing.credits)
    usd, credits = (None if cap is None else max(cap, money.committed_pico) for cap, money in caps)
    return Lease(
        until=until,
        concurrency=grant.places if grant.share else 0,
        rate_share=max(LEAST_SHARE, grant.share / WHOLE_SHARE),
        max_usd_pico=usd,
        max_credits_pico=credits,
        more_may_come=grant.more_may_come,
        limits=grant.limits,
        is_paused=grant.is_paused,
    )
