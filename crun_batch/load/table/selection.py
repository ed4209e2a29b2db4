"""Which rows of a source are wanted: one bit per row, so that ten million rows cost 1.25 MB. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.load.table.arrays import array_of

PLACES = 100
PLACE_ROWS = 2048
SPAN_ROWS = 1024
"""How exactly `spans` tells where wanted rows stand."""


class Selection(Struct, frozen=True):
    """The wanted rows below position `end`: all of them or, with a mask, those whose bit is set."""

    rows: int
    end: int
    mask: pa.BooleanArray | None = None

    def bits(self, source_rows: int) -> pa.BooleanArray:
        """One bit per row of the source: whether it is wanted."""
        inside, outside = pa.nulls(self.end), pa.nulls(source_rows - self.end)
        bits = pa.concat_arrays([inside.is_null(), outside.is_valid()])
        return bits if self.mask is None else pc.and_(bits, self.mask)

    def first(self, limit: int) -> Selection:
        """Only the first `limit` of these rows."""
        if limit >= self.rows:
            return self
        if limit <= 0 or self.mask is None:
            return Selection(max(limit, 0), max(limit, 0), self.mask)
        return Selection(limit, pc.indices_nonzero(self.mask)[limit - 1].as_py() + 1, self.mask)

    def among(self, wanted: pa.BooleanArray) -> Selection:
        """Only those of these rows whose bit in `wanted`, one per row of the source, is set."""
        mask = wanted if self.mask is None else pc.and_(self.mask, wanted)
        chosen = pc.indices_nonzero(mask.slice(0, self.end))
        return Selection(len(chosen), chosen[-1].as_py() + 1 if len(chosen) else 0, mask)

    def spread(self, count: int, seed: int) -> Selection:
        """`count` of these rows from PLACES blocks of at most PLACE_ROWS of them, evenly spread over them all.

        Each block stands at random in its part of the rows and gives random rows, the same for the same seed.
        """
        if count >= self.rows:
            return self
        rng = random.Random(seed)
        chosen: list[int] = []
        for number in range(PLACES):
            begin, stop = (count * edge // PLACES for edge in (number, number + 1))
            first, end = self.rows * begin // count, self.rows * stop // count
            block = min(max(PLACE_ROWS, stop - begin), end - first)
            start = rng.randint(first, end - block)
            chosen += rng.sample(range(start, start + block), stop - begin)
        positions = array_of(chosen, pa.int64())
        if self.mask is not None:
            positions = pc.indices_nonzero(self.mask.slice(0, self.end)).take(positions)
        return select_positions([pa.record_batch([positions], names=["position"])], self.end)

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where the wanted rows from position `start` to `end` stand, to within SPAN_ROWS, in order."""
        end = min(end, self.end)
        if start >= end:
            return []
        if self.mask is None:
            return [(start, end)]
        rows = pc.indices_nonzero(self.mask.slice(start, end - start)).cast(pa.int64())
        found: list[tuple[int, int]] = []
        for block in pc.divide(rows, array_of([SPAN_ROWS], pa.int64())[0]).unique().to_pylist():
            begin, stop = start + block * SPAN_ROWS, min(start + (block + 1) * SPAN_ROWS, end)
            if found and found[-1][1] == begin:
                begin = found.pop()[0]
            found.append((begin, stop))
        return found

    def of(self, batch: pa.RecordBatch, start: int) -> tuple[pa.Int64Array, pa.RecordBatch]:
        """The wanted rows of a batch whose first row stands at position `start`, with their positions."""
        rows = max(0, min(len(batch), self.end - start))
        positions = pa.arange(start, start + rows)
        batch = batch.slice(0, rows)
        if self.mask is None:
            return positions, batch
        wanted = self.mask.slice(start, rows)
        return positions.filter(wanted), batch.filter(wanted)


def select_all(source_rows: int) -> Selection:
    """Every row."""
    return Selection(source_rows, source_rows)


def select_positions(batches: Iterable[pa.RecordBatch], source_rows: int) -> Selection:
    """The rows at the positions in the batches' only column, each at most once, in any order."""
    columns = [batch.column(0).cast(pa.int64()) for batch in batches]
    positions = pa.concat_arrays([pa.nulls(0, pa.int64()), *columns])
    marked = pc.scatter(positions.is_valid(), positions, max_index=source_rows - 1)
    return Selection(len(positions), source_rows, marked.is_valid())
