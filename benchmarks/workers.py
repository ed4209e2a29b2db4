"""One worker beside several: what they send together, how much is in flight, how well they keep a rate.

    python benchmarks/workers.py client      the client is the limit: long prompts, the server answers at once
    python benchmarks/workers.py latency     the server waits: so many requests in flight for each worker
    python benchmarks/workers.py rate        limits.requests_per_minute: the worst minute, and what of it is used
    python benchmarks/workers.py rate --workers 2,4 --deaths 6     and of workers that die meanwhile

Each takes `--workers 1,2,4`. The server on loopback has the first core, which the workers may use too: what it
takes of it is told. Where fewer cores are free than there are workers, the ratio tells of the machine and not of
them; the processor time that a row costs the workers tells of them there: where that stays the same, so many free
cores send so many times as much. The counts take turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.measure import KEY, child_cpu_seconds
from machine import CACHE, Server, description, static_server
from prompt_table import write_table

REPEATED = {"client": 40, "latency": 1, "rate": 1}
"""How often a prompt says its question: 40 times is about 10 kB."""
LOOKED_EVERY_SECONDS = 0.02
MINUTE_SECONDS = 60.0


def main() -> None:
    arguments = parsed()
    print(f"{description()}; load before: {os.getloadavg()[0]:.1f}")
    {"client": side_by_side, "latency": side_by_side, "rate": at_a_rate}[arguments.what](arguments)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(REPEATED))
    parser.add_argument("--workers", type=lambda text: [int(one) for one in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--rows", type=int, help="of client 20,000; of latency 12,000 for each worker")
    parser.add_argument("--in-flight", type=int, default=64, help="for each worker")
    parser.add_argument("--latency-seconds", type=float, default=0.2, help="of latency and rate")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--per-minute", type=int, default=6_000)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--deaths", type=int, default=0, help="of workers, spread over the minutes of rate")
    parser.add_argument("--cache", type=Path, default=CACHE)
    return parser.parse_args()


def side_by_side(arguments: argparse.Namespace) -> None:
    """Rows a second while they send, for each count of workers, and against one."""
    counts: Sequence[int] = arguments.workers
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    latency = arguments.latency_seconds if arguments.what == "latency" else 0.0
    for repetition in range(arguments.repetitions):
        for count in counts if repetition % 2 == 0 else counts[::-1]:
            rows = (arguments.rows or 12_000) * count if latency else arguments.rows or 20_000
            limits = {"concurrency": arguments.in_flight * count, "adaptive": not latency}
            with prepared(arguments, rows, latency, limits) as (server, file):
                found[count].append(measured(file, server, count, rows))
    for count, figures in found.items():
        print(f"{named(count)}: {told(figures)}")
    medians = {count: statistics.median(run["sent_per_second"] for run in found[count]) for count in counts}
    for count in counts[1:]:
        ratio = medians[count] / medians[counts[0]]
        linear = ratio * counts[0] / count
        cost, cost_of_one = (
            statistics.median(run["worker_cpu_us_per_row"] for run in found[each]) for each in (count, counts[0])
        )
        print(
            f"{named(count)} send {ratio:.2f} times as much as {counts[0]}: {linear:.2f} linear; "
            f"a row costs them {cost / cost_of_one:.2f} times as much processor time"
        )


def at_a_rate(arguments: argparse.Namespace) -> None:
    """The worst minute of a rate that all workers share, and how much of the rate they used."""
    rows = round(arguments.per_minute * arguments.minutes)
    limits = {"concurrency": arguments.in_flight, "requests_per_minute": arguments.per_minute}
    for count in arguments.workers:
        with prepared(arguments, rows, arguments.latency_seconds, limits, every=1) as (server, file):
            process = started(file, count)
            deaths = sum(killed(process, arguments, count))
            code, stats = process.wait(), server.stats()
            if code != 0 or stats["requests"] < rows:
                raise SystemExit(
                    f"exit code {code}, {stats['requests']} requests:\n{file.with_suffix('.log').read_text()}"
                )
        arrivals: list[float] = stats["arrivals"]
        rate = (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]) * MINUTE_SECONDS
        worst, per_minute = most_in_a_minute(arrivals), arguments.per_minute
        print(
            f"{named(count)}, {deaths} killed: {worst:,} requests in the worst minute, {worst / per_minute:.2%} "
            f"of {per_minute:,}; {rate / per_minute:.1%} used from the first request to the last; at most "
            f"{stats['most_in_flight']} in flight, of {arguments.in_flight}",
            flush=True,
        )


def most_in_a_minute(arrivals: Sequence[float]) -> int:
    """The most requests of any 60 seconds."""
    most = first = 0
    for last, arrived_at in enumerate(arrivals):
        while arrived_at - arrivals[first] >= MINUTE_SECONDS:
            first += 1
        most = max(most, last - first + 1)
    return most


@contextmanager
def prepared(
    arguments: argparse.Namespace, rows: int, latency: float, limits: Mapping[str, int], every: int | None = None
) -> Iterator[tuple[Server, Path]]:
    """A server of its own, and a job file that is sent there."""
    table = write_table(arguments.cache / f"synthetic-{rows}.parquet", rows)
    with (
        static_server(latency, every=every) as server,
        tempfile.TemporaryDirectory(prefix="crun-batch-bench-") as folder,
    ):
        job = {
            "name": "workers",
            "input": {"table": str(table), "id": "question_id"},
            "endpoint": {"base_url": server.base_url, "api_key_env": "BENCH_KEY"},
            "model": "gpt-5.4",
            "prompt": {"user": "{{ question }} " * REPEATED[arguments.what]},
            "params": {"max_output_tokens": 400},
            "limits": limits,
            "output": {"dir": str(Path(folder) / "run")},
        }
        file = Path(folder) / "workers.json"
        file.write_text(json.dumps(job))
        yield server, file


def started(file: Path, count: int) -> subprocess.Popen[bytes]:
    """The command by so many workers; what it says is beside its job file."""
    command = [sys.executable, "-m", "crun_batch", "run", str(file), "--yes", "--workers", str(count)]
    with file.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, env={**os.environ, "BENCH_KEY": KEY}, stdout=log, stderr=log)


def measured(file: Path, server: Server, count: int, rows: int) -> dict[str, float]:
    """A run by so many workers: its rate while all of them send (the middle half), its time, the server's load."""
    began = time.monotonic()
    process = started(file, count)
    first, before, cpu_before = reached(server, rows // 4, process), server.stats(), workers_cpu_seconds(process)
    last, between = reached(server, rows * 3 // 4, process), server.stats()
    cpu_seconds = workers_cpu_seconds(process) - cpu_before
    sent = between["requests"] - before["requests"]
    code, after = process.wait(), server.stats()
    if code != 0 or after["requests"] != rows:
        raise SystemExit(
            f"exit code {code}, {after['requests']} requests:\n{file.with_suffix('.log').read_text()}"
        )
    return {
        "sent_per_second": sent / (last - first),
        "whole_seconds": time.monotonic() - began,
        "server_busy": (between["cpu_seconds"] - before["cpu_seconds"]) / (last - first),
        "worker_cpu_us_per_row": cpu_seconds / sent * 1e6,
        "most_in_flight": after["most_in_flight"],
    }


def killed(process: subprocess.Popen[bytes], arguments: argparse.Namespace, count: int) -> Iterator[int]:
    """Kill a worker now and then, the first after one pause, by turns; 1 for each."""
    for _ in range(arguments.deaths if count > 1 else 0):
        time.sleep(arguments.minutes * MINUTE_SECONDS / (arguments.deaths + 1))
        os.kill(min(workers_of(process), key=lambda one: int(stat_of(one)[19])), signal.SIGKILL)  # the oldest
        yield 1


def workers_of(process: subprocess.Popen[Any]) -> list[int]:
    """The ids of its workers' processes; one worker is the command itself."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = [int(one) for one in children if b"scale.worker" in Path(f"/proc/{one}/cmdline").read_bytes()]
    return found or [process.pid]


def stat_of(process: int) -> list[str]:
    """What the kernel tells of a process, from its state on (proc_pid_stat(5), field 3)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def workers_cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """The processor time that its workers have used so far, all their threads."""
    return sum(child_cpu_seconds(str(one)) for one in workers_of(process))


def reached(server: Server, requests: int, process: subprocess.Popen[Any]) -> float:
    """When the server had so many requests; or when the run ended without."""
    while server.stats()["requests"] < requests and process.poll() is None:
        time.sleep(LOOKED_EVERY_SECONDS)
    return time.monotonic()


def named(count: int) -> str:
    return f"{count} {'worker' if count == 1 else 'workers'}"


def told(figures: list[dict[str, float]]) -> str:
    middle = {name: statistics.median(run[name] for run in figures) for name in figures[0]}
    most = max(run["most_in_flight"] for run in figures)
    return (
        f"{middle['sent_per_second']:,.0f} requests/s while sending, {middle['whole_seconds']:.1f} s in all, "
        f"{middle['worker_cpu_us_per_row']:,.0f} us of the workers' processor time a row, "
        f"the server takes {middle['server_busy']:.2f} of a core"
        + (f", at most {most:,.0f} in flight" if most else "")
    )


if __name__ == "__main__":
    main()
