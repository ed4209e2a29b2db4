"""How cost, memory and throughput behave as a job grows: rows, requests in flight, latency, resume.

    python benchmarks/scaling.py               every part, an hour or more
    python benchmarks/scaling.py rows          one part: rows, in-flight, latency, large or whole
    python benchmarks/scaling.py large --rows 1000000

The static server and the client have a core each, as in throughput.py; all figures are of crun_batch, whole runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench_pages import load, save, write_pages
from clients.measure import peak_rss_mb
from machine import CACHE, HERE, Server, client_command, description, measure_client, static_server
from prompt_table import write_table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from measurements.finished_run import finish

CLIENT = HERE / "clients" / "crun_batch_run.py"
ROWS = (1_000, 10_000, 100_000, 1_000_000)
IN_FLIGHT = (1, 8, 64, 512, 2_000, 10_000)
IN_FLIGHT_ROWS = 20_000
LATENCIES = ((2_000, 1.0, 60_000), (10_000, 5.0, 100_000))
"""(in flight, seconds, rows)"""
LARGE_ROWS = 10_000_000
DONE_ROWS, OPEN_ROWS = 1_000, 2_000
"""Of the run that goes on: rows that were really sent, and rows that are left."""


def main() -> None:
    parts: dict[str, Callable[[Path, int | None], list[dict[str, Any]]]] = {
        "rows": by_rows,
        "in-flight": by_in_flight,
        "latency": by_latency,
        "large": large_table,
        "whole": whole_table,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=parts)
    parser.add_argument("--rows", type=int, help="at most that many rows")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    figures: dict[str, Any] = load("scaling") or {}
    for name, measure in parts.items():
        if arguments.part in (None, name):
            figures[name] = measure(arguments.cache, arguments.rows)
            figures.setdefault("machines", {})[name] = description()
            save("scaling", figures)
    write_pages()


def by_rows(cache: Path, most: int | None) -> list[dict[str, Any]]:
    """Cost per row and peak memory from a thousand rows to a million, 64 in flight.

    Segments are sealed beside the sending; `longest_pause_seconds` is the longest time in which the server got no
    thousand requests, `close_seconds` what the run still took after the last request was answered: the rest
    sealed, results published.
    """
    found = []
    for rows in ROWS:
        if most is not None and rows > most:
            continue
        with static_server() as server:
            measured = measure(server, table(cache, rows), rows, 64)
            arrivals = server.stats()["arrivals"]
        pauses = [later - sooner for sooner, later in pairwise(arrivals)]
        measured["longest_pause_seconds"] = max(pauses, default=0.0)
        measured["usual_pause_seconds"] = statistics.median(pauses) if pauses else 0.0
        measured["close_seconds"] = close_seconds(measured, arrivals, rows)
        found.append(told(measured))
    return found


def by_in_flight(cache: Path, most: int | None) -> list[dict[str, Any]]:
    """Cost per row from one request in flight to ten thousand; above a thousand the server takes half a second."""
    rows = min(IN_FLIGHT_ROWS, most or IN_FLIGHT_ROWS)
    found = []
    for in_flight in IN_FLIGHT:
        with static_server(0.5 if in_flight > 1_000 else 0.0) as server:
            count = rows if in_flight > 1 else max(1_000, rows // 10)
            found.append(told(measure(server, table(cache, rows), count, in_flight)))
    return found


def by_latency(cache: Path, most: int | None) -> list[dict[str, Any]]:
    """Throughput as a share of the ideal, in flight / latency, from the first to the third quarter of the rows."""
    found = []
    for in_flight, seconds, rows in LATENCIES:
        rows = min(rows, most or rows)
        with static_server(seconds) as server:
            measured = measure(server, table(cache, rows), rows, in_flight)
            arrivals = server.stats()["arrivals"]
        first, last = len(arrivals) // 4, len(arrivals) * 3 // 4
        per_second = (last - first) * 1_000 / (arrivals[last] - arrivals[first])
        share = per_second * seconds / in_flight
        found.append(told({**measured, "latency_seconds": seconds, "share_of_ideal": share}))
    return found


def large_table(cache: Path, most: int | None) -> list[dict[str, Any]]:
    """Ten million rows: the first request of a new run, and of one of which all but the last rows are done."""
    rows = most or LARGE_ROWS
    path = table(cache, rows, lines=False)
    found = []
    with folder() as output:
        with static_server() as server:
            found.append(told({"what": "new run", **first_request(server, path, rows, output / "new")}))
            measure_client(
                sys.executable, CLIENT, server, path, rows=DONE_ROWS, in_flight=64, output_dir=output / "run"
            )
        finish(output / "run", DONE_ROWS, rows - OPEN_ROWS)
        with static_server() as server:
            found.append(told({"what": "resume", **first_request(server, path, rows, output / "run")}))
    return found


def whole_table(cache: Path, most: int | None) -> list[dict[str, Any]]:
    """Ten million rows to their end, or the first `most` of them: half an hour, for the memory that it takes."""
    rows = min(LARGE_ROWS, most or LARGE_ROWS)
    with static_server() as server:
        measured = measure(server, table(cache, LARGE_ROWS, lines=False), rows, 512)
        measured["close_seconds"] = close_seconds(measured, server.stats()["arrivals"], rows)
    return [told(measured)]


def close_seconds(measured: dict[str, Any], arrivals: list[float], rows: int) -> float:
    """What a run still took after its last request: `arrivals` are the times of every thousandth."""
    sending_seconds = (arrivals[-1] - arrivals[0]) * rows / max(1, rows - 1_000)
    return max(0.0, float(measured["wall_seconds"]) - sending_seconds)


def first_request(server: Server, path: Path, rows: int, output: Path) -> dict[str, Any]:
    """Start a run and end it a second after its first request: how long that took, the CPU time and memory so far.

    The CPU time is what the wait would be on a core that has nothing else to do.
    """
    began = time.time()
    process = subprocess.Popen(
        client_command(sys.executable, CLIENT, server, path, rows=rows, in_flight=64, output_dir=output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (arrivals := server.stats()["arrivals"]):
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"the run ended before its first request:\n{process.stderr.read()[-3000:]}")
        time.sleep(0.05)
    time.sleep(1)
    peak = peak_rss_mb(process.pid)
    process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    return {
        "rows": rows,
        "first_request_seconds": arrivals[0] - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": peak,
    }


def measure(server: Server, path: Path, rows: int, in_flight: int) -> dict[str, Any]:
    with folder() as output:
        measured = measure_client(
            sys.executable, CLIENT, server, path, rows=rows, in_flight=in_flight, output_dir=output / "run"
        )
    return {**measured, "in_flight": in_flight}


def table(cache: Path, rows: int, *, lines: bool = True) -> Path:
    return write_table(cache / f"synthetic-{rows}.parquet", rows, lines=lines)


def told(measured: dict[str, Any]) -> dict[str, Any]:
    """Shown as it comes: some parts take long."""
    print({name: round(value, 3) if isinstance(value, float) else value for name, value in measured.items()})
    return measured


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="crun-batch-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
