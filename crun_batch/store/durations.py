"""Durations for DuckDB, which reads those of a Parquet file as counts and those of Arrow as intervals.

Parquet has no type for them (Arrow writes theirs beside the counts), so both sides are read as counts first. A
column of durations is then an interval again; within lists, structs and maps the counts stay.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as is_type

from crun_batch.store.schema import quoted

INTERVALS = {"s": "to_seconds", "ms": "to_milliseconds", "us": "to_microseconds"}
"""Nanoseconds are cut to microseconds where a table is read."""


def as_counts(table: pa.Table) -> pa.Table:
    """The table with whole numbers in the place of durations, nested ones too."""
    fields = [field.with_type(_counted(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields)) if fields != list(table.schema) else table


def selection(schema: pa.Schema) -> str:
    """What DuckDB selects from the counts so that columns of durations are intervals."""
    columns = [field for field in schema if is_type.is_duration(field.type)]
    names = [(INTERVALS[field.type.unit], quoted(field.name)) for field in columns]
    told = ", ".join(f"{interval}({name}) as {name}" for interval, name in names)
    return f"* replace ({told})" if told else "*"


def _counted(kind: pa.DataType) -> pa.DataType:
    if is_type.is_duration(kind):
        return pa.int64()
    if is_type.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind.fields])
    if is_type.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if is_type.is_fixed_size_list(kind):
        return pa.list_(_counted(kind.value_type), kind.list_size)
    if is_type.is_list(kind):
        return pa.list_(_counted(kind.value_type))
    return kind
