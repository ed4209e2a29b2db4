"""How far a run has come, and everything that one session of it needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from crun_batch.options import RunOptions
from crun_batch.pricing.account import Account
from crun_batch.pricing.budget import Budget, Reservations
from crun_batch.records import Hold, Row, Unit
from crun_batch.state.background import BackgroundCall
from crun_batch.state.done import DoneMarks, open_rows, open_units
from crun_batch.state.reuse import Reuse, Taken, open_reuse
from crun_batch.store.batches import BatchBook
from crun_batch.store.directory import RunDirectory
from crun_batch.store.recover import Recovered
from crun_batch.store.schema import RunSchema
from crun_batch.workload.workload import Workload


class RunState(Struct, kw_only=True):
    """A run directory, and how far its run has come. Locked, where the run is to go on."""

    account: Account
    done: DoneMarks
    pilot: Mapping[str, Any] | None = None
    """What the run's last pilot told."""
    directory: RunDirectory
    batches: BatchBook
    """What the gateway has of it as batches."""
    schema: RunSchema
    document: dict[str, Any] = {}
    """What job.json said before this session; empty for a new run."""
    recovered: Recovered | None = None
    """What the journal held; None: a new run, or one that is only read."""
    fingerprinting: BackgroundCall[dict[str, Any]] | None = None
    """Reads the whole table, which nothing before the first record has to wait for; None: it is only read."""
    bill_at_most: Hold = Hold()
    """What all sessions together will have cost once everything is done: the estimate's high end."""
    reservations: Reservations | None = None
    """The money of the run, as this session spends it; None: nothing was sent."""
    steering: Mapping[str, Any] = {}
    """What job.json says of what people told this session, and those before it (`steered`)."""
    caps: Budget | None = None
    """What may be spent since somebody has changed it in this session; None: what the job says."""
    prices: Mapping[str, Any] = {}
    """The prices of this session, once they are chosen."""
    left_out: dict[str, str] = {}
    """Endpoints of a list to which nothing is sent now -> why."""
    reuse: Reuse | None = None
    """The earlier runs that answers are taken from, once one is asked for."""
    late_columns: tuple[str, ...] = ()
    """Carried columns that came after results were finished, which are null there."""
    redoes_changed: bool = False
    """Whether this session asks finished units again whose requests have changed; the next one looks at all."""
    failed_verdicts: int = 0
    """Questions to judges that this session got no verdict for."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides whether finished units would still send the same requests. Raises InputError."""
        assert self.fingerprinting is not None, "only a run that is locked asks what its requests are made of"
        return self.fingerprinting.result()

    @property
    def tables(self) -> list[str]:
        """Fingerprints of all tables that the run's sessions have read, this one's the last. Raises InputError."""
        former = self.document.get("fingerprint")
        before = self.document.get("tables", [former["table"]] if former else [])
        return [*(table for table in before if table != self.fingerprint["table"]), self.fingerprint["table"]]

    @property
    def same_table(self) -> bool:
        """Whether all sessions have read the same table."""
        return len(self.tables) == 1


class RunContext(Struct, frozen=True):
    """What every step of a run works with: what is to be done, how it is run, how far it has come."""

    workload: Workload
    options: RunOptions
    state: RunState

    @property
    def open_units(self) -> int:
        """Units of the selected rows that have no final result."""
        return open_units(self.workload, self.state.done)

    @property
    def awaits_batches(self) -> bool:
        """Whether a batch has requests of which nothing is recorded yet, be it of rows not selected now."""
        recovered, fate = self.state.recovered, self.state.batches.fate
        return recovered is not None and any(fate(start.n) == "submitted" for start in recovered.in_flight)

    @property
    def reuse(self) -> Reuse:
        """The earlier runs that the job takes answers from. Raises InputError, RunDamaged, DiskFailed."""
        if self.state.reuse is None:
            self.state.reuse = open_reuse(self.workload)
        return self.state.reuse

    def taken_over(self, unit: Unit, variant: str, unit_hash: str) -> Taken:
        """The result that an earlier run has for the unit; None: it must be sent.

        What was tried here, or is asked again, is this run's own to finish.
        """
        if self.workload.job.reuse is None:
            return None
        slot = self.workload.slots.of(unit.position, unit.variant, unit.repeat)
        was_tried = (str(unit.row_id), variant, unit.repeat) in self.state.account.open_units
        if was_tried or slot in self.state.done.replaced:
            return None
        return self.reuse.part(unit_hash, unit)

    def open_rows(self) -> Iterator[list[Row]]:
        """The selected rows that still have something to do, in batches."""
        return open_rows(self.workload, self.state.done)

    def open_repeats(self, rows: Sequence[Row], variant: int) -> list[list[int]]:
        """Of each row, the repeats of a variant that are left to ask."""
        slots = self.workload.slots
        first, per_row = slots.of(0, variant, 0), slots.per_row
        return self.state.done.open_repeats([first + per_row * row.position for row in rows], slots.repeats)

    def has_open(self, row: Row) -> bool:
        """Whether anything is left to ask of the row."""
        return self.open_units_of(row) > 0

    def open_units_of(self, row: Row) -> int:
        """How many variants and repeats of the row are left to ask."""
        first = self.workload.slots.of(row.position, 0, 0)
        return sum(self.state.done.is_open(first + offset) for offset in range(self.workload.slots.per_row))
