"""Sealed files and live rows as one lazy frame, also where files are from when a column had another type."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from crun_batch.store.schema import no_rows

if TYPE_CHECKING:
    import polars as pl


def scan(files: list[Path], live: pa.Table) -> pl.LazyFrame:
    """The rows of the files, then the live ones, in the live ones' columns and types."""
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(live))
    casts = pl.ScanCastOptions(
        integer_cast=["upcast", "allow-float"],
        float_cast="upcast",
        missing_struct_fields="insert",
        extra_struct_fields="ignore",
    )
    alike = [
        pl.scan_parquet(
            list(together),
            glob=False,
            schema=pl.Schema({**frame.schema, **former}),
            missing_columns="insert",
            extra_columns="ignore",
            cast_options=casts,
        ).with_columns(pl.col(name).cast(pl.String) for name in former)
        for former, together in _by_former_types(files, live.schema)
    ]
    return pl.concat([*alike, frame.lazy()])


def _by_former_types(
    files: Iterable[Path], now: pa.Schema
) -> Iterator[tuple[dict[str, pl.DataType], Iterator[Path]]]:
    """The files in their order; together those whose columns that are texts now had the same types before."""
    import polars as pl

    texts = {field.name for field in now if pa.types.is_string(field.type)}

    def former(file: Path) -> dict[str, pl.DataType]:
        fields = (field for field in pq.read_schema(file) if field.name in texts)
        others = pa.schema([field for field in fields if not pa.types.is_string(field.type)])
        return dict(pl.DataFrame(pl.from_arrow(no_rows(others))).schema) if len(others) else {}

    return groupby(files, former)
