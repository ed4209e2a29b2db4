"""May the run start, and may the next request go: reservation before sending, settlement after.

Owns: the arithmetic of a cap in dollars, in credits, or both, and of a balance of which some must stay. All
amounts are integers of pico. Must not know: prices, tickets, files, the clock. The pool is handed this class's
bound methods by its callers and knows none of it.

The law: spent + held + held of unknown outcomes never exceeds the cap as long as no request costs more than it
held; one that does is recorded as an overrun. What stays unused at a stop is less than the largest hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Literal

from msgspec import Struct

from crun_batch.records import PICO, Cost, Hold, Room

CreditsMode = Literal["require", "warn", "off"]
Unit = Literal["usd", "credits"]
FREE = Cost(usd_pico=0, credits_pico=0)
DIGITS_SHOWN = 6
"""Of an amount; of a larger one all digits to its second decimal."""
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


class Needs(Struct, frozen=True):
    """What the requests still to be sent will cost, in one unit: expected once rows have finished, else low.

    `low_pico` None: no price is known; `expected_pico` may then still be what a pilot has measured.
    """

    rows: int
    finished_rows: int
    low_pico: int | None
    expected_pico: int | None = None
    limit_of: Callable[[int], int] | None = None
    """The value of `limit_option` that takes in so many of the open rows; None: the finished ones come first."""
    limit_option: str = "--limit"
    units: int | None = None
    """How many units the rows have open, where they may be several for each."""
    unpriced: Sequence[str] = ()
    """Models whose price is unknown in the unit."""
    most_pico: int | None = None
    """What they cannot exceed, which is what is reserved for them; None: nothing bounds it."""

    @property
    def pico(self) -> int | None:
        return self.low_pico if self.expected_pico is None else self.expected_pico


class Preflight(Struct, frozen=True):
    """Whether the run may start. `limit`: the `--limit` whose rows fit into what is left; `notes`: what to say."""

    may_start: bool
    sentence: str = ""
    limit: int | None = None
    notes: tuple[str, ...] = ()


def may_start(
    needs: Mapping[Unit, Needs],
    reservations: Reservations,
    *,
    balance: tuple[Decimal, Unit] | None,
    credits_mode: CreditsMode,
    keep: Decimal = Decimal(0),
    until_budget: bool = False,
) -> Preflight:
    """Compare what the run needs with its caps and with the balance; the first that is too small refuses (exit 3).

    `balance` None: the gateway has no balance call. `until_budget` starts all the same, unless the price is
    unknown where a cap needs it. `credits_mode` `warn` says what `require` refuses, `off` looks at no balance.
    """
    notes: list[str] = []
    for unit, need in needs.items():
        purse = reservations.usd if unit == "usd" else reservations.credits
        verdict = _against_cap(need, purse, unit, until_budget=until_budget)
        if not verdict.may_start:
            return verdict
        notes += verdict.notes
    if credits_mode == "off":
        return Preflight(True, notes=tuple(notes))
    if balance is None:
        return Preflight(True, notes=(*notes, "this gateway has no balance call: credits are not checked"))
    amount, balance_unit = balance
    verdict = _against_balance(needs[balance_unit], amount, balance_unit, keep)
    if verdict.may_start or (credits_mode == "require" and not until_budget):
        return Preflight(verdict.may_start, verdict.sentence, verdict.limit, (*notes, *verdict.notes))
    return Preflight(True, notes=(*notes, verdict.sentence))


def rows_that_fit(need: Needs, left_pico: int) -> int:
    """The `--limit` that fits: the rows that are finished and as many of the others as what is left pays for."""
    fitting = _open_rows_that_fit(need, max(0, left_pico))
    return need.finished_rows + fitting if need.limit_of is None else need.limit_of(fitting)


def _open_rows_that_fit(need: Needs, left_pico: int) -> int:
    """Each at the most that it can cost, which is reserved for it. Once rows have finished, only the last one so.

    By then the others cost what is expected, which makes room again.
    """
    if not need.pico:
        return need.rows
    most_pico = max(need.most_pico or 0, need.pico)
    if need.expected_pico is None:
        return min(need.rows, left_pico * need.rows // most_pico)
    besides_the_last = left_pico * need.rows - most_pico
    return min(need.rows, 1 + besides_the_last // need.pico) if besides_the_last >= 0 else 0


def used_up(reservations: Reservations, asked: Reservations | None) -> str:
    """Which cap has no room for one more request, or that the balance has none, and how to go on.

    `asked`: the session's own, which knows what requests would have held: a cap may be too low for one of them
    although little of it is spent.
    """
    phrases = []
    for unit in ("usd", "credits"):
        session: Purse | None = None if asked is None else getattr(asked, unit)
        if session is not None and session.is_out_of_balance:
            left, largest = max(0, session.free_pico or 0), session.largest_hold_pico
            return (
                f"what the balance has, less budget.keep_credits, is used up: {_money(left, unit)} are left, and "
                f"one request may cost up to {_money(largest, unit)}; "
                "top it up and start again, what is finished stays"
            )
        purse: Purse = getattr(reservations, unit)
        if purse.cap_pico is not None:
            unknown = purse.unknown_pico
            held = f" and {_money(unknown, unit)} held for attempts of unknown cost" if unknown else ""
            largest = 0 if session is None else session.largest_hold_pico
            may_cost = f", and one request may cost up to {_money(largest, unit)}" if largest else ""
            phrases.append(
                f"{_money(purse.spent_pico, unit)} spent{held}, of the {_money(purse.cap_pico, unit)} in "
                f"budget.max_cost_{unit}{may_cost}"
            )
    if not phrases:
        return "what the balance has, less budget.keep_credits, is used up; top it up and start again"
    return f"{'; '.join(phrases)}; raise it and start again, what is finished stays"


def _against_cap(need: Needs, purse: Purse, unit: str, *, until_budget: bool) -> Preflight:
    if purse.cap_pico is None:
        return Preflight(True)
    key = f"budget.max_cost_{unit}"
    if need.low_pico is None or need.pico is None:
        to_whom = f" to {', '.join(need.unpriced)}" if need.unpriced else ""
        return Preflight(
            False,
            f"{key} is set, but what a request{to_whom} costs in {unit} is unknown, so nothing can be reserved: "
            "add prices (and prices.credits_per_usd where the price is in the other unit), or remove the budget",
        )
    left = purse.cap_pico - purse.spent_pico - purse.unknown_pico
    if need.pico <= left:
        return Preflight(True)
    cap = _money(purse.cap_pico, unit)
    gone = _money(purse.spent_pico + purse.unknown_pico, unit)
    rest = (
        f"{key} has {_money(left, unit)} left of {cap}"
        if left > 0
        else f"{key} is used up: {gone} spent or held, of {cap}"
    )
    return _too_little(need, left, unit, f"{_cost(need, unit)}, and {rest}", until_budget=until_budget)


def _against_balance(need: Needs, amount: Decimal, unit: str, keep: Decimal) -> Preflight:
    if need.pico is None:
        note = f"the balance is {_money(int(amount * PICO), unit)}; what the run needs in {unit} is unknown"
        return Preflight(True, notes=(note,))
    left = int((amount - keep) * PICO)
    if need.pico <= left:
        return Preflight(True)
    kept = f", of which {_money(int(keep * PICO), unit)} must stay" if keep else ""
    sentence = f"{_cost(need, unit)}, and the balance is {_money(int(amount * PICO), unit)}{kept}"
    return _too_little(need, left, unit, sentence, until_budget=False)


def _too_little(need: Needs, left_pico: int, unit: str, sentence: str, *, until_budget: bool) -> Preflight:
    if until_budget:
        return Preflight(True, notes=(f"{sentence}: the run goes on until it is used up",))
    limit = rows_that_fit(need, left_pico)
    fits = f"{need.limit_option} {limit} fits" + (" even at the most" if _tells_most(need) else "")
    way = fits if _open_rows_that_fit(need, max(0, left_pico)) else _none_fits(need, left_pico, unit)
    return Preflight(False, f"{sentence}; {way}, --until-budget starts all the same", limit)


def _cost(need: Needs, unit: str) -> str:
    """What it needs; before rows have finished, the most of it too, by which it is told what fits."""
    most = f", at most {_money(need.most_pico or 0, unit)}" if _tells_most(need) else ""
    return f"{_what(need)} {_money(need.pico or 0, unit)}{most}"


def _none_fits(need: Needs, left_pico: int, unit: str) -> str:
    """Why, where a row is not expected to cost that much."""
    rows = max(1, need.rows)
    is_clear = (need.pico or 0) > max(0, left_pico) * rows
    why = "" if is_clear else f": it would reserve up to {_money((need.most_pico or 0) // rows, unit)}"
    return f"not one more row fits{why}"


def _tells_most(need: Needs) -> bool:
    return need.expected_pico is None and (need.most_pico or 0) > (need.pico or 0)


def _what(need: Needs) -> str:
    is_one = need.rows == 1
    what = f"{need.rows:,} {'row' if is_one else 'rows'}" if need.rows else "the judges of what is answered"
    if need.units is not None and need.units != need.rows:
        is_one = need.units == 1
        what = f"{need.units:,} open {'unit' if is_one else 'units'} of {what}"
    if need.expected_pico is None:
        return f"{what} {'costs' if is_one else 'cost'} at least"
    return f"{what} {'is' if is_one else 'are'} expected to cost"


def _money(pico: int, unit: str) -> str:
    """$1.50, $0.0012, 1 credit, 0.5 credits, 1,234,567.89 credits."""
    exact = Decimal(pico) / PICO
    amount = Context(prec=max(DIGITS_SHOWN, exact.adjusted() + 3)).create_decimal(exact).normalize()
    if unit == "usd":
        whole, _, fraction = f"{amount:,f}".partition(".")
        return f"${whole}.{fraction:0<2}"
    return f"{amount:,f} {'credit' if amount == 1 else 'credits'}"
