"""Pages of rows, how many there are, and what failed why: a run's answers to what the page asks.

A page is found in two steps: first which rows, by the columns that decide it (in memory where they are held), then
those rows' texts, from the files.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.types as is_type
from msgspec import structs

from crun_batch.errors import InputError
from crun_batch.page.asked import RowsAsked
from crun_batch.page.choosing import DIFFERING, RowNeeds, conditions, differing_units, needs, order
from crun_batch.page.facts import RunFacets, run_facets
from crun_batch.page.held import HeldRoom, HeldRows
from crun_batch.page.opened import CHOSEN, OpenedRun
from crun_batch.page.people import People
from crun_batch.state.recovery import IN_FLIGHT_AT_A_KILL
from crun_batch.store.requests import REQUESTS
from crun_batch.store.schema import SEQUENCE, quoted
from crun_batch.store.unit_rows import RecordedRow, recorded_in
from crun_batch.store.views import CURRENT

CELL_CHARACTERS = 400
"""Of a longer text the page shows so much; all of it stands in the row's own view."""
COUNTS_KEPT = 200
FAILURES_SHOWN = 60
MESSAGE_CHARACTERS = 500
_EXACT = 2**53
"""A whole number beyond is another one in a browser: it goes there as text."""


class RunRows:
    """The rows of one run. Counting has a connection of its own: it may take long, and no page waits for it.

    `room`: the memory that this run shares with others, in which one at a time is held.
    """

    def __init__(self, path: Path, room: HeldRoom | None = None) -> None:
        self.path = path
        self.held = HeldRows(room or HeldRoom(), self._forget)
        self._pages, self._counts = OpenedRun(path, self.held), OpenedRun(path, self.held)
        self.people = People(path)
        self._known: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._facets_lock = threading.Lock()
        self._facets: tuple[int, RunFacets] | None = None

    def facets(self) -> RunFacets:
        """What can be asked; read again where job.json is another."""
        changed = (self.path / "job.json").stat().st_mtime_ns
        with self._facets_lock:
            if self._facets is None or self._facets[0] != changed:
                self._facets = changed, run_facets(self.path)
            return self._facets[1]

    def page(self, asked: RowsAsked) -> dict[str, Any]:
        """The rows of one page, `columns` in their order, and whether there is another page. Raises InputError."""
        facets = self.facets()
        with self._pages.connection(facets, needs(asked, facets), asked.where) as connection:
            self._prepare(self._pages, connection, asked, facets)
            found = conditions(asked, facets)
            first = (asked.page - 1) * asked.rows_a_page
            chosen = f"select {SEQUENCE} from {CHOSEN} where {found.sql}"
            query = f"{chosen} order by {order(asked, facets)} limit ? offset ?"
            limits = (asked.rows_a_page + 1, first)
            keys = [key for (key,) in connection.execute(query, [*found.values, *limits]).fetchall()]
            shown = keys[: asked.rows_a_page]
            rows = _rows(connection, shown, asked.columns, facets)
        self._pages.hold(facets)
        for row in rows:
            row["said"] = self.people.of_row(row["id"])
        return {
            "columns": list(asked.columns),
            "rows": rows,
            "page": asked.page,
            "rows_a_page": asked.rows_a_page,
            "is_last": len(keys) <= asked.rows_a_page,
        }

    def count(self, asked: RowsAsked) -> int:
        """How many rows there are. Raises InputError."""
        facets = self.facets()
        with self._counts.connection(facets, needs(asked, facets), asked.where) as connection:
            key = self._counts.seen, self.people.stamp(), _without_page(asked)
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
            self._prepare(self._counts, connection, asked, facets)
            found = conditions(asked, facets)
            query = f"select count(*) from {CHOSEN} where {found.sql}"
            [(number,)] = connection.execute(query, list(found.values)).fetchall()
            self._known[key] = number
            if len(self._known) > COUNTS_KEPT:
                self._known.popitem(last=False)
        return int(number)

    def recorded(self, wanted: str) -> RecordedRow:
        """What is recorded of the row of that id. Raises InputError where it can be no id of this run."""
        with self._pages.connection(self.facets(), RowNeeds()) as connection:
            return recorded_in(connection, self.path, wanted)

    def failures(self) -> dict[str, Any]:
        """Rows that are not ok, and requests that brought no answer, each with the gateway's words, counted.

        Of many different words those that are said most often; `rows_count` and `requests_count` count all.
        """
        with self._counts.connection(self.facets(), RowNeeds()) as connection:
            rows = connection.execute(_FAILED_ROWS).fetchall()
            requests = connection.execute(_FAILED_REQUESTS).fetchall()
        names = ("status", "kind", "http_status", "message", "count")
        return {
            "rows": [dict(zip(names, (row[0], row[1], None, *row[2:-1]), strict=True)) for row in rows],
            "requests": [dict(zip(names, row[:-1], strict=True)) for row in requests],
            "rows_count": int(rows[0][-1]) if rows else 0,
            "requests_count": int(requests[0][-1]) if requests else 0,
        }

    def close(self) -> None:
        """Close both connections, and hold nothing."""
        self.held.clear()
        self._pages.close()
        self._counts.close()

    def _forget(self) -> None:
        self._pages.forget()
        self._counts.forget()

    def _prepare(
        self, opened: OpenedRun, connection: duckdb.DuckDBPyConnection, asked: RowsAsked, facets: RunFacets
    ) -> None:
        if asked.is_differing:
            opened.keep(connection, DIFFERING, lambda source: differing_units(facets, source))
        if asked.is_annotated is not None:
            self.people.make_units(connection)
        if asked.label_of_people is not None:
            self.people.make_labels(connection)


