"""Rows of an SQLite database, by Python's own sqlite3: `sqlite:///file?table=name` or `?query=select ...`.

The rules:
- The rows come in the order of their rowid or, without one, of the primary key; a view has none and is refused.
  Those of a query come in the order of the id column, which it therefore needs.
- The database is opened for reading only, and its rows are kept in a temporary file, as one moment's view of it: a
  writer may go on, and what it writes is read by the next start.
- A column has the type of its values, not of its declaration, which SQLite does not hold to: whole numbers,
  numbers, texts or bytes. Values of several kinds are refused, with a row of each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrays import array_of
from crun_batch.load.table.arrow_reader import ArrowPart
from crun_batch.load.table.frames import spill
from crun_batch.load.table.source import BATCH_ROWS
from crun_batch.load.table.types import suggestion
from crun_batch.paths import is_file

_SCHEME = "sqlite:///"
KEY = "input.table"
_EXACT_IN_FLOAT = 2**53
_TYPES = (
    (frozenset[str](), pa.null()),
    (frozenset({"integer"}), pa.int64()),
    (frozenset({"integer", "real"}), pa.float64()),
    (frozenset({"text"}), pa.string()),
    (frozenset({"blob"}), pa.binary()),
)
_WORDS = {"integer": "a whole number", "real": "a number", "text": "a text", "blob": "bytes"}


class DatabaseTable(NamedTuple):
    """A table of a database in a file, or the rows of a query."""

    path: Path
    name: str
    query: str | None = None
    id_column: str | None = None

    @property
    def rows(self) -> str:
        """What the rows are selected from."""
        return _identifier(self.name) if self.query is None else f"({self.query}\n)"


def database_table(address: str, base_dir: Path, id_column: str | None = None) -> DatabaseTable:
    """What an address names; its path is relative to `base_dir`. Raises InputError where it names no rows.

    All behind `?query=` is SQL, as it is written.
    """
    path, _, wanted = address.removeprefix(_SCHEME).partition("?")
    is_query = wanted.startswith("query=")
    query = wanted.removeprefix("query=").strip().rstrip(";") if is_query else None
    keys = {} if is_query else dict(parse_qsl(wanted))
    if not path or not address.startswith(_SCHEME) or not (query or set(keys) == {"table"}):
        says = f"`{address}` names no rows; write {_SCHEME}FILE?table=NAME, or ?query=select ..."
        raise InputError(Mistake(says, key=KEY))
    if query is not None and id_column is None:
        says = "a query needs an `id` column: the order of its rows is not certain, so their position is no id"
        raise InputError(Mistake(says, key="input.id"))
    found = base_dir / unquote(path)
    if not is_file(found):
        message = f"there is no file `{unquote(path)}` in {base_dir}; paths are relative to the job file"
        raise InputError(Mistake(message, key=KEY))
    return DatabaseTable(found, keys.get("table", "query"), query, id_column)


def open_sqlite(table: DatabaseTable) -> ArrowPart:
    """The rows as they are now. Raises InputError with what is wrong with the database or a column."""
    address = f"file:{quote(str(table.path.resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
            connection.execute("pragma trusted_schema = off")
            connection.execute("begin")
            columns, order = _columns(connection, table)
            schema = _schema(connection, table, columns, order)
            return spill(pa.RecordBatchReader.from_batches(schema, _batches(connection, table, schema, order)))
    except sqlite3.Error as error:
        raise InputError(Mistake(f"cannot be read: {error}", file=str(table.path), key=KEY)) from error


def _columns(connection: sqlite3.Connection, table: DatabaseTable) -> tuple[list[str], str]:
    """The names of the columns, and what the rows are ordered by."""
    if table.query is not None:
        described = connection.execute(f"select * from {table.rows} limit 0").description
        return [name for name, *_ in described], _identifier(table.id_column or "")
    kinds = dict(connection.execute("select name, type from sqlite_master where type in ('table', 'view')"))
    if kinds.get(table.name) != "table":
        message = (
            f"has no table `{table.name}`; {suggestion(table.name, _tables(kinds)).replace('columns', 'tables')}"
        )
        if table.name in kinds:
            message = f"`{table.name}` is a view, whose rows have no order; make it a table with a primary key"
        raise InputError(Mistake(message, file=str(table.path), key=KEY))
    described = list(
        connection.execute("select name, pk from pragma_table_xinfo(?) where hidden <> 1", (table.name,))
    )
    names = [name for name, _ in described]
    rowid = next((each for each in ("rowid", "_rowid_", "oid") if each not in map(str.casefold, names)), None)
    without = connection.execute(
        "select wr from pragma_table_list(?) where schema = 'main'", (table.name,)
    ).fetchone()
    if rowid is not None and not without[0]:
        return names, rowid
    keys = [_identifier(name) for name, place in sorted(described, key=lambda each: each[1]) if place]
    if not keys:
        message = (
            f"the rows of `{table.name}` have no order: its columns hide the rowid, and there is no primary key"
        )
        raise InputError(Mistake(message, file=str(table.path), key=KEY))
    return names, ", ".join(keys)


def _tables(kinds: dict[str, str]) -> list[str]:
    return [name for name, kind in kinds.items() if kind == "table" and not name.startswith("sqlite_")]


def _schema(connection: sqlite3.Connection, table: DatabaseTable, columns: Sequence[str], order: str) -> pa.Schema:
    kinds: dict[str, dict[str, int]] = {name: {} for name in columns}
    listed = ", ".join(f"typeof({_identifier(name)})" for name in columns)
    rows = connection.execute(f"select {listed} from {table.rows} order by {order}")
    for number, row in enumerate(rows):
        for name, kind in zip(columns, row, strict=True):
            if kind != "null":
                kinds[name].setdefault(kind, number)
    fields, mistakes = [], []
    for name, found in kinds.items():
        kind = next((kind for allowed, kind in _TYPES if found.keys() <= allowed), None)
        if kind is None:
            mistakes.append(_mixed(table, name, found))
        fields.append((name, kind or pa.null()))
    if mistakes:
        raise InputError(mistakes)
    return pa.schema(fields)


def _mixed(table: DatabaseTable, name: str, kinds: dict[str, int]) -> Mistake:
    (before, kind), (row, other), *_ = sorted((row, _WORDS[kind]) for kind, row in kinds.items())
    message = f"column `{name}` has {other} here and {kind} in row {before}; use one kind in the whole column"
    return Mistake(message, file=str(table.path), row=row)


def _batches(
    connection: sqlite3.Connection, table: DatabaseTable, schema: pa.Schema, order: str
) -> Iterator[pa.RecordBatch]:
    listed = ", ".join(map(_identifier, schema.names))
    cursor = connection.execute(f"select {listed} from {table.rows} order by {order}")
    first = 0
    while rows := cursor.fetchmany(BATCH_ROWS):
        arrays = [
            _array(table, field, values, first)
            for field, values in zip(schema, zip(*rows, strict=True), strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        first += len(rows)


def _array(table: DatabaseTable, field: pa.Field, values: Sequence[Any], first: int) -> pa.Array:
    if pa.types.is_binary(field.type):
        return pa.array(values, field.type)
    if pa.types.is_floating(field.type):
        for row, value in enumerate(values, first):
            if isinstance(value, int) and abs(value) > _EXACT_IN_FLOAT:
                message = (
                    f"column `{field.name}` has {value}, too long beside its numbers with a fraction; cast it"
                )
                raise InputError(Mistake(message, file=str(table.path), row=row))
    return array_of(values, field.type)


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
