"""What the batch lane has on the disk: its batches, and the requests in them that an earlier session has sent.

Owns how a request that is in a batch already finds the unit that it belongs to, so that it is not sent again. One
whose row is no longer asked, or is asked otherwise now, is concluded without its row: a recorded answer that the
unit takes over where it still fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import structs

from crun_batch.pricing.account import UnitKey
from crun_batch.records import Attempt, Fault, Hold, Response, Ticket
from crun_batch.session.batching.live import LiveBatch
from crun_batch.session.entries import unit_key
from crun_batch.session.leftovers import conclude_reply
from crun_batch.session.resources import Resources
from crun_batch.session.tools import Tools
from crun_batch.state.run_state import RunContext
from crun_batch.store.batches import BatchBook, BatchEntry, BatchStep
from crun_batch.store.events import EndFault, RawEnd, StartEvent, end_event


class BatchKeeper:
    """The batches of a run directory, for one session."""

    def __init__(self, context: RunContext, tools: Tools, resources: Resources) -> None:
        self.book: BatchBook = context.state.batches
        self.now_us = context.options.clock.epoch_us
        self.gateway_ends = context.options.simulate
        """Whether the gateway, a simulator, ends with this session, and its batches with it."""
        self.place = str(context.state.directory.path)
        self._context = context
        self._journal = tools.journal
        self._attempts = tools.attempts
        self._bill = resources.bill
        recovered = context.state.recovered
        submitted = {
            start.n: start
            for start in (recovered.in_flight if recovered is not None else ())
            if self.book.fate(start.n) == "submitted"
        }
        self._by_serial: dict[int, StartEvent] = submitted
        self._by_unit: dict[UnitKey, StartEvent] = {
            (start.id, start.variant, start.repeat): start for start in submitted.values()
        }
        for start in submitted.values():
            self._attempts.reservations.hold(_hold_of(start))

    def serial(self) -> int:
        """A serial of the journal's that no request gets: those of a batch follow it."""
        return next(self._journal.serials)

    def sync(self) -> None:
        """All that was recorded is on the disk. Raises DiskFailed."""
        self._journal.sync()
        self._journal.poll()

    def settle(self, batch: LiveBatch, step: BatchStep = "settled", why: str | None = None) -> None:
        """All that is known of its requests is in the journal and on the disk: it is over. Raises DiskFailed."""
        self.sync()
        entry = batch.entry
        batch.entry = structs.replace(entry, step=step, why=entry.why if why is None else why)
        self.book.write(batch.entry)
        self.book.drop_raw(entry)

    def claim(self, ticket: Ticket) -> Attempt | Literal["elsewhere"] | None:
        """The request as it was sent before, where it is in a batch; `elsewhere`: another one of its unit is."""
        if not self._by_unit:
            return None
        key = unit_key(ticket.unit, self._attempts.targets[ticket.unit.variant])
        start = self._by_unit.get(key)
        if start is None:
            return None
        if start.request_hash != ticket.request_hash:
            return "elsewhere"
        del self._by_unit[key], self._by_serial[start.n]
        ticket = structs.replace(
            ticket,
            attempt=start.attempt,
            hold=_hold_of(start),
            endpoint=start.endpoint,
            turn=start.turn,
            if_left=ticket.hold if ticket.if_left is None else ticket.if_left,
        )
        attempt = Attempt(ticket, start.n)
        self._attempts.attach(attempt, start)
        return attempt

    def unclaimed(self, entry: BatchEntry) -> list[int]:
        """Requests of the batch whose unit has not come by."""
        return [serial for serial in entry.serials if serial in self._by_serial]

    def conclude_unclaimed(self, arrivals: Sequence[tuple[int, Response | Fault]]) -> list[UnitKey]:
        """Record what came of them and read it, as a start does with replies that a kill left; whose they were."""
        starts = [self._by_serial.pop(serial) for serial, _ in arrivals]
        now_us = self.now_us()
        raws = [_end_of(start, arrival, now_us) for start, (_, arrival) in zip(starts, arrivals, strict=True)]
        self._journal.append_ends(raws)
        for start, raw in zip(starts, raws, strict=True):
            cost = conclude_reply(self._context, self._journal, self._bill, start, end_event(raw))
            self._attempts.reservations.settle(_hold_of(start), cost)
        keys = [(start.id, start.variant, start.repeat) for start in starts]
        for key in keys:
            self._by_unit.pop(key, None)
        return keys


def _hold_of(start: StartEvent) -> Hold:
    return Hold(start.held_usd, start.held_credits)


def _end_of(start: StartEvent, arrival: Response | Fault, now_us: int) -> RawEnd:
    fault, headers = None, None
    if isinstance(arrival, Fault):
        fault = EndFault(arrival.stage, arrival.kind, arrival.message)
    else:
        headers = arrival.headers
    took_us = max(0, now_us - start.started_at)
    return RawEnd(start.n, now_us, took_us, arrival.status, headers, arrival.body, fault)
