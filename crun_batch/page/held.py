"""Rows of sealed files held in memory: none of a million need be read again to choose, order and search them.

Made in the background after the first page, file by file: until then, and beyond HELD_BYTES, rows are read from
their files, with the same answers. A sealed file never changes under its size and time; where it does, it is held
anew. One run of a page is held at a time. Owns: what is held, and how much.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct, structs

from crun_batch.page.facts import RunFacets
from crun_batch.page.held_columns import LOW, HeldColumns, held_columns, is_text
from crun_batch.store.views import Snapshot, make_finals_view

HELD_BYTES = 1_500_000_000
"""At most, and at most a quarter of the machine's memory: of about 3 million rows of short texts."""
TEXT_SHARE = 0.7
"""The texts that are searched have so much of it at most: the columns beside them serve every question."""
LEAST_ROWS = 50_000
"""Fewer rows are read from their files as fast."""
NICER = 10
Stamp = tuple[int, int] | None


class ReadAhead(Struct, frozen=True):
    """How far it is with what is held."""

    rows: int
    bytes: int
    is_growing: bool


class HeldPart(Struct, frozen=True):
    """The finals of one sealed file, in its order."""

    stamp: Stamp
    rows: pa.Table
    """The columns of `HeldColumns.of_held` without texts."""
    low: pa.ChunkedArray | None
    """LOW; None where the texts are read from the file."""

    @property
    def nbytes(self) -> int:
        return int(self.rows.nbytes + (0 if self.low is None else self.low.nbytes))

    def table(self, *, texts: bool) -> pa.Table:
        """The rows, with LOW where `texts`."""
        return self.rows.append_column(LOW, self.low) if texts else self.rows


class HeldRoom:
    """The memory of one page: the run that was asked for last has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_it: HeldRows | None = None

    def take(self, held: HeldRows) -> None:
        """Give it to this run; what was held of another goes."""
        with self._lock:
            if self._has_it is not None and self._has_it is not held:
                self._has_it.clear()
            self._has_it = held


class HeldRows:
    """What is held of one run."""

    def __init__(self, room: HeldRoom, forget: Callable[[], None]) -> None:
        self._room = room
        self._forget = forget
        """Lets go of what has been taken from here."""
        self._lock = threading.Lock()
        self._facets: RunFacets | None = None
        self._columns: HeldColumns | None = None
        self._parts: Mapping[int, HeldPart] = {}
        self._thread: threading.Thread | None = None
        self._round = 0

    def columns(self, now: Snapshot, facets: RunFacets) -> HeldColumns:
        """What is held of each row; other facets are another run: nothing is held of it yet."""
        with self._lock:
            if self._columns is None or self._facets != facets:
                self._facets, self._columns = facets, held_columns(facets, _bytes_of_columns(now))
                self._parts = {}
                self._round += 1
            return self._columns

    def parts(self, now: Snapshot) -> Mapping[int, HeldPart]:
        """Number -> what is held of the sealed files as they are now."""
        held = self._parts
        return {
            number: held[number]
            for number in now.sealed
            if number in held and held[number].stamp == _stamp(now.run.part(number))
        }

    def build(self, now: Snapshot, facets: RunFacets) -> None:
        """Hold what is not held yet, in the background. Does nothing while it is doing that."""
        with self._lock:
            is_busy = self._thread is not None and self._thread.is_alive()
        missing = [number for number in now.sealed if number not in self.parts(now)]
        if is_busy or not missing or _rows_of(now) < LEAST_ROWS or _bytes(self._parts) >= most_bytes():
            return
        self._room.take(self)
        columns = self.columns(now, facets)
        with self._lock:
            work = (now, columns, missing, self._round)
            self._thread = threading.Thread(target=self._hold, args=work, name="held rows", daemon=True)
            self._thread.start()

    def told(self) -> ReadAhead:
        """How much is held now."""
        parts, thread = self._parts, self._thread
        rows = sum(part.rows.num_rows for part in parts.values())
        return ReadAhead(rows, _bytes(parts), thread is not None and thread.is_alive())

    def wait(self) -> None:
        """Return when nothing is being made any more."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def clear(self) -> None:
        """Hold nothing."""
        with self._lock:
            self._parts = {}
            self._round += 1
        self._forget()

    def _hold(self, now: Snapshot, columns: HeldColumns, missing: list[int], round_: int) -> None:
        _give_way()
        for number in missing:
            used = _bytes(self._parts)
            if used >= most_bytes() or round_ != self._round:
                return
            texts = used < TEXT_SHARE * most_bytes()
            try:
                made = held_part(now, number, columns, texts=texts)
            except (OSError, duckdb.Error):
                return  # the file has gone, or is damaged: whoever asks for its rows hears of it
            with self._lock:
                if round_ == self._round:
                    self._parts = {**self._parts, number: made}


def held_part(now: Snapshot, number: int, columns: HeldColumns, *, texts: bool) -> HeldPart:
    """The finals of a sealed file as they are held. Raises OSError, duckdb.Error."""
    stamp = _stamp(now.run.part(number))
    without_live = structs.replace(now, finals=now.finals.slice(0, 0))
    with duckdb.connect(":memory:") as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set threads = 1")  # the thread that gives way, and no other
        make_finals_view(connection, "_part", without_live, [number])
        told = [*columns.of_final(texts=False), *([columns.low] if texts else [])]
        table = connection.sql(f"select {', '.join(told)} from _part").to_arrow_table()
    low = table.column(LOW) if texts else None
    rows = table.drop_columns([LOW]) if texts else table
    for place, field in enumerate(rows.schema):
        if is_text(field.type):  # most of them have few different values
            rows = rows.set_column(place, field.name, rows.column(place).dictionary_encode())
    return HeldPart(stamp, rows, low)


def _give_way() -> None:
    """Whoever waits for a page goes before this thread. Only Linux has priorities of threads."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICER)


def most_bytes() -> float:
    """How much may be held."""
    return min(HELD_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 4)


def _bytes(parts: Mapping[int, HeldPart]) -> int:
    return sum(part.nbytes for part in parts.values())


def _rows_of(now: Snapshot) -> int:
    return sum(pq.read_metadata(now.run.part(number)).num_rows for number in now.sealed)


def _bytes_of_columns(now: Snapshot) -> dict[str, float]:
    """Of the first sealed file: column -> bytes a value on average, before compression."""
    if not now.sealed:
        return {}
    found = pq.read_metadata(now.run.part(now.sealed[0]))
    total: dict[str, float] = {}
    for group in range(found.num_row_groups):
        for place in range(found.num_columns):
            column = found.row_group(group).column(place)
            size = column.total_uncompressed_size / max(1, found.num_rows)
            total[column.path_in_schema] = total.get(column.path_in_schema, 0.0) + size
    return total


def _stamp(file: Path) -> Stamp:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
