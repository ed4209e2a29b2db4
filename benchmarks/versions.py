"""CPU time per row of this checkout beside another one's, each as its users start it: `crun-batch run`.

    python benchmarks/versions.py CHECKOUT [--python PYTHON]     http and https, 64 and 512 in flight, in turns

PYTHON is an interpreter that has what the other checkout needs (default: this one). Each figure is the difference
between a longer and a shorter run, so that starting and ending do not count: imports, the estimate's start, the
closing. The server is on one core, the client on the other; the checkouts take turns, and the lowest of their
repetitions is told beside the median, for what else the machine does can only add.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from clients.measure import KEY
from machine import CLIENT_CORE, HERE, Server, description, static_server
from prompt_table import write_table

CONDITIONS: dict[str, dict[str, Any]] = {"http": {}, "https": {"tls": True}}
MODEL = "gpt-5.4"
PRICE = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": "0.01"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--rows", type=int, nargs=2, default=(2_000, 12_000), metavar=("FEW", "MANY"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--in-flight", type=int, action="append")
    arguments = parser.parse_args()
    versions = {
        "this one": (Path(sys.executable), HERE.parent),
        "the other": (arguments.python, arguments.checkout),
    }
    print(f"{description()}; {arguments.rows[0]:,} and {arguments.rows[1]:,} rows")
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as folder:
        for condition, how in CONDITIONS.items():
            with static_server(**how) as server:
                for in_flight in arguments.in_flight or (64, 512):
                    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in versions}
                    for repetition in range(arguments.repetitions):
                        for name in sorted(versions, reverse=bool(repetition % 2)):
                            job = Path(folder) / f"{condition}-{in_flight}-{repetition}-{len(name)}"
                            taken[name].append(measured(*versions[name], server, job, in_flight, arguments.rows))
                    show(condition, in_flight, taken)


def measured(
    python: Path, checkout: Path, server: Server, folder: Path, in_flight: int, rows: tuple[int, int]
) -> tuple[float, float]:
    """Microseconds of CPU that one row more takes; seconds that the shorter run takes."""
    few, many = (cpu_seconds(python, checkout, server, folder / str(count), in_flight, count) for count in rows)
    return 1e6 * (many - few) / (rows[1] - rows[0]), few


def cpu_seconds(python: Path, checkout: Path, server: Server, folder: Path, in_flight: int, rows: int) -> float:
    """Of a whole run and the processes that it starts."""
    folder.mkdir(parents=True)
    job = {
        "input": {"table": str(write_table(folder / "table.parquet", rows)), "id": "question_id"},
        "endpoint": {"base_url": server.base_url, "api_key_env": "BENCH_KEY"},
        "model": MODEL,
        "prompt": {"system": "Answer briefly.", "user": "{{ question }}"},
        "params": {"max_output_tokens": 300},
        "limits": {"concurrency": in_flight},
        "budget": {"max_cost_credits": 10**7},
        "prices": {"credits_per_usd": 200, "models": {MODEL: PRICE}},
        "output": {"dir": "run"},
    }
    (folder / "job.yaml").write_text(json.dumps(job))
    environ = os.environ | server.environ | {"PYTHONPATH": str(checkout), "BENCH_KEY": KEY}
    with (folder / "log").open("w") as log:
        command = [str(python), "-m", "crun_batch", "run", "job.yaml", "--yes"]
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {CLIENT_CORE}),
        )
        _, status, used = os.wait4(process.pid, 0)
    done = json.loads((folder / "run" / "summary.json").read_text())["rows"]["ok"] if status == 0 else 0
    if done != rows:
        raise SystemExit(f"{checkout}: {done:,} of {rows:,} rows are ok\n{(folder / 'log').read_text()[-3000:]}")
    shutil.rmtree(folder)
    return used.ru_utime + used.ru_stime


def show(condition: str, in_flight: int, taken: dict[str, list[tuple[float, float]]]) -> None:
    """The figures of both, and their ratios."""
    lowest = []
    for name, figures in taken.items():
        per_row, whole = zip(*figures, strict=True)
        lowest.append((min(per_row), min(whole)))
        print(
            f"{condition:5} {in_flight:4} in flight  {name:9}  lowest {min(per_row):6.1f}  "
            f"median {statistics.median(per_row):6.1f} us CPU per row, shorter run {min(whole):.2f} s"
        )
    (ours, whole), (others, others_whole) = lowest
    print(
        f"{condition:5} {in_flight:4} in flight  this one = {ours / others:.2f} of the other per row, "
        f"{whole / others_whole:.2f} for the shorter run",
        flush=True,
    )


if __name__ == "__main__":
    main()
