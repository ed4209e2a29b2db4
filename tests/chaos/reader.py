"""Somebody else's process: reads every results.parquet below a folder, again and again, with three libraries.

Ends when standard input does, and then says (JSON) how often it read and what failed.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import orjson
import polars as pl
import pyarrow.parquet as pq


def with_pyarrow(path: Path) -> int:
    return int(pq.read_table(path).num_rows)


def with_polars(path: Path) -> int:
    return pl.read_parquet(path).height


def with_duckdb(path: Path) -> int:
    with duckdb.connect() as connection:
        return connection.sql(f"select * from read_parquet('{path}')").to_arrow_table().num_rows


READERS: tuple[Callable[[Path], int], ...] = (with_pyarrow, with_polars, with_duckdb)


def main() -> None:
    folder = Path(sys.argv[1])
    reads, failures = 0, []
    while not select.select([sys.stdin], [], [], 0)[0]:
        time.sleep(0.02)
        for path in sorted(folder.glob("*/results.parquet"))[-1:]:
            for reader in READERS:
                try:
                    reader(path)
                    reads += 1
                except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is looked for
                    failures.append(f"{reader.__name__}: {type(error).__name__}: {error}")
    sys.stdout.buffer.write(orjson.dumps({"reads": reads, "failures": failures}))


if __name__ == "__main__":
    main()
