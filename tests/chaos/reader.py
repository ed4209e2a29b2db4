"""Somebody else's process: reads every results.parquet below a folder, again and again, with three libraries.

The libraries open a file more than once in one read; where the link is swapped between two of these, they mix two
generations and complain. So each is given the generation that the link points to, which must never fail, and the
name itself, where a second try at once must succeed. Ends when standard input does, and then says (JSON) how
often it read, how often a read by name met a swap, and what failed.
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
    with DUCKDB.cursor() as cursor:
        return cursor.sql(f"select * from read_parquet('{path}')").to_arrow_table().num_rows


DUCKDB = duckdb.connect(config={"threads": 1, "enable_external_file_cache": False})
"""Opening one takes longer than reading; without its cache, so that each read is one."""
READERS: tuple[Callable[[Path], int], ...] = (with_pyarrow, with_polars, with_duckdb)


class Reading:
    """What was read, and how it went."""

    def __init__(self) -> None:
        self.reads = 0
        self.swaps = 0
        self.failures: list[str] = []

    def read(self, reader: Callable[[Path], int], path: Path) -> bool:
        """Read once; a failure is kept."""
        try:
            reader(path)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is what is looked for
            self.failures.append(f"{reader.__name__}: {type(error).__name__}: {error}")
            return False
        self.reads += 1
        return True

    def read_by_name(self, reader: Callable[[Path], int], path: Path) -> None:
        """Read once more where the first time met a swap."""
        if not self.read(reader, path) and self.read(reader, path):
            self.swaps += 1
            self.failures.pop()


def main() -> None:
    folder = Path(sys.argv[1])
    reading = Reading()
    while not select.select([sys.stdin], [], [], 0)[0]:
        time.sleep(0.15)
        for path in sorted(folder.glob("*/results.parquet"))[-1:]:
            for reader in READERS:
                reading.read(reader, path.resolve())
                reading.read_by_name(reader, path)
    said = {"reads": reading.reads, "swaps": reading.swaps, "failures": reading.failures}
    sys.stdout.buffer.write(orjson.dumps(said))


if __name__ == "__main__":
    main()
