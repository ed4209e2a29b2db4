"""A run of which nearly every row is done, without sending millions of requests: sealed files written directly.

A short real run makes the directory; then the results of all further rows but the last are written through the
store's own functions, as sealing would have left them. Only what resuming reads is true in them.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa

from crun_batch.store.directory import RunDirectory
from crun_batch.store.schema import attempts_schema, parts_schema
from crun_batch.store.seal import put_in_place, write_parquet
from crun_batch.store.views import run_schema

FIRST_NUMBER = 500_000
"""Far above the segments that the real run will still open."""
ROWS_PER_FILE = 50_000


def finish(path: Path, first: int, end: int) -> None:
    """Write results for the rows of these ids into the run directory at `path`."""
    run = RunDirectory(path)
    schema = run_schema(run)
    columns = parts_schema(schema)
    for number, start in enumerate(range(first, end, ROWS_PER_FILE), FIRST_NUMBER):
        ids = range(start, min(start + ROWS_PER_FILE, end))
        finals = _filled(columns, schema.id_name, ids, number)
        files = [(run.part(number), finals), (run.attempt_file(number), attempts_schema(schema).empty_table())]
        entries = [write_parquet(run, file, table.schema, [table]) for file, table in files]
        put_in_place(run, [file for file, _ in files], entries)


def _filled(columns: pa.Schema, id_name: str, ids: range, number: int) -> pa.Table:
    position = pl.Series(ids, dtype=pl.Int64)
    known = {
        id_name: position,
        "variant": "default",
        "repeat": 0,
        "status": "ok",
        "output_text": "18",
        "finish_reason": "stop",
        "request_hash": position.hash().cast(pl.String).str.zfill(32),
        "_sequence": position + number * 2**32,
        "_supersedes": False,
    }
    arrays = []
    for field in columns:
        value = known.get(field.name)
        if isinstance(value, pl.Series):
            arrays.append(value.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(field.type))
        elif value is None:
            arrays.append(pa.nulls(len(ids), field.type))
        else:
            arrays.append(pa.repeat(pa.scalar(value, field.type), len(ids)))
    return pa.Table.from_arrays(arrays, schema=columns)
