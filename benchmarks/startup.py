"""How long a command takes to start: CPU time and peak memory of whole processes, beside bare imports.

    python benchmarks/startup.py

Each process is waited for by itself and told by the kernel (wait4): user and system time of all its threads, the
interpreter's own start included, and the most memory that it held. The time of processes that it waited for, such
as a simulator, is in it. A figure of memory is never below that of the process that measures, of which each is a
fork. Everything has run once before it is measured, so that its bytecode is there, as pip leaves what it
installs; it lies in a folder of its own, whatever PYTHONDONTWRITEBYTECODE says.

The first request: `run --yes` against a server that answers none, ended a second after its first request, when up
to 64 of them are sent. The server's own time is not in it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench_pages import save, write_pages
from machine import Server, description, static_server

ROWS = 20
NEW_ROWS = 1_000
REPETITIONS = 7
SILENT_SECONDS = 3600.0
MEMORY_UNITS_PER_MB = 2**20 if sys.platform == "darwin" else 2**10
"""The kernel tells peaks in bytes on macOS, in kilobytes on Linux."""
JOB = """\
name: startup
input: {table: ROWS, id: id}
model: gpt-5.4
prompt: {user: "Question: {{ text }}"}
output: {dir: run}
"""
CLI = ("-m", "crun_batch")
PROCESSES: dict[str, tuple[tuple[str, ...], float | None]] = {
    "python -c pass": (("-c", "pass"), None),
    "import polars": (("-c", "import polars"), None),
    "import pyarrow": (("-c", "import pyarrow"), None),
    "import duckdb": (("-c", "import duckdb"), None),
    "import pydantic": (("-c", "import pydantic; pydantic.BaseModel"), None),
    "import typer": (("-c", "import typer"), None),
    "crun-batch --help": ((*CLI, "--help"), 0.15),
    "crun-batch --version": ((*CLI, "--version"), 0.1),
    "status": ((*CLI, "status", "run-simulated"), 0.35),
    "check, 20 rows": ((*CLI, "check", "job.yaml"), 0.7),
    "sql": ((*CLI, "sql", "run-simulated", "select count(*) from results"), 0.7),
    "run --simulate, 20 finished rows": ((*CLI, "run", "job.yaml", "--simulate"), 0.9),
}
"""What is measured -> the interpreter's arguments, and the CPU seconds that are aimed at."""
FIRST_REQUEST = f"first request of a new run, {NEW_ROWS:,} rows"
GOALS = {**{what: goal for what, (_, goal) in PROCESSES.items()}, FIRST_REQUEST: 1.2}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as name, static_server(SILENT_SECONDS) as server:
        folder = Path(name)
        environ = os.environ | {"CRUN_API_KEY": "not-a-key", "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        write_job(folder, "job", ROWS)
        write_job(folder, "new", NEW_ROWS)
        measure((*CLI, "run", "job.yaml", "--simulate"), folder, environ)
        turns = [measure_all(server, folder, environ) for _ in range(1 + REPETITIONS)]
    taken = turns[1:]
    found = [
        {
            "what": what,
            "goal_cpu_seconds": GOALS[what],
            "cpu_seconds": statistics.median(turn[what][0] for turn in taken),
            "peak_rss_mb": statistics.median(turn[what][1] for turn in taken),
        }
        for what in taken[0]
    ]
    save("startup", {"machine": description(), "repetitions": REPETITIONS, "processes": found})
    write_pages()


def write_job(folder: Path, name: str, rows: int) -> None:
    (folder / f"{name}.yaml").write_text(JOB.replace("ROWS", f"{name}.jsonl"))
    written = ({"id": number, "text": f"how much is {number} + {number}?"} for number in range(rows))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))


def measure_all(server: Server, folder: Path, environ: dict[str, str]) -> dict[str, tuple[float, float]]:
    """Each process once, one after the other."""
    found = {what: measure(arguments, folder, environ) for what, (arguments, _) in PROCESSES.items()}
    return {**found, FIRST_REQUEST: measure_first_request(server, folder, environ)}


def measure_first_request(server: Server, folder: Path, environ: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a new run up to its first requests, which are not answered."""
    before = server.stats()["requests"]
    with tempfile.TemporaryDirectory(dir=folder) as output, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *CLI, "run", "new.yaml", "--yes", "--output-dir", f"{output}/run"],
            cwd=folder,
            env=environ | {"CRUN_BASE_URL": server.base_url},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        while server.stats()["requests"] == before:
            if process.poll() is not None:
                said.seek(0)
                raise SystemExit(f"the run ended before its first request:\n{said.read().decode()[-3000:]}")
            time.sleep(0.05)
        time.sleep(1)
        process.kill()
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = -9
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEMORY_UNITS_PER_MB


def measure(arguments: Sequence[str], folder: Path, environ: dict[str, str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one process that must succeed."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environ, stdout=said, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{said.read().decode()[-3000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEMORY_UNITS_PER_MB


if __name__ == "__main__":
    main()
