"""What the requests still to be sent will cost, before one of them is sent.

Owns: the bounds. Low: every request's input and one output token, of a pack the shortest reply. High: the dearest
reading of its input and all of max_output_tokens; unknown without that limit. At most: what no request can exceed;
the high end where tokens are counted exactly, else what is reserved. Expected: only once rows have finished, from
what they did.
Retries and repairs come on top; prompt caching can go below. Must not know: how prompts are rendered or counted,
where finished rows are kept, the clock.

A tally keeps how often each length occurs, not the requests: flat memory, and prices are applied once per
length. Amounts are integers of pico; None is unknown and never 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from msgspec import Struct

from crun_batch.pricing.at_most import BoundTally
from crun_batch.pricing.costs import charge, dearest_holds, least
from crun_batch.pricing.figures import Estimate, Identical, Limits, MinimumCharge, Span, VariantEstimate
from crun_batch.pricing.finished import Finished
from crun_batch.pricing.time_needed import time_of
from crun_batch.records import CacheTtl, Cost, Hold, Price, Usage, decimal_text

SAMPLE_ABOVE_ROWS = 100_000
SAMPLE_ROWS = 10_000
"""`run` estimates a table of more than SAMPLE_ABOVE_ROWS rows from SAMPLE_ROWS random ones."""
MOST_HASHES = 2_000_000
"""Requests whose hashes are kept to find identical ones (about 100 bytes each); beyond, the count is a minimum."""
MINIMUM_LEFT = 2
"""Expected cost over low cost, from which on the minimum charge no longer matters."""
MINIMUM_WORTH_A_NOTE = 0.2
"""Share of the low cost that the minimum charge adds, from which on it is said."""


class Terms(Struct, frozen=True):
    """One variant's conditions: its model, price and limits, and how its tokens were counted."""

    name: str
    model: str
    price: Price | None = None
    price_reason: str = ""
    max_output_tokens: int | None = None
    repeats: int = 1
    counter_name: str = ""
    counter_exact: bool = False
    credits_per_usd: Decimal | None = None
    earlier_answers: int = 0
    """Answers that each request carries, as a later turn of a conversation; counted as one token each so far."""
    earlier_limit_tokens: int | None = None
    """The most tokens of each of those answers; None: `max_output_tokens`."""
    cache_ttl: CacheTtl = ""
    """For how long input may be kept in a cache, at the price of writing it there."""
    shares_identical: bool = False
    """Of identical requests only one is sent."""
    other_prices: tuple[Price | None, ...] = ()
    """Of other endpoints and tiers that may serve it: the low end is the cheapest's, the high the dearest's."""
    service_tier: str | None = None
    """The gateway's tier that is asked for."""
    hosted: tuple[str, ...] = ()
    """Fields that ask for what the gateway does and bills beside the tokens."""
    reserved_at_once: bool = False
    is_followed_live: bool = False
    """Whether it goes in batches, and live where these leave it undone."""
    rows: int = 1
    """How many rows one request holds."""
    least_output_tokens: int = 1
    """Of a reply, whatever it answers."""
    repairs: int = 0
    """The most further requests about an answer that does not fit."""


class CountedRow(Struct, frozen=True, gc=False):
    """One row's request, as a tally takes it."""

    request_hash: str | None
    input_tokens: int
    uncounted_parts: int
    times_sent: int
    bound_tokens: int | None


