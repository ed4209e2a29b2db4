"""One worker against several, side by side in one run: rows a second while they send, and for the whole command.

    python benchmarks/workers.py                    2 workers, 20,000 rows, five times each, in turns
    python benchmarks/workers.py --workers 4 --rows 50000
    python benchmarks/workers.py --latency-seconds 1 --in-flight 256    the server waits, not the client works

The server on loopback has the first core, which the workers may use too: what it takes of it is told. Where fewer
cores are free than there are workers, the ratio tells of the machine and not of them. Prompts are long, so that
the client is the limit. The two take turns, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import Server, description, static_server
from prompt_table import write_table

REPEATED = 40
"""How often a prompt says its question: about 10 kB."""
LOOKED_EVERY_SECONDS = 0.02
KEY = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency-seconds", type=float, default=0.0)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "crun-batch-benchmarks")
    arguments = parser.parse_args()
    table = write_table(arguments.cache / f"synthetic-{arguments.rows}.parquet", arguments.rows)
    counts = (1, arguments.workers)
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    print(f"{description()}; load before: {os.getloadavg()[0]:.1f}")
    with static_server(arguments.latency_seconds) as server:
        for repetition in range(arguments.repetitions):
            for count in counts if repetition % 2 == 0 else counts[::-1]:
                with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as folder:
                    file = job_file(Path(folder), server, table, arguments)
                    found[count].append(measured(file, server, count, arguments.rows))
    for count, figures in found.items():
        print(f"{count} {'worker' if count == 1 else 'workers'}: {told(figures)}")
    one, several = (statistics.median(run["sent_per_second"] for run in found[count]) for count in counts)
    print(f"{arguments.workers} workers send {several / one:.2f} times as much as 1")


def job_file(folder: Path, server: Server, table: Path, arguments: argparse.Namespace) -> Path:
    """A job with long prompts, in a folder of its own."""
    job = {
        "name": "workers",
        "input": {"table": str(table), "id": "question_id"},
        "endpoint": {"base_url": server.base_url, "api_key_env": "BENCH_KEY"},
        "model": "gpt-5.4",
        "prompt": {"user": "{{ question }} " * REPEATED},
        "params": {"max_output_tokens": 400},
        "limits": {"concurrency": arguments.in_flight},
        "output": {"dir": str(folder / "run")},
    }
    file = folder / "workers.json"
    file.write_text(json.dumps(job))
    return file


def measured(file: Path, server: Server, count: int, rows: int) -> dict[str, float]:
    """One run by so many workers: its rate from the first request to the last, its time, the server's load."""
    command = [sys.executable, "-m", "crun_batch", "run", str(file), "--yes", "--workers", str(count)]
    before, began = server.stats(), time.monotonic()
    log = file.with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(command, env={**os.environ, "BENCH_KEY": KEY}, stdout=said, stderr=said)
        first = reached(server, before["requests"] + 1, process)
        last = reached(server, before["requests"] + rows, process)
        code = process.wait()
    after = server.stats()
    if code != 0 or after["requests"] - before["requests"] != rows:
        raise SystemExit(
            f"exit code {code}, {after['requests'] - before['requests']} requests:\n{log.read_text()}"
        )
    return {
        "sent_per_second": rows / (last - first),
        "whole_seconds": time.monotonic() - began,
        "server_busy": (after["cpu_seconds"] - before["cpu_seconds"]) / (last - first),
    }


def reached(server: Server, requests: int, process: subprocess.Popen[Any]) -> float:
    """When the server had so many requests; or when the run ended without."""
    while server.stats()["requests"] < requests and process.poll() is None:
        time.sleep(LOOKED_EVERY_SECONDS)
    return time.monotonic()


def told(figures: list[dict[str, float]]) -> str:
    middle = {name: statistics.median(run[name] for run in figures) for name in figures[0]}
    return (
        f"{middle['sent_per_second']:,.0f} requests/s while sending, {middle['whole_seconds']:.1f} s in all, "
        f"the server takes {middle['server_busy']:.2f} of a core"
    )


if __name__ == "__main__":
    main()
