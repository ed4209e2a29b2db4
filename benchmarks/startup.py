"""How long a command takes to start: CPU time and peak memory of whole processes, beside bare imports.

    python benchmarks/startup.py

Each process is waited for by itself and told by the kernel (wait4): user and system time of all its threads, the
interpreter's own start included, and the most memory that it held. Of `run --simulate` the time of the simulator's
process is in it. A figure of memory is never below that of the process that measures, of which each is a fork.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_pages import save, write_pages
from machine import description

ROWS = 20
REPETITIONS = 7
JOB = """\
name: startup
input: {table: rows.jsonl, id: id}
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


def main() -> None:
    environ = os.environ | {"CRUN_API_KEY": "not-a-key"}
    with tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(JOB)
        rows = ({"id": number, "text": f"how much is {number} + {number}?"} for number in range(ROWS))
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        measure((*CLI, "run", "job.yaml", "--simulate"), folder, environ)
        taken = [
            {what: measure(arguments, folder, environ) for what, (arguments, _) in PROCESSES.items()}
            for _ in range(REPETITIONS)
        ]
    found = [
        {
            "what": what,
            "goal_cpu_seconds": goal,
            "cpu_seconds": statistics.median(turn[what][0] for turn in taken),
            "peak_rss_mb": statistics.median(turn[what][1] for turn in taken),
        }
        for what, (_, goal) in PROCESSES.items()
    ]
    save("startup", {"machine": description(), "repetitions": REPETITIONS, "processes": found})
    write_pages()


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
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / scale


if __name__ == "__main__":
    main()