class Tally:
    """The requests of one variant, counted by their length. Call `row` for a row, `add` for each of its requests.

    Repeats are not added one by one: `add` takes their number, or `terms.repeats` multiplies at the end.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.rows_read = 0
        self.uncounted_parts = 0
        self.lengths: Counter[int] = Counter()
        self.repeated: Counter[int] = Counter()
        self.bounds = BoundTally(reserved_at_once=terms.reserved_at_once)
        self._hashes: set[int] = set()
        self._hashes_full = False

    def row(self) -> None:
        """One more row was read."""
        self.rows_read += 1

    def add_rows(self, rows: Iterable[CountedRow]) -> None:
        """Rows with one request each."""
        for one in rows:
            self.rows_read += 1
            self.add(one.input_tokens, one.request_hash, one.uncounted_parts, one.times_sent, one.bound_tokens)

    def add(
        self,
        input_tokens: int,
        request_hash: str | None = None,
        uncounted_parts: int = 0,
        repeats: int = 1,
        bound_tokens: int | None = None,
    ) -> None:
        """One request, sent `repeats` times: its input tokens, its hash (to find identical ones), its images.

        `bound_tokens`: the most that its input can have, however it is counted; None: it has no such bound.
        """
        if request_hash is not None and self._is_repeated(request_hash):
            self.repeated[input_tokens] += repeats
            if self.terms.shares_identical:
                return
        self.lengths[input_tokens] += repeats
        self.uncounted_parts += uncounted_parts
        self.bounds.add(None if uncounted_parts or self.terms.hosted else bound_tokens, repeats)

    def _is_repeated(self, request_hash: str) -> bool:
        key = hash(request_hash)
        if key in self._hashes:
            return True
        if len(self._hashes) < MOST_HASHES:
            self._hashes.add(key)
        else:
            self._hashes_full = True
        return False

    def estimate(self, rows: int | None = None, finished: Finished | None = None) -> VariantEstimate:
        """The variant's estimate; `rows`: all the rows still to be sent, where only a random part was read."""
        rows = self.rows_read if rows is None else rows
        if rows and not self.rows_read:
            raise ValueError("no row was read")
        terms, scale = self.terms, _scale(rows, self.rows_read, self.terms.repeats)
        requests = scale(self.lengths.total())
        low, high, hold_at = self._ends()
        expected = _expected_cost(finished, requests * terms.rows)
        cost_usd = _span(_usd, self.lengths, low, high, scale, expected.usd_pico)
        cost_credits = _span(_credits, self.lengths, low, high, scale, expected.credits_pico)
        is_exact = terms.counter_exact and not self.uncounted_parts and not terms.hosted
        if rows == self.rows_read:  # random rows bound nothing
            cost_usd, cost_credits = self.bounds.bounded(cost_usd, cost_credits, hold_at, is_exact, terms.repeats)
        minimum = self._minimum(scale)
        return VariantEstimate(
            name=terms.name,
            model=terms.model,
            rows=rows,
            rows_read=self.rows_read,
            requests=requests,
            input_tokens=scale(_sum(self.lengths)),
            input_tokens_error=_scaled_error(self.lengths, rows, self.rows_read) * terms.repeats,
            counter=terms.counter_name,
            counter_exact=is_exact,
            output_tokens=_output_tokens(terms, requests, finished),
            cost_usd=cost_usd,
            cost_credits=cost_credits,
            price_source=None if terms.price is None else terms.price.source,
            minimum=minimum,
            identical=self._identical(low, high, rows),
            notes=(*self._notes(rows), *_minimum_note(minimum, cost_usd, cost_credits)),
            rows_together=terms.rows,
        )

    def _ends(self) -> tuple[dict[int, Hold], dict[int, Hold], Callable[[int], Hold]]:
        """Length -> the least and the most that a request of it costs; the most that one of any length does."""
        terms = self.terms
        low, high = {}, {}
        prices, ratio = (terms.price, *terms.other_prices), terms.credits_per_usd
        carried = terms.earlier_limit_tokens or terms.max_output_tokens or 0
        at_most = dearest_holds(prices, terms.max_output_tokens, ratio, cache_ttl=terms.cache_ttl)
        for length in self.lengths | self.repeated:
            used = Usage(input_tokens=length, output_tokens=terms.least_output_tokens)
            costs = [charge(price, used, credits_per_usd=ratio) for price in prices]
            low[length] = Hold(least([one.usd_pico for one in costs]), least([one.credits_pico for one in costs]))
            high[length] = at_most(length + terms.earlier_answers * carried)
        return low, high, at_most

    def _minimum(self, scale: Callable[[int], int]) -> MinimumCharge | None:
        price = self.terms.price
        if price is None or not price.minimum_pico:
            return None
        limit = self.terms.max_output_tokens
        requests_low, adds_low = _at_minimum(self.lengths, price, self.terms.least_output_tokens)
        requests_high, adds_high = (None, None) if limit is None else _at_minimum(self.lengths, price, limit)
        return MinimumCharge(
            currency=price.currency,
            minimum_pico=price.minimum_pico,
            requests_low=scale(requests_low),
            requests_high=None if requests_high is None else scale(requests_high),
            adds_low_pico=scale(adds_low),
            adds_high_pico=None if adds_high is None else scale(adds_high),
        )

    def _identical(self, low: dict[int, Hold], high: dict[int, Hold], rows: int) -> Identical:
        """Counted among the rows that were read: random rows say nothing of how often all rows repeat."""
        scale = _scale(1, 1, self.terms.repeats)
        return Identical(
            requests=scale(self.repeated.total()),
            at_least=self._hashes_full or rows > self.rows_read,
            saves_usd=_span(_usd, self.repeated, low, high, scale, None),
            saves_credits=_span(_credits, self.repeated, low, high, scale, None),
            shared=self.terms.shares_identical,
        )

    def _notes(self, rows: int) -> Iterable[str]:
        terms = self.terms
        if rows > self.rows_read:
            yield f"estimated from {self.rows_read:,} random rows of {rows:,}"
        if not terms.counter_exact:
            yield f"input tokens are an approximation ({terms.counter_name})"
        if self.uncounted_parts:
            yield f"{self.uncounted_parts:,} images, files or stored inputs are not in the input tokens"
        if terms.hosted:
            asking = ", ".join(terms.hosted)
            yield f"what the gateway does for {asking} is billed too: nothing here counts or bounds it"
        if terms.other_prices and None not in (terms.price, *terms.other_prices):
            tier = terms.service_tier
            where = "its endpoints" if tier is None else f"the tiers that service_tier {tier} may be served at"
            lanes = "low is all of it in batches, high all of it live: what batches leave undone costs as live"
            ends = f"{where} charge differently: low as at the cheapest, high as at the dearest"
            yield lanes if terms.is_followed_live else ends
        if terms.price is None:
            yield terms.price_reason or f"the price of {terms.model} is unknown"
        if terms.max_output_tokens is None:
            yield "no max_output_tokens: nothing bounds the high end"
        if terms.repairs:
            times = f"{terms.repairs} times" if terms.repairs > 1 else "once"
            yield f"an answer that does not fit output_schema is sent back, at most {times}: that comes on top"


