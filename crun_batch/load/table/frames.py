"""Tables that are no files: polars, pandas and Arrow values from Python, and results that can be read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrow_reader import ArrowPart, mapped, temporary_file
from crun_batch.load.table.source import BATCH_ROWS, Damage, Part, Source, Spans, numbered, source_of
from crun_batch.load.table.types import convert, plain_schema

if TYPE_CHECKING:
    import polars as pl


class FramePart(Struct, frozen=True):
    """A table in memory."""

    table: pa.Table
    schema: pa.Schema
    path: Path | None = None
    from_text: bool = False
    sparse: bool = False
    damage: tuple[Damage, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.table.num_rows)

    def read(self, columns: Sequence[str], _spans: Spans) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Slices of these columns, not copied."""
        return numbered(self.table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS), self.rows)

    def line(self, _place: int) -> int | None:
        """None: there are no lines."""
        return None


def open_frame(frame: object, id_name: str | None = None) -> Source:
    """The source over a polars DataFrame or LazyFrame, a pandas DataFrame, an Arrow Table or RecordBatchReader.

    Anything else with the Arrow stream interface is taken as a table. `id_name`: the column that there is to be.
    Raises InputError for other values.
    """
    if _is_pandas(frame):
        _refuse_index_as_column(frame, id_name)
    return source_of([_part(frame)], [None])


def _part(frame: object) -> Part:
    import polars as pl

    if isinstance(frame, pa.RecordBatchReader):
        return spill(frame)
    try:
        if isinstance(frame, pl.LazyFrame):
            return _spill_lazy(frame)
        if _is_pandas(frame):
            frame = pa.Table.from_pandas(frame, preserve_index=False)
        elif not hasattr(frame, "__arrow_c_stream__"):
            message = f"a {type(frame).__name__} is no table; pass a polars, pandas or Arrow one"
            raise InputError(Mistake(message, key="table"))
        table = pa.table(frame)
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, TypeError) as error:
        raise InputError(Mistake(f"the table cannot be read: {error}", key="table")) from error
    _refuse_numbers_of_periods(table.schema)
    return FramePart(table, plain_schema(table.schema))


def _is_pandas(frame: object) -> bool:
    """A frame of pandas, or of a class made of it: its own Arrow stream has the index as a column."""
    return any(
        (kind.__module__.split(".")[0], kind.__name__) == ("pandas", "DataFrame") for kind in type(frame).__mro__
    )


def _refuse_index_as_column(frame: Any, name: str | None) -> None:
    """An index is no column: where it is meant as one, that is not plain from the columns that there are."""
    if name is not None and name in frame.index.names and name not in frame.columns:
        says = f"`{name}` is the index of the frame, which is no column: pass frame.reset_index()"
        raise InputError(Mistake(says, key="input.id"))


def _refuse_numbers_of_periods(schema: pa.Schema) -> None:
    """Arrow has a period of pandas as its number since 1970: a prompt would say 50 for the year 2020."""
    names = [one.name for one in schema if getattr(one.type, "extension_name", None) == "pandas.period"]
    if names:
        advice = f"write frame[{names[0]!r}].astype(str) into it"
        raise InputError(Mistake(f"column `{names[0]}` holds periods of pandas; {advice}", key="table"))


def spill(reader: pa.RecordBatchReader) -> ArrowPart:
    """The reader's rows in a temporary file. Raises DiskFailed where it cannot be written."""
    schema = plain_schema(reader.schema)
    with temporary_file() as path:
        with pa.ipc.new_file(str(path), schema) as writer:
            for batch in reader:
                for start in range(0, len(batch), BATCH_ROWS):
                    arrays = batch.slice(start, BATCH_ROWS).columns
                    columns = [convert(array, field.type) for array, field in zip(arrays, schema, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        return mapped(path)


def _spill_lazy(frame: pl.LazyFrame) -> ArrowPart:
    with temporary_file() as path:
        frame.sink_ipc(path, maintain_order=True)
        return mapped(path)