def with_unanswered(found: dict[str, Any], requests: int) -> dict[str, Any]:
    """The failures, with so many requests that a kill left in flight."""
    if not requests:
        return found
    lost = IN_FLIGHT_AT_A_KILL
    told = {"status": lost.outcome, "kind": lost.kind, "http_status": None, "message": lost.message}
    like = [one for one in found["requests"] if told.items() <= one.items()]
    others = [one for one in found["requests"] if one not in like]
    together = {**told, "count": requests + sum(one["count"] for one in like)}
    return {
        **found,
        "requests": sorted([*others, together], key=lambda one: -one["count"]),
        "requests_count": found["requests_count"] + requests,
    }


def _without_page(asked: RowsAsked) -> RowsAsked:
    """What decides how many rows there are."""
    return structs.replace(asked, sort=None, descending=False, columns=(), page=1, rows_a_page=1)


def _rows(
    connection: duckdb.DuckDBPyConnection, keys: Sequence[int], columns: Sequence[str], facets: RunFacets
) -> list[dict[str, Any]]:
    """The rows with these sequences in their order: what names each of them, and its cells."""
    if not keys:
        return []
    unit = [quoted(name) for name in (facets.id_name, "variant", "repeat")]
    cells = [_cell(name, facets.columns[name]) for name in columns]
    listed = ", ".join(map(str, keys))
    query = f"select {', '.join([SEQUENCE, *unit, *cells])} from {CURRENT} where {SEQUENCE} in ({listed})"
    table = connection.sql(query).to_arrow_table()
    found = {row[0]: row[1:] for row in zip(*(column.to_pylist() for column in table.columns), strict=True)}
    if len(found) < len(keys):
        raise InputError("the run has changed while it was read: ask again")
    return [
        {
            "key": str(key),
            "id": told(found[key][0]),
            "variant": found[key][1],
            "repeat": found[key][2],
            "cells": [_shortened(told(value)) for value in found[key][3:]],
        }
        for key in keys
    ]


def _cell(name: str, of_type: pa.DataType) -> str:
    """A column as it is read for a table: of long texts the beginning, what is nested as JSON."""
    column = quoted(name)
    if is_type.is_nested(of_type):
        return f"left(to_json({column})::varchar, {CELL_CHARACTERS + 1})"
    if is_type.is_string(of_type):
        return f"left({column}, {CELL_CHARACTERS + 1})"
    return column


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > CELL_CHARACTERS:
        return value[:CELL_CHARACTERS] + "…"
    return value


def told(value: Any) -> Any:
    """A value of a column as JSON has it: exact, what JSON has no word for as text."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):  # half of a surrogate pair is no text to JSON
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        return value if -_EXACT <= value <= _EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, dict):
        return {str(name): told(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [told(part) for part in value]
    return str(value)


def as_json(document: Any) -> bytes:
    """A document for the page."""
    return orjson.dumps(told(document))


_FAILED_ROWS = f"""
    select status, error_kind, left(error_message, {MESSAGE_CHARACTERS}) as message, count(*) as rows,
        sum(count(*)) over ()
    from {CURRENT} where status <> 'ok' group by all order by rows desc, status, error_kind, message
    limit {FAILURES_SHOWN}
"""
_FAILED_REQUESTS = f"""
    select
        outcome, error_kind, http_status, left(error_message, {MESSAGE_CHARACTERS}) as message, count(*) as number,
        sum(count(*)) over ()
    from {REQUESTS} where outcome <> 'done' group by all
    order by number desc, outcome, error_kind, http_status, message limit {FAILURES_SHOWN}
"""