def combine(variants: Sequence[VariantEstimate], limits: Limits) -> Estimate:
    """All variants together. Per-minute limits hold for each model, concurrency for all of them."""
    return Estimate(
        variants=tuple(variants),
        requests=sum(variant.requests for variant in variants),
        cost_usd=_sum_spans([variant.cost_usd for variant in variants]),
        cost_credits=_sum_spans([variant.cost_credits for variant in variants]),
        time_low=time_of(variants, limits, lambda span: span.low),
        time_expected=time_of(variants, limits, lambda span: span.expected),
        time_high=time_of(variants, limits, lambda span: span.high),
    )


def _scale(rows: int, rows_read: int, repeats: int) -> Callable[[int], int]:
    """What was read -> all rows and repeats, rounded to the nearest, in integers."""

    def scale(value: int) -> int:
        return (2 * value * rows * repeats + rows_read) // (2 * rows_read) if rows_read else 0

    return scale


def _span(
    unit: Callable[[Hold], int | None],
    lengths: Counter[int],
    low: dict[int, Hold],
    high: dict[int, Hold],
    scale: Callable[[int], int],
    expected: int | None,
) -> Span:
    return Span(_total(unit, lengths, low, scale), expected, _total(unit, lengths, high, scale))


def _total(
    unit: Callable[[Hold], int | None],
    lengths: Counter[int],
    amounts: dict[int, Hold],
    scale: Callable[[int], int],
) -> int | None:
    total = 0
    for length, count in lengths.items():
        amount = unit(amounts[length]) if length in amounts else None
        if amount is None:
            return None
        total += count * amount
    return scale(total)


