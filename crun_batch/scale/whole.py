"""A job over all of its shards as one: how far it is, what it has used. Reads only, without a lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from msgspec import structs

from crun_batch.options import RunOptions
from crun_batch.pricing.account import Account, together
from crun_batch.scale.giver import WorkerEnd, end_told_by
from crun_batch.state.done import DoneMarks
from crun_batch.state.marking import mark_done
from crun_batch.state.recovery import JournalNow, journal_now
from crun_batch.state.run_state import RunContext, RunState
from crun_batch.state.status import give_up
from crun_batch.store.batches import BatchBook
from crun_batch.store.directory import RunDirectory, read_json
from crun_batch.store.views import finished_units
from crun_batch.workload.workload import Workload


def shards_context(workload: Workload, options: RunOptions, places: Sequence[Path]) -> RunContext:
    """How far all shards are together; what was in flight when one was killed is of unknown outcome."""
    begun = places_begun(places)
    done = DoneMarks(workload.unit_slots)
    if begun:
        mark_done(done, workload, _all_finished(begun))
    directory = RunDirectory(workload.job.output.dir)
    state = RunState(
        account=together(account_of(place) for place in begun),
        done=done,
        directory=directory,
        batches=BatchBook(directory),
        schema=workload.run_schema(),
    )
    return RunContext(workload, options, state)


def in_shard(context: RunContext, place: Path) -> RunContext:
    """The context of all shards, about the run directory of one."""
    directory = RunDirectory(place)
    state = structs.replace(context.state, directory=directory, batches=BatchBook(directory))
    return structs.replace(context, state=state)


def places_begun(places: Sequence[Path]) -> list[Path]:
    """Those in which something was sent."""
    return [place for place in places if RunDirectory(place).has_job]


def account_of(place: Path) -> Account:
    """What a shard's run directory has used, whoever ended; an empty account where there is none yet."""
    directory = RunDirectory(place)
    now = journal_now(directory) if directory.has_job else JournalNow(Account(), {})
    give_up(now)
    return now.account


def committed(place: Path) -> tuple[int, int]:
    """The dollars and credits (pico) that a shard has spent, or that attempts of unknown outcome may have cost."""
    totals = account_of(place).totals()
    return totals.cost_usd + totals.held_usd, totals.cost_credits + totals.held_credits


def done_in(place: Path) -> int:
    """Units that have their final result in a shard."""
    return sum(account_of(place).totals().statuses.values())


def end_of(place: Path) -> WorkerEnd | None:
    """How a shard has ended that is done, or out of money, as its summary says; None: it says neither."""
    directory = RunDirectory(place)
    if not directory.has_summary:
        return None
    return end_told_by(read_json(directory.summary))


def _all_finished(places: Sequence[Path]) -> pa.RecordBatchReader:
    """The finished units of all shards, one after the other."""
    readers = [finished_units(place) for place in places]
    return pa.RecordBatchReader.from_batches(readers[0].schema, _batches(readers))


def _batches(readers: Sequence[pa.RecordBatchReader]) -> Iterator[pa.RecordBatch]:
    for reader in readers:
        yield from reader
