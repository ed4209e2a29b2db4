"""Which results are exported, streamed: all, those with some statuses, those that a predicate of SQL lets pass.

Memory does not grow with rows. Without a choice among rows no SQL is asked. Reads only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import quoted, results_schema
from crun_batch.store.views import confine, connect, current_finals, run_schema, snapshot

if TYPE_CHECKING:
    import duckdb

_ROWS_AT_ONCE = 1024
AskedFormat = Literal["chat-jsonl", "openai-batch-requests"]
"""Forms of export that put results beside what was asked."""


class Exported(Struct, frozen=True):
    """How many rows were written, and how many were not."""

    rows: int
    left_out: int
    """Whose prompt is another one today, or that have none: nothing is told of what they were asked."""


class Chosen(Struct, frozen=True):
    """Which rows and columns of `results`."""

    where: str | None = None
    """A predicate of SQL over the columns of results."""
    statuses: tuple[str, ...] = ()
    """Empty: whatever the status."""
    columns: tuple[str, ...] = ()
    """In this order; empty: all."""


ALL = Chosen()


def chosen_schema(path: Path, chosen: Chosen) -> pa.Schema:
    """The columns that are exported. Raises InputError for one that is not there."""
    schema = results_schema(run_schema(RunDirectory(path)))
    unknown = [name for name in chosen.columns if name not in schema.names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], schema.names, n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"results have no column {unknown[0]!r}; {meant}they have {', '.join(schema.names)}")
    return pa.schema([schema.field(name) for name in chosen.columns or schema.names])


def chosen_batches(path: Path, chosen: Chosen) -> Iterator[pa.RecordBatch]:
    """The rows, in batches of the exported columns. Raises InputError with DuckDB's complaint."""
    schema = chosen_schema(path, chosen)
    if chosen.where is None and not chosen.statuses:
        run = RunDirectory(path)
        now = snapshot(run, run_schema(run))
        for table in current_finals(now, schema.names):
            yield from table.cast(schema).to_batches(_ROWS_AT_ONCE)
        return
    with chosen_view(path, chosen) as connection:
        names = ", ".join(map(quoted, schema.names))
        for batch in _told(connection, f"select {names} from chosen"):
            yield batch.cast(schema)


@contextmanager
def chosen_view(path: Path, chosen: Chosen) -> Iterator[duckdb.DuckDBPyConnection]:
    """The views of a run with `chosen` beside them: the rows of results; it reads the run's files only."""
    import duckdb

    with connect(path) as connection:
        connection.execute("set TimeZone = 'UTC'")
        confine(connection, path)
        rows = connection.view("results")
        if chosen.statuses:
            rows = rows.filter(f"status in ({_texts(chosen.statuses)})")
        try:
            if chosen.where is not None:
                rows = rows.filter(chosen.where)
            rows.create_view("chosen")
        except duckdb.Error as error:
            raise InputError(f"where {chosen.where!r}: {error}") from error
        yield connection


def _told(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """What a predicate fails on may be any row: its complaint is a mistake of the command line."""
    import duckdb

    try:
        yield from connection.sql(query).to_arrow_reader(_ROWS_AT_ONCE)
    except (duckdb.Error, pa.ArrowException) as error:
        raise InputError(f"the rows could not be chosen: {error}") from error


def _texts(values: Sequence[str]) -> str:
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
