"""The questions to judges that are still open, as tickets, in the order of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from crun_batch.records import Ticket, Unit
from crun_batch.scoring.unjudged import Answered, Asker
from crun_batch.session.source import Batches
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext


class JudgeTickets:
    """Tickets of all open questions, in the order of the answers."""

    def __init__(self, context: RunContext, tools: Tools, batches: Batches[Answered], asker: Asker) -> None:
        self._places = {judge.name: place for place, judge in enumerate(context.workload.judges)}
        self._batches = batches
        self._asker = asker
        self._tickets = tools.tickets
        self._wake = tools.wake
        self._waiting: Iterator[Ticket] = iter(())
        self._is_fresh = False
        self._skipped: set[int] = set()

    def skip(self, target: int) -> None:
        """Ask this judge nothing more: its questions stay open."""
        self._skipped.add(target)

    def next(self) -> Ticket | Literal["wait", "end"]:
        """The next ticket; "wait": `wake` will be called."""
        while True:
            ticket = next(self._waiting, None)
            if ticket is not None:
                self._is_fresh = False
                return ticket
            if self._is_fresh:  # a batch without an open question: let others have the loop
                self._is_fresh = False
                self._wake()
                return "wait"
            batch = self._batches.take(self._wake)
            if batch == "wait" or batch == "end":
                return batch
            self._is_fresh = True
            self._waiting = self._tickets_of(batch)

    def _tickets_of(self, batch: list[Answered]) -> Iterator[Ticket]:
        for answer, row in batch:
            for judge, request in self._asker.open(answer, row):
                place = self._places[judge.name]
                if place in self._skipped:
                    continue
                yield Ticket(
                    unit=Unit(row.position, row.row_id, place, answer.repeat),
                    row=row,
                    body=request.body,
                    request_hash=request.request_hash,
                    hold=self._tickets.hold(request),
                    bound_tokens=self._tickets.bound_tokens(request),
                    purpose="judge",
                    model=request.model,
                    answered_by=answer.variant,
                    judge=judge.spec.name,
                    service_tier=request.service_tier,
                )
