"""A query of a PostgreSQL database: `postgresql://HOST/DATABASE?query=select ...`, read through ADBC.

The rules:
- The rows come in the order of the id column, which a query therefore needs: no other order is certain.
- The statement runs inside a read-only transaction, as a part of a `select`: nothing else can be said in it. Its
  rows are streamed into a temporary file, as one moment's view of the database.
- The password is where libpq looks for it (~/.pgpass, PGPASSWORD, PGSERVICEFILE), never in the address.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from crun_batch.errors import InputError, Mistake
from crun_batch.load.table.arrow_reader import ArrowPart
from crun_batch.load.table.frames import spill

KEY = "input.table"
SCHEMES = ("postgresql://", "postgres://")
_WRITE = "write postgresql://HOST/DATABASE?query=select ..., or ?table=NAME"


class PostgresQuery(NamedTuple):
    """A database, as libpq reads it, and a statement."""

    uri: str
    statement: str


def postgres_query(address: str, id_column: str | None) -> PostgresQuery:
    """What an address asks. `query=` comes last, and all behind it is SQL, as it is written. Raises InputError."""
    parts = urlsplit(address)
    if parts.password is not None or any(name == "password" for name, _ in parse_qsl(parts.query)):
        says = "holds a password, which has no place in a job file: put it into ~/.pgpass, or PGPASSWORD"
        raise InputError(Mistake(says, key=KEY))
    if id_column is None:
        says = "rows of a database need an `id` column: their order is not certain, so their position is no id"
        raise InputError(Mistake(says, key="input.id"))
    uri, mark, wanted = _split(address)
    if not mark or not wanted.strip():
        raise InputError(Mistake(f"`{uri}` names no rows; {_WRITE}", key=KEY))
    source = (
        f"({wanted.strip().rstrip(';')}\n)" if mark == "query" else ".".join(map(identifier, wanted.split(".")))
    )
    return PostgresQuery(uri, f"select * from {source} as crun_batch_rows order by {identifier(id_column)}")


def _split(address: str) -> tuple[str, str, str]:
    """The database, `query` or `table`, and what it is; the two are empty where there is neither."""
    for mark in ("query", "table"):
        for sign in ("?", "&"):
            uri, found, wanted = address.partition(f"{sign}{mark}=")
            if found:
                return uri, mark, wanted
    return address, "", ""


def open_postgres(asked: PostgresQuery) -> ArrowPart:
    """The rows as they are now. Raises InputError where the database refuses, or its driver is not installed."""
    try:
        from adbc_driver_manager import Error
        from adbc_driver_postgresql import dbapi
    except ImportError:
        says = "a PostgreSQL database is read by another package: pip install 'crun-batch[postgresql]'"
        raise InputError(Mistake(says, key=KEY)) from None
    try:
        with dbapi.connect(asked.uri) as connection, connection.cursor() as cursor:
            cursor.execute("set transaction isolation level repeatable read, read only")
            cursor.execute(asked.statement)
            return spill(cursor.fetch_record_batch())
    except Error as error:
        raise InputError(Mistake(f"cannot be read: {_words(error)}", file=asked.uri, key=KEY)) from None


def _words(error: Exception) -> str:
    """What the database says, in one line."""
    text: Any = error.args[0] if error.args else type(error).__name__
    return " ".join(str(text).split())[:500]


def identifier(name: str) -> str:
    """A name as SQL writes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
