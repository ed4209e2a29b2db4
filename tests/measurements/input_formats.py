"""What opening and reading a table costs: `python tests/measurements/input_formats.py [ROWS [KIND...]]`.

Writes the same rows in every format, and where they lie elsewhere (a server over https, a query of SQLite, one of
PostgreSQL, where its programs and its driver are), then opens and reads each in a process of its own: seconds, and
the memory that it took at most beyond what the imports take, its own and with the pages of mapped files, which the
system takes back where others need room. A tenth of the rows goes first: memory that does not grow with them is
about the same for both.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))
import remote_kit
from xlsx_kit import write_xlsx

CHILD = """
import re, sys, threading, time
from pathlib import Path
from types import SimpleNamespace
from crun_batch.load.folders import Folders
from crun_batch.load.table.table import open_table
folder, table = Path(sys.argv[1]), sys.argv[2]
keys = dict.fromkeys(("query", "where", "limit", "sample", "csv", "sheet"))
told_kib = lambda name: int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
own_before, own_kib, is_over = told_kib("RssAnon"), [0], threading.Event()
def watch():
    while not is_over.wait(0.02):
        own_kib.append(max(own_kib.pop(), told_kib("RssAnon")))
threading.Thread(target=watch, daemon=True).start()
before = told_kib("VmHWM")
start = time.perf_counter()
table = open_table(SimpleNamespace(**keys, table=table, id="id"), folders=Folders(folder))
opened = time.perf_counter()
rows = sum(map(len, table.rows(["id", "text", "share"])))
read = time.perf_counter()
times = f"opened {opened - start:6.1f} s  read {read - opened:6.1f} s"
is_over.set()
own, most = (own_kib[0] - own_before) / 1024, (told_kib("VmHWM") - before) / 1024
print(f"{rows:>10,} rows  {times}  +{own:4,.0f} MB of its own, +{most:4,.0f} MB with mapped files")
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


def measured(what: str, folder: Path, table: str, size: str = "", **environ: str) -> None:
    """Open and read a table in a process of its own, and print a line."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), table],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environ},
    )
    print(f"{what:12}{size:>8}{done.stdout.rstrip()}", flush=True)


def measure_files(folder: Path, most: int, kinds: Sequence[str]) -> None:
    for suffix, write in WRITERS.items():
        for count in (most // 10, most) if not kinds or suffix in kinds else ():
            path = folder / f"rows{suffix}"
            write(path, count)
            measured(suffix, folder, path.name, f"{path.stat().st_size / 1e6:,.0f} MB")


def measure_https(folder: Path, most: int) -> None:
    with remote_kit.file_server(folder / "ca.pem") as server:
        for count in (most // 10, most):
            write_parquet(folder / "rows.parquet", count)
            server.files["/rows.parquet"] = (folder / "rows.parquet").read_bytes()
            ca_file = {"SSL_CERT_FILE": str(folder / "ca.pem"), "NO_PROXY": "127.0.0.1"}
            measured("https", folder, f"{server.url}/rows.parquet", **ca_file)


def measure_sqlite(folder: Path, most: int) -> None:
    for count in (most // 10, most):
        (folder / "rows.db").unlink(missing_ok=True)
        with closing(sqlite3.connect(folder / "rows.db")) as connection:
            connection.execute("create table t (id integer primary key, text text, share real)")
            connection.executemany("insert into t values (?, ?, ?)", rows(count))
            connection.commit()
        measured("sqlite", folder, "sqlite:///rows.db?query=select * from t")


def measure_postgres(folder: Path, most: int) -> None:
    if not remote_kit.has_postgres():
        print("postgresql: its programs are not here")
        return
    from adbc_driver_postgresql import dbapi

    made = (
        "create table t as select n as id, 'Review ' || n || ': this one is as long as a short one is.' as text, "
        "n / 7.0::float8 as share from generate_series(0, %d - 1) as s(n)"
    )
    with remote_kit.postgres() as uri:
        for count in (most // 10, most):
            with dbapi.connect(uri) as connection, connection.cursor() as cursor:
                cursor.execute("drop table if exists t")
                cursor.execute(made % count)
                connection.commit()
            measured("postgresql", folder, f"{uri}&query=select * from t")


ELSEWHERE: dict[str, Callable[[Path, int], None]] = {
    "https": measure_https,
    "sqlite": measure_sqlite,
    "postgresql": measure_postgres,
}


def main(most: int, kinds: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        measure_files(Path(name), most, kinds)
        for kind, measure in ELSEWHERE.items():
            if not kinds or kind in kinds:
                measure(Path(name), most)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, sys.argv[2:])
