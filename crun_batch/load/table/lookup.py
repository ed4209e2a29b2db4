"""One row of a table by its id, wherever it stands now, selected or not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.table import Table
from crun_batch.records import Row


def find_row(table: Table, row_id: int | str, columns: Sequence[str]) -> Row | None:
    """The row with the values of these columns; None where the table has no such id."""
    ids = array_of([row_id], pa.string() if isinstance(row_id, str) else pa.int64())
    batch = pa.record_batch([ids], names=["id"])
    sought = pa.RecordBatchReader.from_batches(batch.schema, [batch])
    positions = [place for found in table.positions_of(sought) for place in found.column("position").to_pylist()]
    if not positions:
        return None
    wanted = pc.equal(pa.arange(0, table.source_rows), array_of(positions[:1], pa.int64())[0])
    return next((row for batch in table.unselected().rows(columns, wanted=wanted) for row in batch), None)
