"""Going on where a run stopped: what its directory says, folded into the same account that a live session keeps.

Resume is no mode: what the journal has is simply not to do. What was in flight at a kill is recorded as of unknown
outcome, and keeps its hold.
"""

from __future__ import annotations

from contextlib import suppress

from msgspec import Struct

from crun_batch.pricing.account import Account, Answered, BookedAttempt
from crun_batch.records import (
    Cost,
    ErrorKind,
    Failure,
    Hold,
    OutcomeClass,
    Purpose,
    Reply,
    Tries,
    Usage,
)
from crun_batch.state.done import DoneMarks
from crun_batch.state.marking import mark_done
from crun_batch.store.batches import BatchBook, BatchEntry
from crun_batch.store.directory import RunDirectory
from crun_batch.store.events import EndEvent, Event, FinalEvent, HeadEvent, ReadEvent, StartEvent
from crun_batch.store.recover import Recovered, recover, replay
from crun_batch.store.schema import RunSchema
from crun_batch.store.seal import seal_segment
from crun_batch.store.views import LISTINGS, finished_units
from crun_batch.workload.workload import Workload

IN_FLIGHT_AT_A_KILL = Failure(
    outcome="unknown",
    kind="unknown_outcome",
    action="retry",
    message="in flight when the process ended: the gateway may have billed it",
)
"""What the next session records of a request without a reply."""


class JournalNow(Struct):
    """What the journal tells at this moment: the account, and the requests without a recorded reply by serial."""

    account: Account
    in_flight: dict[int, StartEvent]
    """Without those that are in batches, or were to go in one that was never submitted."""
    batches: list[BatchEntry] = []
    """Those that are not collected yet."""
    unread: dict[int, tuple[StartEvent, OutcomeClass]] = {}
    """Whose raw reply is recorded and no more, with the class that it may have: it is read by the next session."""

    @property
    def unbooked(self) -> list[tuple[StartEvent, OutcomeClass]]:
        """What no sum has yet and may have been billed, whatever the next session makes of it."""
        return [*((start, "unknown") for start in self.in_flight.values()), *self.unread.values()]


def account_now(directory: RunDirectory) -> Account:
    """The account as the journal tells it now; needs no lock. An empty one where there is no journal yet."""
    return journal_now(directory).account


def journal_now(directory: RunDirectory) -> JournalNow:
    """The newest segment, folded together; needs no lock. Nothing where there is no journal yet."""
    for _ in range(LISTINGS):
        with suppress(FileNotFoundError):  # sealed since it was listed: there is a newer one
            return _folded(directory)
    return _folded(directory)


def _folded(directory: RunDirectory) -> JournalNow:
    now, last_us = JournalNow(Account(), {}), 0
    for number in directory.segments()[-1:]:
        for event in replay(directory.segment(number)):
            last_us = max(last_us, _written_at(event))
            if isinstance(event, HeadEvent):
                now.account = Account.from_checkpoint(event.checkpoint)
                now.in_flight = {start.n: start for start in event.in_flight}
            elif isinstance(event, StartEvent):
                now.in_flight[event.n] = event
            elif isinstance(event, EndEvent):
                _answered(now, event)
            else:
                book(now.account, event)
                if not isinstance(event, FinalEvent):
                    now.in_flight.pop(event.n, None)
                    now.unread.pop(event.n, None)
    now.account.session_killed(last_us)
    batches = BatchBook(directory)
    now.batches = batches.open
    now.in_flight = {n: start for n, start in now.in_flight.items() if batches.fate(n) == "unknown"}
    now.unread = {n: one for n, one in now.unread.items() if batches.fate(n) == "unknown"}
    return now


