"""Carried columns filled into results that were finished before anybody asked for them.

Sealed part by sealed part, each replaced at once: a kill leaves some of them filled, and doing it again finishes.
A value that is there is kept. Owns how: whether the values are the right ones is the caller's to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from crun_batch.errors import DiskFailed
from crun_batch.store.directory import RunDirectory
from crun_batch.store.disk import DiskFile, temporary
from crun_batch.store.schema import RunSchema, parts_schema
from crun_batch.store.seal import put_in_place, write_parquet

_ROWS_AT_ONCE = 256


def values_schema(schema: RunSchema, names: Sequence[str]) -> pa.Schema:
    """The columns that `fill_columns` takes: the id, then the carried columns `names`, as parts have them."""
    parts = parts_schema(schema)
    return pa.schema([parts.field(name) for name in (schema.id_name, *names)])


def fill_columns(run: RunDirectory, schema: RunSchema, names: Sequence[str], values: Iterable[pa.Table]) -> int:
    """Fill the columns where they are null or missing; returns how many results got a value.

    `values` are in `values_schema`, an id once; they are read once and kept in a file, not in memory. Publish
    afterwards. Needs the lock, and every final sealed. Raises DiskFailed.
    """
    source = temporary(run.journal / "filling.parquet")
    try:
        _write_values(run, source, values_schema(schema, names), values)
        found = ds.dataset(source, format="parquet")
        return sum(_fill(run, run.part(number), schema, names, found) for number in run.sealed_files())
    finally:
        run.disk.unlink(source)


def _write_values(run: RunDirectory, path: Path, schema: pa.Schema, values: Iterable[pa.Table]) -> None:
    try:
        with DiskFile(run.disk, path) as file:
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                for table in values:
                    writer.write_table(table)
            file.sync()
    except OSError as error:
        raise DiskFailed(f"{path}: cannot write: {error}") from error


def _fill(run: RunDirectory, path: Path, schema: RunSchema, names: Sequence[str], found: ds.Dataset) -> int:
    part = pq.read_table(path)
    ids = part.column(schema.id_name).combine_chunks().cast(schema.stored_id_type)
    known = found.to_table(filter=pc.field(schema.id_name).isin(ids.unique()))
    places = pc.index_in(ids, value_set=known.column(schema.id_name).combine_chunks())
    lacking = [name for name in names if name not in part.column_names]
    changes = pa.repeat(False, part.num_rows)
    for name in names:
        came = known.column(name).is_valid().combine_chunks().take(places).fill_null(False)
        has_none = (
            pa.repeat(True, part.num_rows) if name in lacking else part.column(name).is_null().combine_chunks()
        )
        changes = pc.or_(changes, pc.and_(has_none, came))
    if not lacking and not pc.any(changes).as_py():
        return 0
    for name in lacking:
        part = part.append_column(name, pa.nulls(part.num_rows, known.schema.field(name).type))
    columns = {
        name: known.column(name).cast(_wide(known.schema.field(name).type)).combine_chunks() for name in names
    }
    pieces = _filled(part, columns, places)
    entry = write_parquet(run, path, part.schema, pieces, part.schema.metadata)
    put_in_place(run, [path], [entry])
    return int(pc.sum(changes).as_py() or 0)


def _filled(part: pa.Table, columns: Mapping[str, pa.Array], places: pa.Array) -> Iterator[pa.Table]:
    """The part in pieces: all its texts together may be more than one array can hold."""
    for start in range(0, part.num_rows, _ROWS_AT_ONCE):
        piece = part.slice(start, _ROWS_AT_ONCE)
        for name, values in columns.items():
            index = piece.column_names.index(name)
            had = piece.column(index).combine_chunks()
            came = values.take(places.slice(start, _ROWS_AT_ONCE)).cast(had.type)
            piece = piece.set_column(index, piece.schema.field(index), _either(had, came))
        yield piece


def _wide(data_type: pa.DataType) -> pa.DataType:
    """The type whose arrays hold more than 2 GiB of text."""
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    return wide.get(data_type, data_type)


def _either(first: pa.Array, second: pa.Array) -> pa.Array:
    """The first's values, the second's where it has none: for every type, nested ones too."""
    count = len(first)
    here = pa.arange(0, count, 1)
    return pa.concat_arrays([first, second]).take(pc.if_else(pc.is_valid(first), here, pc.add(here, count)))