def _usd(hold: Hold) -> int | None:
    return hold.usd_pico


def _credits(hold: Hold) -> int | None:
    return hold.credits_pico


def _expected_cost(finished: Finished | None, requests: int) -> Cost:
    """So many requests, or rows of packs, at the mean of those that finished."""
    if finished is None or not finished.priced_requests:
        return Cost()
    count = finished.priced_requests
    usd, credits_ = finished.cost_usd_pico, finished.cost_credits_pico
    return Cost(
        None if usd is None else usd * requests // count,
        None if credits_ is None else credits_ * requests // count,
    )


def _output_tokens(terms: Terms, requests: int, finished: Finished | None) -> Span:
    expected, limit = None, terms.max_output_tokens
    if finished is not None and finished.requests:
        expected = finished.output_tokens * requests * terms.rows // finished.requests
    return Span(terms.least_output_tokens * requests, expected, None if limit is None else limit * requests)


def _at_minimum(lengths: Counter[int], price: Price, output_tokens: int) -> tuple[int, int]:
    """How many requests with so many output tokens cost the minimum, and what it adds beyond their tokens."""
    bare = Price(
        currency=price.currency,
        source=price.source,
        input_atto=price.input_atto,
        output_atto=price.output_atto,
        request_pico=price.request_pico,
    )
    requests = adds = 0
    for length, count in lengths.items():
        cost = charge(bare, Usage(input_tokens=length, output_tokens=output_tokens))
        tokens_pico = cost.usd_pico if price.currency == "usd" else cost.credits_pico
        if tokens_pico is not None and tokens_pico < price.minimum_pico:
            requests += count
            adds += count * (price.minimum_pico - tokens_pico)
    return requests, adds


def _minimum_note(minimum: MinimumCharge | None, usd: Span, credits_: Span) -> Iterable[str]:
    if minimum is None:
        return
    span = usd if minimum.currency == "usd" else credits_
    low_pico = span.low
    if not low_pico or minimum.adds_low_pico < MINIMUM_WORTH_A_NOTE * low_pico:
        return
    if span.expected is not None and span.expected > MINIMUM_LEFT * low_pico:
        return
    share = 100 * minimum.adds_low_pico // low_pico
    digits = decimal_text(minimum.minimum_pico)
    amount = f"${digits}" if minimum.currency == "usd" else f"{digits} {minimum.currency}"
    cost = f"{minimum.requests_low:,} requests cost" if minimum.requests_low > 1 else "1 request costs"
    yield f"{cost} no more than the minimum of {amount}, which adds up to {share} % of the bill"


def _sum(lengths: Counter[int]) -> int:
    return sum(length * count for length, count in lengths.items())


def _scaled_error(lengths: Counter[int], rows: int, rows_read: int) -> int:
    """Half of the 95 % interval of the input tokens of all rows, from a random part of them (1.96 sigma)."""
    count = lengths.total()
    if rows <= rows_read or count < 2:
        return 0
    mean = _sum(lengths) / count
    variance = math.fsum(number * (length - mean) ** 2 for length, number in lengths.items()) / (count - 1)
    requests = count * rows / rows_read
    drawn = min(count, rows_read)  # the repeats of a row are one draw
    return math.ceil(1.96 * requests * math.sqrt(variance / drawn * (1 - rows_read / rows)))


def _sum_spans(spans: Sequence[Span]) -> Span:
    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Span(
        total([span.low for span in spans]),
        total([span.expected for span in spans]),
        total([span.high for span in spans]),
        total([span.at_most for span in spans]),
    )
