"""Who of several workers may use what of one job's money, places and rates: decided here, without I/O.

A worker reports what it uses and is granted its part until a moment. The laws, whatever the order of reports,
joins, deaths and delays:

    money     the caps that workers may be acting on never add up to more than the budget; no cap is below what its
              worker has committed (spent, or held by a request)
    places    what workers may have in flight never adds up to more than limits.concurrency
    rates     the shares of the limits per minute never add up to more than one

What is free is given on; what is not is given back first: a part that is lowered counts as it was until its worker
reports that it has become less. A worker that has died keeps its places until its lease has ended, for what it had
sent may still be under way, and its money becomes what its journal says. One that may live on out of sight keeps
them until what it had in flight must have ended. What all have together may be set while they are at work: a
total that is lowered is given back in the same way before any of it is given on, so that after one renewal of
each the laws hold with the new one, but for what was used by then, which nobody can take back.

An epoch tells a worker from the one that took its place: a report of an earlier epoch is not answered. What a
lease gave is worth nothing after its end, and a report that comes then and names it is not believed.

Times are monotonic seconds of whoever keeps the book, amounts integers of pico.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field, structs

from crun_batch.gateway.steering import JobLimits
from crun_batch.options import Shard

LEASE_SECONDS = 5.0
WHOLE_SHARE = 10**9
"""All of a limit per minute; shares are whole parts of it, so that they add up exactly."""
TOKEN_REST_SECONDS = 61.0
"""A share of tokens per minute that was given back is given on when what was used under it has left the minute."""
SAME_WAVE_SECONDS = 0.5
"""Two ends of a pause that are nearer than this are one wave, told twice."""
UNCAPPED_PICO = 2**62
"""What a worker may be acting on that was granted money without a cap: more than any cap."""


class SharedLimits(Struct, frozen=True):
    """What all workers have together."""

    concurrency: int
    max_usd_pico: int | None = None
    max_credits_pico: int | None = None
    has_token_rate: bool = False
    """Whether any limit of theirs is of tokens per minute, an endpoint's own among them."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    is_paused: bool = False
    """Nothing new is to be sent by anybody."""

    @property
    def limits(self) -> JobLimits:
        """What a part of theirs is a part of."""
        return JobLimits(self.concurrency, self.requests_per_minute, self.tokens_per_minute)

    def cap(self, unit: int) -> int | None:
        """The budget in a unit: 0 dollars, 1 credits."""
        return (self.max_usd_pico, self.max_credits_pico)[unit]


class UnitMoney(Struct, frozen=True):
    """One unit's money of a worker, as it reports it."""

    cap_pico: int | None = None
    """What its last lease allows; None: no cap, or it has had none."""
    committed_pico: int = 0
    largest_hold_pico: int = 0
    has_met_unbounded: bool = False
    """Whether a request of its own had no bound: under a cap it would never fit."""


class WorkerReport(Struct, frozen=True):
    """What a worker uses at a moment."""

    in_flight: int = 0
    places: int = 0
    """Requests in flight that its last lease allows."""
    share: int = 0
    """Of the limits per minute, what its last lease allows."""
    waits_for_money: bool = False
    usd: UnitMoney = UnitMoney()
    credits: UnitMoney = UnitMoney()
    cooling_until: dict[str, float] = {}
    """Lanes that pause after a wave of refusals -> until when."""


class Grant(Struct, frozen=True):
    """What a worker may use from now on."""

    now: float
    """When it was decided, by the clock of whoever keeps the book, as `until` and the waves are."""
    until: float
    places: int
    share: int
    max_usd_pico: int | None
    max_credits_pico: int | None
    more_may_come: bool
    waves: dict[str, float]
    """Lanes on which another worker met a wave of refusals -> until when all of them pause."""
    limits: JobLimits
    """What all have together: the share is of these."""
    is_paused: bool


class _Purse(Struct):
    """What a worker may be acting on in one unit, and what of it is committed."""

    granted_pico: int = 0
    told_pico: int = 0
    """What it had when it reported last."""
    committed_pico: int = 0
    hold_pico: int = 0
    is_unbounded: bool = False


class _Member(Struct):
    """A worker as it is known."""

    epoch: int = 0
    is_active: bool = False
    places: int = 0
    in_flight: int = 0
    share: int = 0
    waits: bool = False
    until: float = 0.0
    edition: int = 0
    """Of the totals under which its last lease was given."""
    purses: tuple[_Purse, _Purse] = field(default_factory=lambda: (_Purse(), _Purse()))


class _Left(Struct, frozen=True):
    """What nobody may use before a moment, and who had it."""

    amount: int
    until: float
    member: _Member | None = None


class LeasedPart(Struct, frozen=True):
    """What a worker may be acting on until its lease has ended, and its epoch.

    More than its last grant where that lowered a part: what was in flight then is so still.
    """

    epoch: int
    places: int
    share: int
    usd_pico: int
    credits_pico: int


