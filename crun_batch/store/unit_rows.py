"""What is recorded of one row: its results and attempts, the live ones included; or which ids are like it.

Reads only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from msgspec import Struct

from crun_batch.errors import InputError
from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import quoted
from crun_batch.store.views import connect, run_schema

NEAR_IDS = 5


class RecordedRow(Struct, frozen=True):
    """One row of the prompt table in a run: its id as stored, its results, its attempts in their order."""

    row_id: int | str
    results: list[dict[str, Any]]
    attempts: list[dict[str, Any]]
    near: list[int | str]
    """Where nothing is recorded: ids of the run that are like it."""


def recorded_row(path: Path, wanted: int | str) -> RecordedRow:
    """Everything of the id `wanted`, a number or its text. Raises InputError for a text where ids are numbers."""
    with connect(path) as connection:
        connection.execute("set TimeZone = 'UTC'")
        return recorded_in(connection, path, wanted)


def recorded_in(connection: duckdb.DuckDBPyConnection, path: Path, wanted: int | str) -> RecordedRow:
    """The same, from views of the run that are open already."""
    schema = run_schema(RunDirectory(path))
    name = quoted(schema.id_name)
    is_whole = pa.types.is_integer(schema.stored_id_type)
    row_id = _whole(wanted, connection, name, path) if is_whole else str(wanted)
    results = _rows(connection, f"select * from results where {name} = ? order by variant, repeat", row_id)
    attempts = _rows(connection, f"select * from attempts where {name} = ? order by serial", row_id)
    attempts = with_whole_replies(connection, attempts)
    near = [] if results or attempts else _near(connection, name, row_id)
    return RecordedRow(row_id, results, attempts, near)


def with_whole_replies(
    connection: duckdb.DuckDBPyConnection, attempts: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The attempts, where rows were asked together each with the reply, which stands with the first of them."""
    firsts = {one["serial"] - one["pack_place"] + 1 for one in attempts if (one["pack_place"] or 1) > 1}
    if not firsts:
        return attempts
    replies = connection.execute(
        f"select serial, reply_body, reply_base64 from attempts where serial in ({', '.join(map(str, firsts))})"
    ).fetchall()
    told = {serial: {"reply_body": body, "reply_base64": coded} for serial, body, coded in replies}
    return [one | told.get(one["serial"] - (one["pack_place"] or 1) + 1, {}) for one in attempts]


def unknown_id(path: Path, wanted: int | str, near: list[int | str]) -> InputError:
    """There is no such row; those that are like it are named."""
    like = f"; near it are {', '.join(map(repr, near))}" if near else ""
    return InputError(f"{path}: the run has no row {wanted!r}{like}")


def _whole(wanted: int | str, connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> int:
    try:
        return int(wanted)
    except ValueError:
        some = connection.execute(f"select distinct {name} from results order by 1 limit {NEAR_IDS}").fetchall()
        like = f", such as {', '.join(str(row_id) for (row_id,) in some)}" if some else ""
        raise InputError(f"{path}: {wanted!r} is no row: the ids are whole numbers{like}") from None


def _rows(connection: duckdb.DuckDBPyConnection, query: str, row_id: int | str) -> list[dict[str, Any]]:
    if isinstance(row_id, int) and not -(2**63) <= row_id < 2**63:
        return []
    rows: list[dict[str, Any]] = connection.sql(query, params=[row_id]).to_arrow_table().to_pylist()
    return rows


def _near(connection: duckdb.DuckDBPyConnection, name: str, row_id: int | str) -> list[int | str]:
    is_whole = isinstance(row_id, int)
    likeness = f"abs({name}::double - ?::double)" if is_whole else f"-jaro_winkler_similarity({name}, ?)"
    query = (
        f"select {name} from (select distinct {name} from results union select distinct {name} from attempts) "
        f"order by {likeness}, {name} limit {NEAR_IDS}"
    )
    return [found for (found,) in connection.execute(query, [row_id]).fetchall()]
