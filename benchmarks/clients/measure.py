"""How a client measures itself: arguments, core, CPU time and memory, one line of JSON. Standard library only."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SYSTEM = "Solve the problem step by step. End with the number alone on the last line."
MODEL = "gpt-5.4"
MAX_OUTPUT_TOKENS = 512
KEY = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"
"""As long as keys are: every reply is searched for it."""


class Measured:
    """The command line of a client, and its measurements: `start` ends where the first request may go."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--base-url", required=True)
        parser.add_argument("--table", type=Path, required=True, help="prompts, .jsonl beside .parquet")
        parser.add_argument("--rows", type=int, required=True)
        parser.add_argument("--in-flight", type=int, required=True)
        parser.add_argument("--core", type=int)
        parser.add_argument("--output-dir", type=Path)
        self.arguments = parser.parse_args()
        self._started: tuple[float, float] | None = None
        pin(self.arguments.core)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def prompts(self) -> list[list[dict[str, str]]]:
        """Messages of every row, as a script that uses a bare client would hold them."""
        with self.arguments.table.with_suffix(".jsonl").open() as lines:
            questions = [json.loads(next(lines))["question"] for _ in range(self.arguments.rows)]
        return [
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
            for question in questions
        ]

    def starts_sending(self) -> None:
        """Everything before this belongs to the start, everything after it to the rows."""
        self._started = (cpu_seconds(), time.perf_counter())

    @contextmanager
    def sending(self) -> Iterator[None]:
        """The rows, from the first request to the last; prints the measurements."""
        self.starts_sending()
        yield
        self.report()

    def report(self, **more: object) -> None:
        """Print what was measured."""
        assert self._started is not None
        cpu, wall = cpu_seconds(), time.perf_counter()
        start_cpu, start_wall = self._started
        rows = self.arguments.rows
        measured = {
            "rows": rows,
            "start_cpu_seconds": start_cpu,
            "cpu_us_per_row": (cpu - start_cpu) / rows * 1e6,
            "whole_cpu_us_per_row": cpu / rows * 1e6,
            "wall_seconds": wall - start_wall,
            "rows_per_second": rows / (wall - start_wall),
            "peak_rss_mb": peak_rss_mb(),
            **more,
        }
        print(json.dumps(measured), flush=True)


def pin(core: int | None) -> None:
    """Stay on one core, where the system can do that."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def cpu_seconds() -> float:
    """User and system time of this process with all its threads, and of its children, those that run included."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used) + sum(map(child_cpu_seconds, running_children()))


def running_children() -> list[str]:
    """Their process ids. Linux only; none elsewhere."""
    return [child for task in Path("/proc/self/task").glob("*/children") for child in task.read_text().split()]


def child_cpu_seconds(process_id: str) -> float:
    """User and system time of a process that runs; 0 where it has just ended."""
    try:
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    user_ticks, system_ticks = map(int, fields[11:13])
    return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")


def peak_rss_mb(process_id: int | str = "self") -> float:
    """The most memory that a process had at one time. Linux counts a parent's into ru_maxrss."""
    status = Path(f"/proc/{process_id}/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def children_peak_mb() -> float:
    """The most memory that the children which run now have had, each at its worst. Linux only; 0 elsewhere."""
    return sum(map(peak_rss_mb, running_children()))


def resident_mb() -> dict[str, float]:
    """What is resident now, by owner: an installed package, Python with the system's libraries, or `data`.

    That is what no file has. Linux only; empty elsewhere. Pages of files are shared with every process that has
    loaded the same.
    """
    maps = Path("/proc/self/smaps")
    found: dict[str, float] = {}
    owner = ""
    for line in maps.read_text().splitlines() if maps.exists() else ():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            owner = owner_of(words[5] if len(words) > 5 else "")
        elif words[0] == "Rss:":
            found[owner] = found.get(owner, 0) + int(words[1]) / 1024
    return found


def owner_of(file: str) -> str:
    """Whose the pages of a file are."""
    if not file.startswith("/"):
        return "data"
    _, found, inside = file.partition("/site-packages/")
    return inside.split("/")[0].split(".")[0].removesuffix("_runtime_32").strip("_") if found else "python"
