"""Which units have their final result: one byte per unit, for the whole table.

Owns the done marks and what follows from them: how many units are open, which rows still have something to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from crun_batch.records import Row
from crun_batch.store.schema import constant
from crun_batch.workload.workload import Workload

OPEN = 0
OPEN_STATUS = "open"


class DoneMarks:
    """One byte per unit slot: 0 open, otherwise the number of the status and error kind it was finished with."""

    def __init__(self, slots: int) -> None:
        self._codes: bytearray = bytearray(slots)
        self._endings: dict[tuple[str, str | None], int] = {}
        self.replaced: dict[int, str] = {}
        """Slots that were opened again, with the ending (`status:error_kind`) that the new result will replace."""
        self.reopened: dict[str, int] = {}
        """By such an ending how many of them are open still."""
        self.of_former_ways = 0
        """Finished units of rows of the table under variants and repeats that are gone: they have no slot."""

    @property
    def reopened_units(self) -> int:
        """Units that are asked again and still open: they have their former result until then."""
        return sum(self.reopened.values())

    def code(self, status: str, error_kind: str | None) -> int:
        """The byte that stands for this ending."""
        return self._endings.setdefault((status, error_kind), len(self._endings) + 1)

    def finish(self, slot: int, status: str, error_kind: str | None) -> None:
        """The unit in this slot has its final result."""
        if self.replaced and self._codes[slot] == OPEN and slot in self.replaced:
            self.reopened[self.replaced[slot]] -= 1
        self._codes[slot] = self._endings.get((status, error_kind)) or self.code(status, error_kind)

    def mark_all(self, codes: bytearray) -> None:
        """Take the codes of all slots at once."""
        self._codes = codes

    def is_open(self, slot: int) -> bool:
        return self._codes[slot] == OPEN

    def open_repeats(self, first_slots: Iterable[int], repeats: int) -> list[list[int]]:
        """For each of these slots, which of the `repeats` that begin there are open."""
        codes = self._codes
        return [[repeat for repeat in range(repeats) if codes[first + repeat] == OPEN] for first in first_slots]

    def open_rows(self, slots_per_row: int) -> pa.BooleanArray:
        """For every row of the source, whether it has an open slot."""
        return reduce(pc.or_, self._open(slots_per_row))

    def open_among(self, rows: pa.BooleanArray, slots_per_row: int) -> int:
        """The open slots of the rows of the source whose bit is set."""
        return sum(pc.and_(is_open, rows).true_count for is_open in self._open(slots_per_row))

    def _open(self, slots_per_row: int) -> Iterator[pa.BooleanArray]:
        """For the first slot of every row, then for the second and so on: whether it is open."""
        for offset in range(slots_per_row):
            codes = self._codes[offset::slots_per_row]
            yield pc.invert(_array(codes).cast(pa.bool_()))

    def worst_of_rows(self, statuses: Sequence[str], slots_per_row: int) -> pa.UInt8Array:
        """For every row of the source, the place in `statuses` of the last of those that its slots have."""
        places = bytearray(256)
        places[OPEN] = statuses.index(OPEN_STATUS)
        for (status, _), code in self._endings.items():
            places[code] = statuses.index(status)
        found = self._codes.translate(places)
        by_slot = (_array(found[offset::slots_per_row]) for offset in range(slots_per_row))
        return reduce(pc.max_element_wise, by_slot)

    def reopen(self, slot: int) -> None:
        """Let the unit be asked again; its earlier result stays until the new one replaces it."""
        status, kind = next(ending for ending, code in self._endings.items() if code == self._codes[slot])
        ending = self.replaced[slot] = f"{status}:{kind}" if kind else status
        self.reopened[ending] = self.reopened.get(ending, 0) + 1
        self._codes[slot] = OPEN

    def reopen_endings(self, kinds: frozenset[str]) -> int:
        """Reopen all units whose status or error kind is among `kinds`; how many they were."""
        codes = {
            code for (status, kind), code in self._endings.items() if status in kinds or (kind or "") in kinds
        }
        slots = [slot for slot, code in enumerate(self._codes) if code in codes] if codes else []
        for slot in slots:
            self.reopen(slot)
        return len(slots)

    def open_slots(self) -> int:
        return self._codes.count(OPEN)


def _array(codes: bytearray) -> pa.UInt8Array:
    return pa.Array.from_buffers(pa.uint8(), len(codes), [None, pa.py_buffer(codes)])


def rows_by_status(workload: Workload, done: DoneMarks, statuses: Sequence[str]) -> Mapping[str, int]:
    """How many rows have each status: that of their units which stands last in `statuses`, open the last.

    So a row is ok where all its variants and repeats are, and open while one of them is. Those that are selected
    now, and those that earlier sessions finished: their units are in the sums.
    """
    table, order = workload.table, (*statuses, OPEN_STATUS)
    worst = done.worst_of_rows(order, workload.slots.per_row)
    if table.selected_rows != table.source_rows:
        is_finished = pc.less(worst, constant(len(statuses), pa.int64()).cast(worst.type))
        worst = worst.filter(pc.or_(table.selected, is_finished))
    found = {one["values"]: one["counts"] for one in pc.value_counts(worst).to_pylist()}
    return {"total": len(worst), **{name: found.get(place, 0) for place, name in enumerate(order)}}


def open_units(workload: Workload, done: DoneMarks) -> int:
    """Units of the selected rows that have no final result."""
    table = workload.table
    if table.selected_rows == table.source_rows:
        return done.open_slots()
    return done.open_among(table.selected, workload.slots.per_row)


def open_rows(workload: Workload, done: DoneMarks) -> Iterator[list[Row]]:
    """The selected rows that still have something to do; the finished ones are passed over where they are read."""
    return workload.table.rows(workload.columns, wanted=done.open_rows(workload.slots.per_row))
