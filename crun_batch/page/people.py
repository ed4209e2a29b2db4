"""What people said of a run's rows, for the page: beside each row, as conditions, and saved when they say more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from crun_batch.errors import InputError
from crun_batch.page.choosing import ANNOTATED, LABELLED
from crun_batch.reporting.annotated import GOLD, gold_labels, judges_against_people
from crun_batch.reporting.annotating import SaidOfAnswer, save_annotation
from crun_batch.store.annotations import annotations_that_hold
from crun_batch.store.directory import ANNOTATIONS_NAME

_UNIT = pa.schema([pa.field("id", pa.string()), pa.field("variant", pa.string()), pa.field("repeat", pa.int32())])


class People:
    """The annotations of one run that hold, read again where the file is another."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._by_row: dict[str, list[dict[str, Any]]] = {}

    def stamp(self) -> tuple[int, int]:
        """Other than before: somebody has said more."""
        try:
            found = (self._path / ANNOTATIONS_NAME).stat()
        except FileNotFoundError:
            return (0, 0)
        return found.st_mtime_ns, found.st_ino

    def of_row(self, row_id: Any) -> list[dict[str, Any]]:
        """All that holds of a row and its answers."""
        return self._now().get(str(row_id), [])

    def make_labels(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the table LABELLED."""
        labels = gold_labels([self._path]).rename({GOLD: "label"}).to_arrow()
        _make(connection, LABELLED, labels)

    def make_units(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make the table ANNOTATED."""
        units = [(one["id"], one["variant"], one["repeat"]) for said in self._now().values() for one in said]
        columns = list(zip(*units, strict=True)) or [(), (), ()]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _UNIT, strict=True)]
        _make(connection, ANNOTATED, pa.table(arrays, schema=_UNIT))

    def save(self, body: bytes) -> dict[str, Any]:
        """What one person says of one answer, saved when this returns. Raises InputError, DiskFailed."""
        try:
            said = msgspec.json.decode(body, type=SaidOfAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"this says nothing of an answer: {error}") from error
        saved = save_annotation(self._path, said)
        return {"saved": msgspec.structs.asdict(saved), "said": self.of_row(saved.row_id)}

    def figures(self) -> dict[str, Any]:
        """How much is annotated, and each judge against people."""
        said = [one for row in self._now().values() for one in row]
        judges = [msgspec.to_builtins(one) for one in judges_against_people(self._path)] if said else []
        return {
            "rows": len(self._now()),
            "labels": sum(one["label"] is not None for one in said),
            "verdicts": sum(one["verdict"] is not None for one in said),
            "judges": judges,
        }

    def _now(self) -> Mapping[str, list[dict[str, Any]]]:
        with self._lock:
            stamp = self.stamp()
            if stamp != self._stamp:
                by_row: dict[str, list[dict[str, Any]]] = {}
                for line in annotations_that_hold(self._path).iter_rows(named=True):
                    by_row.setdefault(str(line["id"]), []).append({**line, "id": str(line["id"])})
                self._by_row, self._stamp = by_row, stamp
            return self._by_row


def _make(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    connection.register("_rows_now", rows)
    connection.execute(f"create or replace temp table {name} as select distinct * from _rows_now")
    connection.unregister("_rows_now")
