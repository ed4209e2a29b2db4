"""May the next request go: reservation before sending, settlement after.

Owns: the arithmetic of a cap in dollars, in credits, or both, and of a balance of which some must stay. All
amounts are integers of pico. Must not know: prices, tickets, files, the clock. The pool is handed this class's
bound methods by its callers and knows none of it.

The law: spent + held + held of unknown outcomes never exceeds the cap as long as no request costs more than it
held; one that does is recorded as an overrun. What stays unused at a stop is less than the largest hold.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from crun_batch.records import Cost, Hold, Room

Unit = Literal["usd", "credits"]
FREE = Cost(usd_pico=0, credits_pico=0)
_NOTHING = Hold(usd_pico=0, credits_pico=0)


class Budget(Struct, frozen=True):
    """The caps of a run directory, over all its sessions. None: no cap in that unit."""

    max_usd_pico: int | None = None
    max_credits_pico: int | None = None


class Purse(Struct):
    """One unit's account: cap, spent, held by requests in flight, held by requests of unknown outcome."""

    cap_pico: int | None = None
    floor_cap_pico: int | None = None
    """What the balance allows, as a cap on what is spent and held."""
    spent_pico: int = 0
    held_pico: int = 0
    unknown_pico: int = 0
    overrun_pico: int = 0
    balance_pico: int | None = None
    """The balance, as it was read last."""
    largest_hold_pico: int = 0
    """Of the requests that were to be sent, whether there was room for them or not."""
    has_met_unbounded: bool = False
    """Whether one of these had no bound in this unit: under a cap it would never fit."""
    unbounded_by: str | None = None
    """What a reply was billed for that no hold bounds, its cost unknown: under a cap nothing fits any more."""

    @property
    def committed_pico(self) -> int:
        """What is spent or may be: nobody can take it back."""
        return self.spent_pico + self.held_pico + self.unknown_pico

    @property
    def limit_pico(self) -> int | None:
        """The lower of the budget's cap and what the balance allows."""
        cap, floor_cap = self.cap_pico, self.floor_cap_pico
        if cap is None or floor_cap is None:
            return floor_cap if cap is None else cap
        return min(cap, floor_cap)

    @property
    def free_pico(self) -> int | None:
        """What is neither spent nor held. None: no limit. Negative after an overrun or a fallen balance."""
        limit = self.limit_pico
        return None if limit is None else limit - self.committed_pico

    @property
    def is_out_of_balance(self) -> bool:
        """Whether the balance, rather than the cap, has no room for the largest request."""
        cap, floor_cap = self.cap_pico, self.floor_cap_pico
        is_lower = floor_cap is not None and (cap is None or floor_cap < cap)
        return is_lower and (self.free_pico or 0) < self.largest_hold_pico

    def fits(self, hold_pico: int | None) -> bool:
        """Whether a request may hold that much; None: nothing bounds it.

        A cap has no room for what nothing bounds; the balance alone lets it pass while there is any left.
        """
        if self.cap_pico is None and self.floor_cap_pico is None:
            return True
        if self.cap_pico is not None and self.unbounded_by is not None:
            return False
        free = self.free_pico or 0
        if hold_pico is None:
            return self.cap_pico is None and free > 0
        return hold_pico <= free

    def asks(self, hold_pico: int | None) -> None:
        """A request is to be sent that would hold so much."""
        self.largest_hold_pico = max(self.largest_hold_pico, hold_pico or 0)
        if hold_pico is None:
            self.has_met_unbounded = True

    def may_fit_under(self, hold_pico: int | None) -> bool:
        """Whether a higher cap alone would make room for a request."""
        if self.cap_pico is None:
            return self.fits(hold_pico)
        floor = self.floor_cap_pico
        if self.unbounded_by is not None:
            return False
        return hold_pico is not None and (floor is None or hold_pico <= floor - self.committed_pico)

    def cap_to_finish_pico(self, bill_pico: int | None, open_units: int) -> int:
        """The cap under which what is open fits.

        `bill_pico`: what all of it is going to cost at most with what was spent before; None: unknown, then each
        unit may cost as much as the largest. On top of the bill stay the holds of unknown outcomes, and the last
        request must find room for its hold, which is more than it costs.
        """
        if bill_pico is None:
            bill_pico = self.spent_pico + open_units * self.largest_hold_pico
        return max(bill_pico, self.spent_pico) + self.unknown_pico + self.largest_hold_pico

    def observe(self, balance_pico: int, keep_pico: int) -> None:
        """A balance read just now: see `Reservations.observe_balance`."""
        lowest = self.spent_pico + self.unknown_pico + balance_pico - keep_pico
        highest = lowest + self.held_pico
        floor = lowest if self.floor_cap_pico is None else self.floor_cap_pico
        if self.balance_pico is not None and balance_pico > self.balance_pico:
            floor += balance_pico - self.balance_pico
        self.floor_cap_pico = lowest if floor > highest else floor
        self.balance_pico = balance_pico

    def settle(self, hold_pico: int | None, cost_pico: int | None) -> None:
        """A request ended: its hold becomes its cost, or, where the cost is unknown, stays held for good."""
        held = hold_pico or 0
        self.held_pico -= held
        if cost_pico is None:
            self.unknown_pico += held
            return
        self.spent_pico += cost_pico
        if hold_pico is not None and cost_pico > held:
            self.overrun_pico += cost_pico - held


