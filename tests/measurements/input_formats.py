"""What opening and reading a table of each format costs: `python tests/measurements/input_formats.py [ROWS]`.

Writes the same rows in every format, then opens and reads each in a process of its own: seconds, and the memory
that it took at most beyond what the imports take. A tenth of the rows goes first: memory that does not grow with
the rows is about the same for both.
"""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))
from xlsx_kit import write_xlsx

CHILD = """
import re, sys, time
from pathlib import Path
from types import SimpleNamespace
from crun_batch.load.folders import Folders
from crun_batch.load.table.table import open_table
path = Path(sys.argv[1])
keys = dict.fromkeys(("query", "where", "limit", "sample", "csv", "sheet"))
most_kib = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = most_kib()
start = time.perf_counter()
table = open_table(SimpleNamespace(**keys, table=path.name, id="id"), folders=Folders(path.parent))
opened = time.perf_counter()
rows = sum(map(len, table.rows(["id", "text", "share"])))
read = time.perf_counter()
times = f"opened {opened - start:6.1f} s  read {read - opened:6.1f} s"
print(f"{rows:>10,} rows  {times}  +{(most_kib() - before) / 1024:,.0f} MB")
"""


def rows(count: int) -> Iterator[tuple[int, str, float]]:
    return (
        (number, f"Review {number}: this one is as long as a short one is.", number / 7) for number in range(count)
    )


def write_parquet(path: Path, count: int) -> None:
    columns = zip(*rows(count), strict=True)
    pq.write_table(pa.table(dict(zip(("id", "text", "share"), map(list, columns), strict=True))), path)


def write_csv(path: Path, count: int) -> None:
    with gzip.open(path, "wt", newline="", compresslevel=1) if path.suffix == ".gz" else path.open("w") as file:
        csv.writer(file).writerows([("id", "text", "share"), *rows(count)])


def write_zstd(path: Path, count: int) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for line in rows(count):
            file.write(json.dumps(dict(zip(("id", "text", "share"), line, strict=True))).encode() + b"\n")


def write_array(path: Path, count: int) -> None:
    with path.open("w") as file:
        for number, line in enumerate(rows(count)):
            start = ",\n" if number else "["
            file.write(start + json.dumps(dict(zip(("id", "text", "share"), line, strict=True))))
        file.write("]")


def write_workbook(path: Path, count: int) -> None:
    write_xlsx(path, {"Reviews": [("id", "text", "share"), *rows(count)]})


WRITERS: dict[str, Callable[[Path, int], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".csv.gz": write_csv,
    ".jsonl.zst": write_zstd,
    ".json": write_array,
    ".xlsx": write_workbook,
}


def main(most: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for suffix, write in WRITERS.items():
            for count in (most // 10, most):
                path = Path(folder) / f"rows{suffix}"
                write(path, count)
                size = f"{path.stat().st_size / 1e6:,.0f} MB"
                told = subprocess.run(
                    [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True
                )
                print(f"{suffix:12}{size:>8}{told.stdout.rstrip()}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
