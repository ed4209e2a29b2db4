"""JSON objects as Arrow columns. Arrow parses them, outside the interpreter lock.

Owns: that numbers which no column can hold are null, and that fields which never come cost nothing. Must not
know: what the fields mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import orjson
import pyarrow as pa
import pyarrow.json

from crun_batch.store.schema import no_rows

Columns = dict[str, pa.Array]
_Path = tuple[str, ...]
_HIGHEST = 2**63


def event_columns(objects: Sequence[bytes], fields: pa.StructType) -> Columns:
    """These fields of the objects; null where one is not there, or no column can hold it."""
    return _in_full(_parsed_with_care(objects, fields), fields)


class EventParser:
    """Parses the events of one kind, some at a time.

    Arrow gives every field that it looks for a place in every row, and where there is nothing that costs as much
    as a value. Of some sixty fields an event has twenty. So those are looked for that have come so far; comes
    another one, all are looked for once more.
    """

    def __init__(self, wanted: pa.StructType, others: pa.StructType) -> None:
        """`others`: all other fields that may come."""
        self._wanted = wanted
        self._all = pa.struct([*wanted, *others])
        self._came: set[_Path] = set()
        self._knows_what_comes = False

    def columns(self, objects: Sequence[bytes]) -> Columns:
        """As `event_columns` of the wanted fields."""
        found = self._of_usual_fields(objects) if self._knows_what_comes else None
        if found is None:
            found = self._of_all_fields(objects)
        return _in_full(found, self._wanted)

    def _of_usual_fields(self, objects: Sequence[bytes]) -> pa.Table | None:
        try:
            return _parsed(objects, _only(self._all, self._came), others="error")
        except pa.ArrowInvalid:  # another field, or a number that is too large
            return None

    def _of_all_fields(self, objects: Sequence[bytes]) -> pa.Table:
        found = _parsed_with_care(objects, self._all)
        came = {
            path for field in self._all for path in _paths(found.column(field.name), field.type, (field.name,))
        }
        self._knows_what_comes = not came <= self._came  # else looking for them alone would fail again
        self._came |= came
        return found


def parsed_values(values: Iterable[bytes], data_type: pa.DataType) -> pa.Array:
    """Values of JSON in their type; `pa.array` would import pandas first. Raises pa.ArrowInvalid."""
    objects = [b'{"value":%b}' % value for value in values]
    if not objects:
        return pa.nulls(0, data_type)
    return whole(_parsed(objects, pa.struct({"value": data_type})).column("value"))


def typed(column: pa.Array, data_type: pa.DataType) -> pa.Array:
    """The column in that type. A cast costs as much where there is nothing to cast."""
    return column if column.type == data_type else column.cast(data_type)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """All of a column as one array. Arrow would import pandas to make an empty one."""
    if not column.num_chunks:
        return pa.nulls(0, column.type)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _parsed(
    objects: Sequence[bytes], fields: pa.StructType, others: Literal["ignore", "error"] = "ignore"
) -> pa.Table:
    """JSON objects with these fields. Raises pa.ArrowInvalid."""
    together = b"".join(objects)
    return pyarrow.json.read_json(
        pa.BufferReader(together),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(together) + 1),
        pyarrow.json.ParseOptions(explicit_schema=pa.schema(list(fields)), unexpected_field_behavior=others),
    )


def _parsed_with_care(objects: Sequence[bytes], fields: pa.StructType) -> pa.Table:
    """The same, of objects with any numbers and any other fields."""
    if not objects:
        return no_rows(pa.schema(list(fields)))
    try:
        return _parsed(objects, fields)
    except pa.ArrowInvalid:
        return _parsed([orjson.dumps(_bounded(msgspec.json.decode(each))) for each in objects], fields)


def _in_full(found: pa.Table, wanted: pa.StructType) -> Columns:
    """The columns of these fields, each with all the fields of its type."""
    columns = dict(zip(found.column_names, map(whole, found.columns), strict=True))
    return {
        field.name: typed(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(found.num_rows, field.type)
        for field in wanted
    }


def _paths(column: pa.ChunkedArray, data_type: pa.DataType, path: _Path) -> Iterator[_Path]:
    """Where the values of a column are: it, and of an object its fields. What these hold is taken whole."""
    if column.null_count == len(column):
        return
    yield path
    if isinstance(data_type, pa.StructType) and len(path) == 1:
        for field, part in zip(data_type, column.flatten(), strict=True):
            yield from _paths(part, field.type, (*path, field.name))


def _only(fields: pa.StructType, paths: set[_Path], within: _Path = ()) -> pa.StructType:
    """The fields at those places."""
    kept = []
    for field in fields:
        path = (*within, field.name)
        if path in paths:
            is_object = isinstance(field.type, pa.StructType) and not within
            kept.append(field.with_type(_only(field.type, paths, path)) if is_object else field)
    return pa.struct(kept)


def _bounded(value: Any) -> Any:
    """A hostile reply's count that no column can hold is unknown; the reply's body still has it."""
    if isinstance(value, dict):
        return {name: _bounded(part) for name, part in value.items()}
    if isinstance(value, int) and not -_HIGHEST <= value < _HIGHEST:
        return None
    return value
