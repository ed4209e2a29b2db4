"""What the same answers would cost in other ways: several rows in one request, a cached prefix, another tier.

Owns the arithmetic: which requests there would be, what each costs, which way is the cheapest and what it saves.
All ways are priced by the same function, at the least and the most that the answers can be long. Pure: counts of
tokens and prices come in, amounts in pico of the price's currency go out; None is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from msgspec import Struct

from crun_batch.pricing.costs import charges
from crun_batch.records import Price, Usage, decimal_text

LEAST_SAVING = Fraction(1, 10)
"""Below this nothing is said: an estimate is no more exact than that."""
SHUFFLED_BY = 0


class Frame(Struct, frozen=True):
    """What one request holds beside the texts of its rows and the answers to them, in tokens."""

    rows: int
    input_tokens: int
    item_tokens: int = 0
    """Of input, for each row."""
    output_tokens: int = 0
    """Of the whole reply."""
    prefix_tokens: int = 0
    """Of the input, how many stand in front and are the same in every request."""


class AnswerLength(Struct, frozen=True):
    """How long an answer is: at least, on average as far as some are known, at most. None: unknown."""

    low: float = 1
    expected: float | None = None
    high: float | None = None


class PricedWay(Struct, frozen=True):
    """One way to ask: how it is called, what of the job file says so, what it comes to."""

    name: str
    says: str
    low: int
    expected: int | None = None
    high: int | None = None

    def saving(self, as_is: PricedWay) -> tuple[Fraction | None, Fraction | None, Fraction | None]:
        """The shares that it saves at the low end, as expected, at the high end; negative: it costs more."""
        ends = ((self.low, as_is.low), (self.expected, as_is.expected), (self.high, as_is.high))
        low, expected, high = (
            None if mine is None or other is None else _saved(mine, other) for mine, other in ends
        )
        return low, expected, high


class Offer(Struct, frozen=True):
    """A way before it is priced."""

    name: str
    says: str
    frame: Frame
    price: Price
    is_cached: bool = False
    """Whether the prefix is read from a cache by all requests but the first ones."""
    writes_cache: bool = False
    """Whether these are billed for writing it."""
    cold: int = 1
    """How many requests come too early to read it."""


def ways_of(
    texts: Sequence[int], answer: AnswerLength, offers: Sequence[Offer], scale: Callable[[int], int]
) -> list[PricedWay]:
    """What each offer costs: `texts` are the rows' own tokens, `scale` makes of a sum that of all rows."""
    return [_priced(texts, answer, offer, scale) for offer in offers]


def share_read(texts: Sequence[int], offer: Offer, rows: int) -> float:
    """Which share of the input of so many rows is read from the cache; `texts`: the own tokens of some of them."""
    groups = _groups(texts, offer.frame.rows)
    requests = len(groups) * rows / len(texts)
    whole = sum(_input_tokens(offer.frame, *group) for group in groups) * rows / len(texts)
    return offer.frame.prefix_tokens * max(0.0, requests - offer.cold) / whole if whole else 0.0


def cheapest(as_is: PricedWay, others: Sequence[PricedWay]) -> PricedWay | None:
    """The way that saves most; None where that is under LEAST_SAVING.

    By the answers so far, or, before the first, at whichever end it saves less.
    """
    best = max(others, key=lambda way: _to_count_on(way, as_is), default=None)
    return best if best is not None and _to_count_on(best, as_is) >= LEAST_SAVING else None


def _saved(mine: int, other: int) -> Fraction:
    return 1 - Fraction(mine, other) if other else Fraction(0)


def _to_count_on(way: PricedWay, as_is: PricedWay) -> Fraction:
    low, expected, high = way.saving(as_is)
    if expected is not None:
        return expected
    return min(saved for saved in (low, high) if saved is not None)


def _priced(texts: Sequence[int], answer: AnswerLength, offer: Offer, scale: Callable[[int], int]) -> PricedWay:
    groups, price_of = _groups(texts, offer.frame.rows), charges(offer.price, None)
    first = groups[: offer.cold] if offer.is_cached else []

    def each(groups: Sequence[tuple[int, int]], tokens: float, *, is_cold: bool) -> list[int]:
        found = [price_of(_usage(group, tokens, offer, is_cold=is_cold)) for group in groups]
        return [(one.usd_pico if offer.price.currency == "usd" else one.credits_pico) or 0 for one in found]

    def cost(tokens: float | None) -> int | None:
        if tokens is None:
            return None
        costs, cold = each(groups, tokens, is_cold=False), each(first, tokens, is_cold=True)
        return scale(sum(costs)) + sum(cold) - sum(costs[: len(cold)])

    return PricedWay(offer.name, offer.says, cost(answer.low) or 0, cost(answer.expected), cost(answer.high))


def _groups(texts: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """(Rows, their own tokens) of each request; rows of one request are drawn, the last one has what is left."""
    if rows == 1:
        return [(1, tokens) for tokens in texts]
    drawn = list(texts)
    random.Random(SHUFFLED_BY).shuffle(drawn)
    packs = (drawn[first : first + rows] for first in range(0, len(drawn), rows))
    return [(len(pack), sum(pack)) for pack in packs]


def _input_tokens(frame: Frame, rows: int, own_tokens: int) -> int:
    return frame.input_tokens + rows * frame.item_tokens + own_tokens


def _usage(group: tuple[int, int], answer_tokens: float, offer: Offer, *, is_cold: bool) -> Usage:
    """Of one request; a cold one finds nothing in the cache."""
    (rows, own_tokens), frame = group, offer.frame
    return Usage(
        input_tokens=_input_tokens(frame, rows, own_tokens),
        cached_input_tokens=frame.prefix_tokens if offer.is_cached and not is_cold else 0,
        cache_write_tokens=frame.prefix_tokens if offer.writes_cache and is_cold else 0,
        output_tokens=round(frame.output_tokens * rows / frame.rows + rows * answer_tokens),
    )


def cache_to_dict(as_is: PricedWay, without: PricedWay, share: float) -> dict[str, Any]:
    """For --json: what a job's own cache does, if the provider keeps it; savings below 0 are losses."""
    return {"read_share": round(share, 4), "without": _amounts(without), "saves": _saves(as_is, without)}


def ways_to_dict(as_is: PricedWay, others: Sequence[PricedWay], currency: str) -> dict[str, Any]:
    """For --json: amounts as decimal text, savings as shares; `cheapest` is null where none saves enough."""
    best = cheapest(as_is, others)
    return {
        "currency": currency,
        "as_it_is": _amounts(as_is),
        "ways": [_way(way, as_is) for way in others],
        "cheapest": None if best is None else _way(best, as_is),
    }


def _way(way: PricedWay, as_is: PricedWay) -> dict[str, Any]:
    return {"way": way.name, "job": way.says or None, "cost": _amounts(way), "saves": _saves(way, as_is)}


def _saves(way: PricedWay, as_is: PricedWay) -> Mapping[str, float | None]:
    saves = dict(zip(("low", "expected", "high"), way.saving(as_is), strict=True))
    return {name: None if share is None else round(float(share), 4) for name, share in saves.items()}


def _amounts(way: PricedWay) -> Mapping[str, str | None]:
    ends = {"low": way.low, "expected": way.expected, "high": way.high}
    return {name: None if pico is None else decimal_text(pico) for name, pico in ends.items()}
