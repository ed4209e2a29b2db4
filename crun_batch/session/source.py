"""The supply of the pool: rows in order, each unit that has no final result turned into a ticket.

Owns the order of the requests, row by row: all variants and repeats of a row together, so that a stopped run
stays comparable. Tables are read a batch ahead, in a thread; requests are made when the pool asks for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from crun_batch.load.prompt.rejections import RowRejected
from crun_batch.pricing.account import UnitSoFar
from crun_batch.records import Row, Ticket, Unit
from crun_batch.session.sharing import Follower, Sharing
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext
from crun_batch.store.events import FinalPart
from crun_batch.workload.portions import Portions
from crun_batch.workload.request import Request, Variant


class Unsent(Protocol):
    """What happens to units that need no request."""

    def rejected(self, unit: Unit, row: Row, replaces: str | None, message: str) -> None:
        """The row has no prompt: its unit fails without an attempt."""

    def shared(self, unit: Unit, row: Row, replaces: str | None, part: FinalPart) -> None:
        """The unit is given the answer to an identical request."""

    def reused(self, unit: Unit, row: Row, part: FinalPart) -> None:
        """The unit is given the answer of an earlier run."""

    def resumed(self, unit: Unit, row: Row, replaces: str | None, first: Request) -> Request | None:
        """An earlier session recorded answers, or the end: what the unit asks next; None: that is its result."""


T = TypeVar("T")


class Batches(Generic[T]):
    """Batches of rows, read one ahead by `executor`; without one, in place."""

    def __init__(self, rows: Iterator[list[T]], executor: Executor | None) -> None:
        self._rows = rows
        self._executor = executor
        self._ahead: Future[list[T] | None] | None = None

    def take(self, wake: Callable[[], None]) -> list[T] | Literal["wait", "end"]:
        """The next batch; "wait": it is being read, `wake` is called (from its thread) when it is there."""
        if self._executor is None:
            batch = next(self._rows, None)
            return "end" if batch is None else batch
        if self._ahead is None:
            self._read_ahead()
        ahead = self._ahead
        assert ahead is not None
        if not ahead.done():
            ahead.add_done_callback(lambda _: wake())
            return "wait"
        batch = ahead.result()
        if batch is None:
            return "end"
        self._read_ahead()
        return batch

    def settle(self) -> None:
        """Wait for what is being read, so that the rows can be closed."""
        if self._ahead is not None:
            wait([self._ahead])

    def _read_ahead(self) -> None:
        assert self._executor is not None
        self._ahead = self._executor.submit(next, self._rows, None)


class OpenUnit(Struct, frozen=True, gc=False):
    """An open unit with its first request."""

    unit: Unit
    row: Row
    variant: str
    request: Request
    replaces: str | None


class RowTickets:
    """Tickets of all open units, in the order of `batches`; with `sharing` identical requests are sent once.

    `by_variant`: of rows that are made together, one variant after the other.
    """

    def __init__(
        self,
        context: RunContext,
        tools: Tools,
        batches: Batches[Row],
        *,
        unsent: Unsent,
        sharing: Sharing | None,
        by_variant: bool = False,
    ) -> None:
        self._context = context
        self._portions = Portions()
        self._by_variant = by_variant
        self._taken_over = None if context.workload.job.reuse is None else context.taken_over
        self._variants = context.workload.variants
        self._slot_of = context.workload.slots.of
        self._batches = batches
        self._done = context.state.done
        self._account = context.state.account
        self._tickets = tools.tickets
        self._unsent = unsent
        self._sharing = sharing
        self._wake = tools.wake
        self._rows: deque[Row] = deque()
        self._waiting: deque[Ticket] = deque()
        self._has_finished_unsent = False
        self._skipped: set[int] = set()

    def skip(self, target: int) -> None:
        """Make no more tickets of this variant: its units stay open."""
        self._skipped.add(target)
        if self._sharing is not None:
            self._sharing.drop(target)

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket; "wait": `wake` will be called, or an answer in flight is waited for."""
        while not self._waiting:
            if self._sharing is not None and self._sharing.is_full:
                return "wait"
            if self._has_finished_unsent:  # results without requests: let others have the loop
                self._has_finished_unsent = False
                self._wake()
                return "wait"
            if not self._rows:
                batch = self._batches.take(self._wake)
                if batch == "wait" or batch == "end":
                    return batch
                self._rows.extend(batch)
            self._waiting.extend(self._next_tickets())
        return self._waiting.popleft()

    def _next_tickets(self) -> list[Ticket]:
        """Of some rows at one go, stage by stage: first the requests are written, then the tickets."""
        rows, opened = self._portions.take(self._rows), list[OpenUnit]()
        variants = [variant for variant in self._variants if variant.index not in self._skipped]
        to_ask = [self._context.open_repeats(rows, variant.index) for variant in variants]
        requests = [iter(one.requests(rows, open_)) for one, open_ in zip(variants, to_ask, strict=True)]
        for row, *of_row in zip(rows, *to_ask, strict=True):
            for variant, repeats, asked in zip(variants, of_row, requests, strict=True):
                if repeats:
                    self._open_units(row, variant, repeats, next(asked), opened)
        self._portions.learn(len(rows), sum(len(one.request.body) for one in opened))
        if self._by_variant:  # one prefix after another: it is warm while its rows are sent
            opened.sort(key=lambda one: one.unit.variant)
        return [ticket for one in opened if (ticket := self._ticket(one)) is not None]

    def _open_units(
        self,
        row: Row,
        variant: Variant,
        repeats: Sequence[int],
        request: Request | RowRejected,
        opened: list[OpenUnit],
    ) -> None:
        """Add the row's units under a variant that have no final result, with their first request."""
        replaced = self._done.replaced
        for repeat in repeats:
            unit = Unit(row.position, row.row_id, variant.index, repeat)
            replaces = replaced.get(self._slot_of(row.position, variant.index, repeat)) if replaced else None
            if isinstance(request, RowRejected):
                self._unsent.rejected(unit, row, replaces, str(request))
                self._has_finished_unsent = True
            else:
                opened.append(OpenUnit(unit, row, variant.name, request, replaces))

    def _ticket(self, one: OpenUnit) -> Ticket | None:
        """The unit's next request; None where it is finished without one, or waits for an identical one."""
        unit, row, request = one.unit, one.row, one.request
        open_units = self._account.open_units
        so_far = open_units.get((str(row.row_id), one.variant, unit.repeat)) if open_units else None
        next_request: Request | None = request
        if so_far is not None and (so_far.answers or so_far.failure):
            next_request = self._unsent.resumed(unit, row, one.replaces, request)
        elif self._taken_over is not None:
            taken = self._taken_over(unit, one.variant, request.unit_hash)
            if taken is not None:
                self._unsent.reused(unit, row, taken)
                next_request = None
        if next_request is None or (
            self._sharing is not None and not self._is_sent(unit, row, one.replaces, request, so_far)
        ):
            self._has_finished_unsent = True
            return None
        return self._tickets.ticket(unit, row, next_request, so_far=so_far, replaces=one.replaces)

    def _is_sent(
        self, unit: Unit, row: Row, replaces: str | None, request: Request, so_far: UnitSoFar | None
    ) -> bool:
        """False: an identical request is sent instead of this one."""
        if self._sharing is None:
            return True
        if so_far is not None:
            self._sharing.lead(unit, request.unit_hash)
            return True
        answer = self._sharing.ask(Follower(unit, row, replaces), request.unit_hash)
        if isinstance(answer, FinalPart):
            self._unsent.shared(unit, row, replaces, answer)
        return answer is True
