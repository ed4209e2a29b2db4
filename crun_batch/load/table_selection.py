"""Which rows of a source are wanted: one bit per row, so that ten million rows cost 1.25 MB. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct


class Selection(Struct, frozen=True):
    """The wanted rows below position `end`: all of them or, with a mask, those whose bit is set."""

    rows: int
    end: int
    mask: pa.BooleanArray | None = None

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
    bits = bytearray((source_rows + 7) // 8)
    rows = 0
    for batch in batches:
        rows += len(batch)
        for position in batch.column(0).to_pylist():
            bits[position >> 3] |= 1 << (position & 7)
    mask = pa.Array.from_buffers(pa.bool_(), source_rows, [None, pa.py_buffer(bytes(bits))])
    return Selection(rows, source_rows, mask)
