"""Stored answers beside their rows: a pass over what is recorded, for scores and for judges.

Answers and rows are both read in the order of positions, so that neither is held. Reads only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from crun_batch.load.table.table import Table
from crun_batch.records import Row
from crun_batch.scoring.extract import json_value
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import SEQUENCE, RunSchema, constant
from crun_batch.store.scores import scores_near
from crun_batch.store.views import current_finals, snapshot

_BATCH_ROWS = 4_096
_ANSWERS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field(SEQUENCE, pa.int64()),
        pa.field("variant", pa.string()),
        pa.field("repeat", pa.int32()),
        pa.field("output_text", pa.string()),
        pa.field("has_output", pa.bool_()),
    ]
)


class Answer(Struct, frozen=True):
    """A stored answer that waits for its scores."""

    position: int
    sequence: int
    variant: str
    repeat: int
    text: str | None
    has_output: bool

    def output(self) -> Any:
        """The JSON value of the text, where the answer fits the job's output schema; else None."""
        return json_value(self.text) if self.has_output and self.text is not None else None


def unscored(run: RunDirectory, schema: RunSchema, known: pa.Table) -> pa.RecordBatchReader:
    """The answers that have no line among the known scores.

    What came without a text is an answer that is missing, and has a score; what never came (an error) has none.
    """
    scored = known.select([SEQUENCE])
    now = snapshot(run, schema)
    output = ["output"] if schema.output is not None else []

    def batches() -> Iterator[pa.RecordBatch]:
        wanted = [schema.id_name, *_ANSWERS.names[1:5], "status", *output]
        for table in current_finals(now, wanted):
            has_output = pc.is_valid(table.column("output")) if output else pa.nulls(len(table), pa.bool_())
            columns = [table.column(0).cast(pa.string()), *table.columns[1:5], has_output]
            sequences = table.column(SEQUENCE)
            near = scores_near(scored, sequences).column(SEQUENCE)
            no_error = pc.not_equal(table.column("status"), constant("error", pa.string()))
            came = pc.or_(pc.is_valid(table.column("output_text")), no_error)
            kept = pc.and_not(came, pc.is_in(sequences, value_set=near))
            chosen = pa.Table.from_arrays(columns, schema=_ANSWERS).filter(kept)
            yield from chosen.to_batches()

    return pa.RecordBatchReader.from_batches(_ANSWERS, batches())


@contextmanager
def by_position(table: Table, answers: pa.RecordBatchReader) -> Iterator[Iterator[Answer]]:
    """The answers in the order of their rows' positions, sorted outside of memory where they are many."""
    with in_table_order(table, answers, SEQUENCE) as lines:
        yield (Answer(*line) for line in lines)


@contextmanager
def in_table_order(table: Table, lines: pa.RecordBatchReader, then: str) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Lines whose first column is `id`, with the row's position in its place: in that order, then by `then`.

    Those whose row is not in the table are left out. Sorted outside of memory where they are many.
    """
    import duckdb

    placed = pa.schema([pa.field("position", pa.int64()), *list(lines.schema)[1:]])
    found = (batch.select(placed.names) for batch in table.positions_of(lines))
    with tempfile.TemporaryDirectory(prefix="crun-batch-") as spill:
        config: dict[str, Any] = {"memory_limit": "512MB", "threads": 2, "temp_directory": spill}
        with duckdb.connect(config=config) as connection:
            connection.register("answers", pa.RecordBatchReader.from_batches(placed, found))
            ordered = f"select * from answers order by position, {then}"
            reader = connection.sql(ordered).to_arrow_reader(_BATCH_ROWS)
            yield (line for batch in reader for line in zip(*map(pa.Array.to_pylist, batch.columns), strict=True))


class Placed(Protocol):
    """Something of the row at a position."""

    @property
    def position(self) -> int: ...


P = TypeVar("P", bound=Placed)


def with_rows(rows: Iterator[list[Row]], answers: Iterator[P]) -> Iterator[tuple[P, Row]]:
    """Each answer with its row; those whose row is not among `rows` are left out."""
    answer = next(answers, None)
    if answer is None:
        return
    for batch in rows:
        for row in batch:
            while answer is not None and answer.position <= row.position:
                if answer.position == row.position:
                    yield answer, row
                answer = next(answers, None)
        if answer is None:
            return