class LeaseBook:
    """All grants of one job. `committed`: the dollars and credits that each worker's run directory has used."""

    def __init__(self, terms: SharedLimits, committed: Sequence[tuple[int, int]]) -> None:
        self._terms = terms
        self._edition = 0
        self._members = [_Member() for _ in committed]
        self._places_left: list[_Left] = []
        self._shares_left: list[_Left] = []
        self._waves: dict[str, float] = {}
        for member, amounts in zip(self._members, committed, strict=True):
            _set_committed(member, amounts)

    @property
    def active(self) -> int:
        """Workers that are at work."""
        return sum(member.is_active for member in self._members)

    @property
    def in_flight(self) -> int:
        """Requests of those that are at work, as each has reported last."""
        return sum(member.in_flight for member in self._members if member.is_active)

    @property
    def terms(self) -> SharedLimits:
        """What all have together, as it is now."""
        return self._terms

    def set_terms(self, terms: SharedLimits) -> None:
        """What all have together is this from the next renewal of each on."""
        self._terms = terms
        self._edition += 1

    def is_followed(self, now: float) -> bool:
        """Whether nobody may be acting on totals that hold no more."""
        return all(one.edition == self._edition or one.until <= now for one in self._members if one.is_active)

    def committed(self, unit: int) -> int:
        """What all have spent or hold, as each has reported last: dollars (0) or credits (1), in pico."""
        return sum(member.purses[unit].committed_pico for member in self._members)

    def has_met_unbounded(self, unit: int) -> bool:
        """Whether a request was to be sent that nothing bounds in a unit."""
        return any(member.purses[unit].is_unbounded for member in self._members)

    def largest_hold(self) -> tuple[int, int]:
        """Dollars and credits that a request of any worker holds at most, of those that were to be sent so far."""
        usd, credits = (max(one.purses[unit].hold_pico for one in self._members) for unit in (0, 1))
        return usd, credits

    def join(self, worker: int) -> int:
        """A process begins to work; returns its epoch, which fences off any before it."""
        member = self._members[worker]
        member.epoch += 1
        member.is_active = True
        member.waits = False
        return member.epoch

    def come_back(self, worker: int) -> None:
        """A worker that had left without a word asks again, under its epoch: what it has in flight, it reports."""
        member = self._members[worker]
        member.is_active = True
        self._places_left = [one for one in self._places_left if one.member is not member]

    def recall(self, worker: int, part: LeasedPart, now: float) -> None:
        """An earlier keeper of the book gave this: the worker may act on it for one lease more."""
        member = self._members[worker]
        member.epoch, member.is_active, member.until = part.epoch, True, now + LEASE_SECONDS
        member.places, member.share = part.places, part.share
        for purse, cap in zip(member.purses, (part.usd_pico, part.credits_pico), strict=True):
            purse.granted_pico = max(purse.committed_pico, cap)

    def held(self, worker: int) -> LeasedPart:
        """What the worker may be acting on."""
        member = self._members[worker]
        usd, credits = (purse.granted_pico for purse in member.purses)
        return LeasedPart(member.epoch, member.places, member.share, usd, credits)

    def recount(self, worker: int, committed: tuple[int, int], *, has_own_part: bool = False) -> None:
        """What the run directory of a worker that is not at work has used.

        `has_own_part`: a process that does not ask is at work there; a shard by itself may use its nth part.
        """
        member, part = self._members[worker], Shard(worker + 1, len(self._members))
        _set_committed(member, committed)
        for unit, purse in enumerate(member.purses if has_own_part else ()):
            purse.granted_pico = max(purse.granted_pico, part.share_of(self._terms.cap(unit) or 0))

    def lease_ends_at(self, worker: int) -> float:
        """Until when the worker may be acting on what it was given."""
        return self._members[worker].until

    def leave(
        self, worker: int, epoch: int, committed: tuple[int, int], now: float, *, drained_at: float = 0.0
    ) -> None:
        """A process has ended; `committed` is what its run directory says now. An earlier epoch does not count.

        `drained_at`: when what it may still have in flight, out of sight, must have ended.
        """
        member = self._members[worker]
        if member.epoch != epoch or not member.is_active:
            return
        until = max(now, member.until, drained_at)
        self._places_left.append(_Left(member.places, until, member if drained_at else None))
        self._rest(member.share, min(now, member.until))
        member.is_active, member.places, member.in_flight, member.share, member.waits = False, 0, 0, 0, False
        _set_committed(member, committed)

    def renew(self, worker: int, epoch: int, report: WorkerReport, now: float) -> Grant | None:
        """What the worker may use from now on; None: another has taken its place, and it may use nothing."""
        member = self._members[worker]
        if member.epoch != epoch or not member.is_active:
            return None
        self._take_in(member, report if now < member.until else _without_lease(report), now)
        caps = [self._cap(member, unit) for unit in (0, 1)]
        member.until, member.edition = now + LEASE_SECONDS, self._edition
        return Grant(
            now=now,
            until=member.until,
            places=self._place(member, now),
            share=self._share(member, now),
            max_usd_pico=caps[0],
            max_credits_pico=caps[1],
            more_may_come=not self._is_used_up(),
            waves=self.waves(report, now),
            limits=self._terms.limits,
            is_paused=self._terms.is_paused,
        )

    def waves(self, report: WorkerReport, now: float) -> dict[str, float]:
        """The waves of refusals that a worker that reports this has not heard of."""
        return {
            lane: until
            for lane, until in self._waves.items()
            if until > now and until > report.cooling_until.get(lane, 0.0) + SAME_WAVE_SECONDS
        }

    def _take_in(self, member: _Member, report: WorkerReport, now: float) -> None:
        """From this report on nothing counts but what it says: the worker acts on its last lease alone."""
        member.in_flight, member.waits = report.in_flight, report.waits_for_money
        member.places = max(report.places, report.in_flight)
        self._rest(member.share - report.share, min(now, member.until))
        member.share = report.share
        for purse, money in zip(member.purses, (report.usd, report.credits), strict=True):
            purse.committed_pico = max(money.committed_pico, purse.committed_pico if money.cap_pico is None else 0)
            purse.hold_pico, purse.is_unbounded = money.largest_hold_pico, money.has_met_unbounded
            told = (UNCAPPED_PICO if report.places else 0) if money.cap_pico is None else money.cap_pico
            purse.granted_pico = purse.told_pico = max(told, purse.committed_pico)
        for lane, until in report.cooling_until.items():
            if until > self._waves.get(lane, 0.0) + SAME_WAVE_SECONDS:
                self._waves[lane] = until

    def _rest(self, share: int, used_until: float) -> None:
        if share > 0 and self._terms.has_token_rate:
            self._shares_left.append(_Left(share, used_until + TOKEN_REST_SECONDS))

    def _place(self, member: _Member, now: float) -> int:
        left = _still_left(self._places_left, now)
        free = self._terms.concurrency - left - sum(one.places for one in self._members)
        part = self._part(member, max(0, self._terms.concurrency - left))
        if self.in_flight and self._is_over():
            part = 0  # a reply that costs less than it held is no room for another request
        granted = min(part, member.places + free)
        member.places = max(member.places, granted)
        return max(0, granted)

    def _share(self, member: _Member, now: float) -> int:
        held = sum(one.share for one in self._members) + _still_left(self._shares_left, now)
        granted = max(0, min(self._part(member, WHOLE_SHARE), member.share + WHOLE_SHARE - held))
        member.share = max(member.share, granted)
        return granted

    def _part(self, member: _Member, whole: int) -> int:
        """An equal part for each that is at work; what is left over goes to the first of them."""
        active = [one for one in self._members if one.is_active]
        part, over = divmod(whole, len(active))
        return part + (active.index(member) < over if member in active else 0)

    def _cap(self, member: _Member, unit: int) -> int | None:
        """A part of what is left, so that the last of it can be used by whoever still finds a request for it."""
        cap, purse = self._terms.cap(unit), member.purses[unit]
        if cap is None:
            purse.granted_pico = UNCAPPED_PICO
            return None
        left = max(0, cap - sum(one.purses[unit].committed_pico for one in self._members))
        free = cap - sum(one.purses[unit].granted_pico for one in self._members)
        wanted = max(left // (2 * self.active), purse.hold_pico)
        heir = self._heir()
        if heir is not None:
            wanted = left if member is heir else 0
        granted = min(purse.committed_pico + wanted, purse.granted_pico + free)
        granted = max(granted, purse.committed_pico)
        purse.granted_pico = max(purse.granted_pico, granted)
        return granted

    def _is_over(self) -> bool:
        """Whether more is gone than all may spend: a cap was lowered, or a reply has cost more than it held."""
        return any((cap := self._terms.cap(unit)) is not None and self.committed(unit) > cap for unit in (0, 1))

    def _heir(self) -> _Member | None:
        """Where nobody's part has room for one more request, one gets what all have left."""
        active = [one for one in self._members if one.is_active]
        return active[0] if active and all(one.waits for one in active) else None

    def _is_used_up(self) -> bool:
        """Whether one has all that is left, nothing is in flight that could give room, and it still waits."""
        heir = self._heir()
        if heir is None or any(one.in_flight for one in self._members if one.is_active):
            return False
        caps = [(unit, cap) for unit in (0, 1) if (cap := self._terms.cap(unit)) is not None]
        return all(heir.purses[unit].told_pico + self._committed_beside(heir, unit) >= cap for unit, cap in caps)

    def _committed_beside(self, member: _Member, unit: int) -> int:
        return sum(one.purses[unit].committed_pico for one in self._members if one is not member)


def _without_lease(report: WorkerReport) -> WorkerReport:
    """The report of a worker whose lease has ended: it acts on nothing, whatever it was given."""
    usd, credits = (structs.replace(money, cap_pico=None) for money in (report.usd, report.credits))
    return structs.replace(report, places=0, share=0, usd=usd, credits=credits)


def _set_committed(member: _Member, amounts: tuple[int, int]) -> None:
    for purse, amount in zip(member.purses, amounts, strict=True):
        purse.granted_pico = purse.committed_pico = amount


def _still_left(amounts: list[_Left], now: float) -> int:
    amounts[:] = [one for one in amounts if one.until > now]
    return sum(one.amount for one in amounts)