class Reservations:
    """The money of one run directory: what was spent, what is held, whether one more request fits.

    `spent` and `unknown` are what earlier sessions left behind: known costs, and holds of unknown outcomes.
    """

    def __init__(self, budget: Budget, *, spent: Hold | Cost = _NOTHING, unknown: Hold = _NOTHING) -> None:
        self.usd = Purse(budget.max_usd_pico, None, spent.usd_pico or 0, 0, unknown.usd_pico or 0)
        self.credits = Purse(budget.max_credits_pico, None, spent.credits_pico or 0, 0, unknown.credits_pico or 0)
        self.more_may_come = False
        """Whether somebody may raise the caps: what only they refuse waits for that."""

    def set_caps(self, budget: Budget) -> None:
        """Other caps from now on. Raises ValueError for one below what is committed: that is gone."""
        caps = ((self.usd, budget.max_usd_pico), (self.credits, budget.max_credits_pico))
        if any(cap is not None and cap < purse.committed_pico for purse, cap in caps):
            raise ValueError("a cap below what is spent and held")
        for purse, cap in caps:
            purse.cap_pico = cap

    def refusal(self, hold: Hold) -> Room:
        """What is said of a request that does not fit now."""
        may_fit = self.usd.may_fit_under(hold.usd_pico) and self.credits.may_fit_under(hold.credits_pico)
        return "wait" if self.more_may_come and may_fit else "none"

    def can_hold(self, hold: Hold) -> bool:
        """Whether this much may be reserved now; False may turn True when a request in flight settles."""
        return self.usd.fits(hold.usd_pico) and self.credits.fits(hold.credits_pico)

    def reserve(self, hold: Hold) -> bool:
        """Hold this much if it fits; says whether it did."""
        self.usd.asks(hold.usd_pico)
        self.credits.asks(hold.credits_pico)
        if not self.can_hold(hold):
            return False
        self.hold(hold)
        return True

    def hold(self, hold: Hold) -> None:
        """Hold this much whether it fits or not: the request has been sent already."""
        self.usd.held_pico += hold.usd_pico or 0
        self.credits.held_pico += hold.credits_pico or 0

    def settle(self, hold: Hold, cost: Cost) -> None:
        """A request that was reserved ended with this cost; a unit in which it is unknown keeps its hold."""
        self.usd.settle(hold.usd_pico, cost.usd_pico)
        self.credits.settle(hold.credits_pico, cost.credits_pico)

    def meet_unbounded(self, cost: Cost) -> None:
        """A reply was billed for what no hold bounds: no cap can be kept in a unit where its cost is unknown."""
        for purse, known_pico in ((self.usd, cost.usd_pico), (self.credits, cost.credits_pico)):
            if known_pico is None:
                purse.unbounded_by = cost.beyond_hold

    def release(self, hold: Hold) -> None:
        """A request that was reserved cost nothing: it was never sent, or was refused."""
        self.settle(hold, FREE)

    def observe_balance(self, balance_pico: int, unit: Unit, keep_pico: int = 0) -> None:
        """A balance read just now: from here on at most balance - keep may be spent in its unit.

        Which requests in flight are already in it, nobody says; so what was allowed before stays allowed as long
        as some such share explains the reading. Where none does, others spend too, or prices are too low: the
        reading counts, the requests in flight on top of it. A balance that lags shows too much, which allows
        nothing more; one that has risen was topped up.
        """
        purse = self.usd if unit == "usd" else self.credits
        purse.observe(balance_pico, keep_pico)
