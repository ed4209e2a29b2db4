"""May the run start, with what it needs, what it may spend and what the balance has; and why it stopped, in words.

All amounts are integers of pico. Must not know: prices, tickets, files, the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from typing import Literal

from msgspec import Struct

from crun_batch.pricing.budget import Purse, Reservations, Unit
from crun_batch.records import PICO

CreditsMode = Literal["require", "warn", "off"]
DIGITS_SHOWN = 6
"""Of an amount; of a larger one all digits to its second decimal."""


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
        if session is not None and session.cap_pico is not None and session.unbounded_by is not None:
            return (
                f"a reply was billed for {session.unbounded_by}, whose price is unknown and which nothing bounds: "
                f"budget.max_cost_{unit} cannot be kept; ask for none of that, or start again without a budget, "
                "what is finished stays"
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