def _answered(now: JournalNow, end: EndEvent) -> None:
    """The reply to a request, of all its rows: the raw one stands with the first of them.

    One without a whole reply stays as it was: its outcome is unknown. A 2xx counts as billed until it is read.
    """
    first = now.in_flight.get(end.n)
    if first is None or (end.fault is not None and end.fault.stage != "not_sent"):
        return
    is_2xx = 200 <= (end.http_status or 0) < 300
    outcome: OutcomeClass = "not_sent" if end.fault is not None else "done" if is_2xx else "rejected"
    rows = [first]
    if first.pack is not None:
        rows = [start for start in now.in_flight.values() if start.first_of_pack == end.n]
    for start in rows:
        del now.in_flight[start.n]
        now.unread[start.n] = start, outcome


def _written_at(event: Event) -> int:
    """Microseconds since 1970; 0 where the event does not say."""
    times = (getattr(event, name, None) for name in ("started_at", "finished_at"))
    return max(moment or 0 for moment in times)


def book(account: Account, event: Event) -> None:
    """Fold one recorded event into the account, as the session that wrote it did."""
    if isinstance(event, ReadEvent):
        key = (event.id, event.variant, event.repeat)
        end = BookedAttempt(
            event.outcome,
            usage_of(event),
            Cost(event.cost_usd, event.cost_credits, event.cost_source),  # type: ignore[arg-type]
            Hold(event.held_usd, event.held_credits),
            Tries(event.counted, event.unknown_retries),
            event.latency_us or 0,
            event.endpoint,
            event.sends_row_alone,
            event.pack_place,
            event.is_left_undone,
        )
        unit = account.ended(key, event.started_at, end, judge=event.judge)
        if event.judge is not None:
            return
        if event.outcome == "done" and event.error_kind is None and event.final is None:
            unit.answers.append(answered_by(event))
        elif event.gives_up:
            unit.failure, unit.failure_hash = recorded_failure(event), event.request_hash
    if isinstance(event, ReadEvent | FinalEvent) and event.final is not None:
        final = event.final
        kind = final.error_kind or (event.error_kind if isinstance(event, ReadEvent) else None)
        account.finished(
            (event.id, event.variant, event.repeat),
            final.status,
            kind,
            replaces=final.replaces,
            shared=final.is_shared,
            saved=final.saved,
        )


def usage_of(event: ReadEvent) -> Usage | None:
    """The recorded token counts; None where the reply told none."""
    if event.output_tokens is None:
        return None
    return Usage(
        event.input_tokens,
        event.cached_input_tokens or 0,
        event.cache_write_tokens or 0,
        event.output_tokens,
        event.reasoning_tokens or 0,
        event.service_tier,
        event.cache_write_1h_tokens or 0,
        event.other_charges,
    )


def answered_by(event: ReadEvent) -> Answered:
    """The recorded answer."""
    reply = Reply(
        text=event.text,
        finish_reason=event.finish_reason or "other",  # type: ignore[arg-type]
        usage=usage_of(event),
        tool_calls=event.tool_calls,
        model=event.model,
        response_id=event.response_id,
        reported_usd=event.reported_usd,
        note=event.error_message,
    )
    purpose: Purpose = event.purpose  # type: ignore[assignment]
    return Answered(event.turn, purpose, event.request_hash, reply)


def recorded_failure(event: ReadEvent) -> Failure:
    """The recorded failure that ends its unit."""
    kind: ErrorKind = event.error_kind  # type: ignore[assignment]
    return Failure(
        event.outcome,  # type: ignore[arg-type]
        kind,
        "fail_row",
        event.error_message or "",
        usage=usage_of(event),
        reported_usd=event.reported_usd,
    )


def recover_journal(directory: RunDirectory, schema: RunSchema) -> Recovered | None:
    """What the journal holds, its older segments sealed; None: it is a new one. Raises RunDamaged, DiskFailed."""
    recovered = recover(directory)
    for number in recovered.older if recovered is not None else ():
        seal_segment(directory, number, schema)
    return recovered


def done_marks(workload: Workload, directory: RunDirectory, *, is_new: bool) -> DoneMarks:
    """Which units have a final result; none in a new run."""
    done = DoneMarks(workload.unit_slots)
    if not is_new:
        mark_done(done, workload, finished_units(directory.path))
    return done
