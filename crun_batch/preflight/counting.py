"""What is still to be sent, counted: requests by variant, model and turn, and what judges will ask about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any

from crun_batch.load.prompt.rejections import Rejections, RowRejected
from crun_batch.preflight.judge_costs import JudgeTallies
from crun_batch.preflight.packed_counting import Asked, gathered_rows
from crun_batch.preflight.prices import Prices
from crun_batch.pricing.estimate import CountedRow, Tally, Terms
from crun_batch.pricing.finished import FinishedRequests
from crun_batch.pricing.tokens import Counter, count_bodies, remembering
from crun_batch.records import CacheTtl, Row, Unit
from crun_batch.state.run_state import RunContext
from crun_batch.vocabulary.counters import token_counter
from crun_batch.workload.portions import Portions
from crun_batch.workload.request import Request, Variant

ToAsk = Sequence[Sequence[int]]
"""Of each row, the repeats that are asked."""


class OpenWork:
    """The open units of the rows that are added, told apart and counted."""

    def __init__(self, context: RunContext, prices: Prices, left_out: Collection[str]) -> None:
        self.tallies = [
            VariantTallies(one, prices, context) for one in context.workload.variants if one.name not in left_out
        ]
        self.judges = JudgeTallies(context.workload, prices)
        self.rejections = Rejections()
        self.read_rows = self.open_rows = self.open_units = 0
        self._context = context
        self._portions = Portions()

    def add(self, batch: Sequence[Row]) -> None:
        """Render and count rows, some at one go."""
        waiting = deque(batch)
        while waiting:
            rows = self._portions.take(waiting)
            self._add(rows)
            self._portions.learn(len(rows), sum(one.last_bytes for one in self.tallies))

    def _add(self, rows: Sequence[Row]) -> None:
        tallies = self.tallies
        to_ask = [self._context.open_repeats(rows, one.variant.index) for one in tallies]
        complaints = [one.add(rows, repeats) for one, repeats in zip(tallies, to_ask, strict=True)]
        for error in sorted((each for said in complaints for each in said), key=attrgetter("position")):
            self.rejections.add(error)
        self.judges.add(rows, [one.variant for one in tallies], to_ask)
        units = [sum(map(len, of_row)) for of_row in zip(*to_ask, strict=True)]
        self.read_rows += len(rows)
        self.open_units += sum(units)
        self.open_rows += sum(map(bool, units))


_Kind = tuple[str | None, int, CacheTtl, str | None, tuple[str, ...], int]
"""Model, turn, how long its input may be cached, service tier, what the gateway is to do, rows in one request."""


class VariantTallies:
    """One variant's tallies, for each model that its requests name, each turn, with and without cache writes."""

    def __init__(self, variant: Variant, prices: Prices, context: RunContext) -> None:
        self.variant = variant
        self._prices = prices
        self._job = context.workload.job
        self._taken_over = context.taken_over
        self.reused = [0, 0, 0, 0]
        """As the fields of Reused."""
        self.last_bytes = 0
        """Of the bodies that were made last."""
        self._tallies: dict[_Kind, tuple[Tally, Counter]] = {}
        self._gathered = gathered_rows(variant, compares=context.options.pilot is not None)

    def add(self, rows: Sequence[Row], to_ask: ToAsk) -> list[RowRejected]:
        """Rows with the repeats that are asked of each; what is said of those that have no prompt."""
        complaints: list[RowRejected] = []
        by_kind: dict[_Kind, list[Asked]] = {}
        requests = self.variant.requests(rows, to_ask)
        for row, repeats, request in zip(compress(rows, to_ask), filter(None, to_ask), requests, strict=True):
            try:
                asked = self._asked(row, repeats, request)
            except RowRejected as error:
                complaints.append(error)
                continue
            for turn, one in enumerate(asked) if self._gathered is None else ():
                by_kind.setdefault(self._kind_of(one, turn), []).append(one)
            for one in () if self._gathered is None else self._gathered.take(row, asked):
                by_kind.setdefault(self._kind_of(one, 0), []).append(one)
        for kind, of_kind in by_kind.items():
            self._count(kind, of_kind)
        self.last_bytes = sum(len(one.body) for of_kind in by_kind.values() for one in of_kind)
        return complaints

    def _kind_of(self, one: Asked, turn: int) -> _Kind:
        cached = one.request.cache_ttl if turn == 0 else self.variant.cache_ttl(one.body)
        request = one.request
        return request.model, turn, cached, request.service_tier, request.hosted, one.rows

    def _asked(self, row: Row, repeats: Sequence[int], request: Request | RowRejected) -> list[Asked]:
        """What is sent of a row, turn by turn; nothing where an earlier run has answered all of it."""
        if isinstance(request, RowRejected):
            raise request
        later = self.variant.later_bodies(row) if request.opens_conversation else ()
        reuses = self._job.reuse is not None
        to_send = self._not_taken_over(row, repeats, request.unit_hash) if reuses else len(repeats)
        return [Asked(request, body, to_send) for body in (request.body, *later)] if to_send else []

    def _count(self, kind: _Kind, asked: Sequence[Asked]) -> None:
        """Requests of one kind: their tokens, then what they cost."""
        known = self._tallies.get(kind)
        if known is None:
            known = self._tallies[kind] = self._tally(asked[0], *kind[1:3])
        tally, counter = known
        is_first = kind[1] == 0  # of a later turn no answer is there yet
        counted = zip(asked, count_bodies([one.body for one in asked], counter), strict=True)
        rows = [
            CountedRow(
                one.request.unit_hash if one.rows == 1 else None,
                tokens.tokens,
                tokens.uncounted_parts,
                one.to_send,
                one.request.input_bound_tokens if is_first else None,
            )
            for one, tokens in counted
        ]
        tally.add_rows(rows)
        tally.rows_read += sum(one.rows - 1 for one in asked)

    def _not_taken_over(self, row: Row, repeats: Sequence[int], unit_hash: str) -> int:
        """How many of these repeats must be sent; those that an earlier run answered are counted."""
        to_send = 0
        for repeat in repeats:
            unit = Unit(row.position, row.row_id, self.variant.index, repeat)
            taken = self._taken_over(unit, self.variant.name, unit_hash)
            if taken is None:
                to_send += 1
                continue
            told = (1, taken.has_known_saving, taken.saved_usd or 0, taken.saved_credits or 0)
            self.reused = [so_far + one for so_far, one in zip(self.reused, told, strict=True)]
        return to_send

    def _tally(self, asked: Asked, turn: int, cache_ttl: CacheTtl) -> tuple[Tally, Counter]:
        request, rows, model = asked.request, asked.rows, asked.request.model
        counter = remembering(token_counter(model or ""))
        choice, *others = self._prices.choices(model, request.service_tier)
        terms = Terms(
            name=self.variant.name if turn == 0 else f"{self.variant.name}, turn {turn + 1}",
            model=model or "",
            price=choice.price,
            price_reason=choice.reason,
            max_output_tokens=request.output_bound_tokens,
            cache_ttl=cache_ttl,
            earlier_answers=turn,
            shares_identical=self._job.share_identical,
            counter_name=counter.name,
            counter_exact=counter.exact,
            credits_per_usd=self._job.prices.credits_per_usd,
            other_prices=tuple(other.price for other in others),
            service_tier=request.service_tier,
            hosted=request.hosted,
            reserved_at_once=self.variant.goes_in_batches,
            is_followed_live=self.variant.is_followed_live,
            rows=rows,
            repairs=self.variant.repairs if turn == 0 else 0,
            least_output_tokens=1 if rows == 1 else self._least_output_tokens(rows, counter),
        )
        return Tally(terms), counter

    def _least_output_tokens(self, rows: int, counter: Counter) -> int:
        return 1 if self._gathered is None else counter.count(self._gathered.shortest_reply(rows))

    def estimate(self, whole: Callable[[int], int], finished: FinishedRequests) -> list[Any]:
        """`whole`: rows that were read -> the rows that they stand for; only those open in this variant count."""
        for rest in () if self._gathered is None else self._gathered.rest():
            self._count(self._kind_of(rest, 0), [rest])
        name, packs = self.variant.name, self._gathered is not None
        return [
            tally.estimate(whole(tally.rows_read), finished.like(name, packs=packs, rows=tally.terms.rows))
            for tally, _ in self._tallies.values()
        ]
