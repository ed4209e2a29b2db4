"""What a run has cost, in a line: what is known, what is in doubt, what is out in batches and reserved for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any

from crun_batch.console.amounts import UNKNOWN, ShowMoney, bill_between, count, counted, money, shown_as
from crun_batch.console.batch_words import batch_name

UNITS = ("usd", "credits")


def cost_phrase(summary: Mapping[str, Any]) -> str:
    """The known cost; with attempts of unknown outcome or cost, or requests in batches, the bounds of the bill.

    Where every hold is recorded they bound the bill even if no cost is known at all.
    """
    batches = summary.get("batches", ())
    if not summary["attempts"] and not batches:
        return "none: nothing was sent"
    costs = [decimal_of(summary.get(f"cost_{unit}")) for unit in UNITS]
    show = sum_shown_as(summary)
    known = show(costs[0], costs[1]) if summary["attempts"] else "none yet"
    doubts = {"outcome": summary.get("unknown_attempts", 0), "cost": summary.get("unpriced_attempts", 0)}
    holds = [_held(summary, unit) for unit in UNITS]
    is_doubted = any(doubts.values()) or bool(batches)
    if not is_doubted or (known == UNKNOWN and holds == [None, None] and not doubts["outcome"] and not batches):
        return known
    known = f"{known} known" if known not in (UNKNOWN, "none yet") else known
    most = [_most(cost, hold) for cost, hold in zip(costs, holds, strict=True)]
    doubted = " and ".join([*_suspects(doubts), *out_in_batches(batches)])
    if most == [None, None]:
        may = "may have cost" if any(doubts.values()) else "may cost"
        return f"{known}; {doubted} {may} more, how much is unknown"
    least = [None if bound is None else cost or Decimal(0) for cost, bound in zip(costs, most, strict=True)]
    return f"{known}; {doubted}: bill {bill_between((least[0], least[1]), (most[0], most[1]), show)}"


def sum_shown_as(summary: Mapping[str, Any]) -> ShowMoney:
    """How a sum over a run is told, by what its variants and judges cost."""
    parts = [*summary.get("variants", {}).values(), *summary.get("judges", {}).values()]
    return shown_as((one["cost_usd"], one["cost_credits"]) for one in parts)


COLLECTED = ("ended", "stored")
"""What is said of a batch that the gateway has nothing to tell of any more."""


def batch_phrase(one: Mapping[str, Any]) -> str:
    """A batch that is not collected yet: its name at the gateway, how far it is, what is reserved for it."""
    name = batch_name(one["batch_id"], one["file_id"], one["suspects"])
    held = money(decimal_of(one["held_usd"]), decimal_of(one["held_credits"]), ROUND_CEILING)
    reserved = "" if held == UNKNOWN else f", {held} reserved"
    done = f"{count(one['done'])} of {counted(one['requests'], 'request')} done"
    is_known = one["batch_id"] is None or one["status"] in COLLECTED
    asked = "" if is_known else " when last asked"  # a cancel since then is not seen before the next session
    return f"{name}: {one['status']}{asked}, {done}{reserved}"


def decimal_of(text: str | None) -> Decimal | None:
    """An amount of a document; None stays None."""
    return None if text is None else Decimal(text)


def _suspects(doubts: Mapping[str, int]) -> list[str]:
    return [f"{counted(number, 'attempt')} of unknown {what}" for what, number in doubts.items() if number]


def out_in_batches(batches: Sequence[Mapping[str, Any]]) -> list[str]:
    """24 requests out in 3 batches, as a list of one; of none where none is out."""
    requests = sum(one["requests"] for one in batches)
    return [f"{counted(requests, 'request')} out in {counted(len(batches), 'batch')}"] if batches else []


def _held(summary: Mapping[str, Any], unit: str) -> Decimal | None:
    """What is held for attempts in doubt and for requests in batches; None: nothing bounds one of them."""
    amounts = [decimal_of(one.get(f"held_{unit}")) for one in (summary, *summary.get("batches", ()))]
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def _most(cost: Decimal | None, hold: Decimal | None) -> Decimal | None:
    """The most that the bill can be; None where nothing bounds one of its attempts."""
    return None if hold is None else (cost or Decimal(0)) + hold
