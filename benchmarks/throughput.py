"""CPU time per row, side by side: bare aiohttp, openai SDK, lm-deluge and crun_batch, in turns, one core each.

    python benchmarks/throughput.py            everything, some minutes; writes docs/benchmarks.md and its plot
    python benchmarks/throughput.py --quick    a look: few rows, one repetition, nothing written

Four conditions: plain http; https, with certificates checked; the same with all the headers that a large provider
sends; and a server that works on each reply for so long that it is the limit, so that replies come one by one. The
client has one core, the server on loopback the other.
The clients take turns, so that whatever else the machine does meets all of them; each figure is the median of its
repetitions. "Row" is CPU time from the first request to the end of everything, results published; the start
(imports, table, estimate) is told by itself.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_pages import RESULTS, save, write_pages
from machine import CACHE, HERE, Server, description, measure_client, static_server
from peers import PINNED, peers_python
from prompt_table import write_table

CLIENTS = {
    "aiohttp": "aiohttp_loop",
    "openai": "openai_sdk",
    "lm-deluge": "lm_deluge_batch",
    "crun_batch": "crun_batch_run",
}
SLOW = {"openai": 10}
"""Rows are divided by this: the SDK takes fifty times as long, and its cost per row stays the same."""
IN_FLIGHT = (64, 512)
CONDITIONS: dict[str, dict[str, Any]] = {
    "http": {},
    "https": {"tls": True},
    "provider": {"tls": True, "many_headers": True},
    "limited": {"spin_us": 400.0},
}
"""What the server is told; as the limit it takes twice as long for a reply as the clients compared there."""
COMPARED = {"limited": ("aiohttp", "crun_batch")}
"""Where not all clients are measured: who is."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--conditions", default=",".join(CONDITIONS))
    parser.add_argument("--in-flight", type=int, action="append")
    parser.add_argument("--source", type=Path, help="a Parquet file with a column `question`, for its texts")
    parser.add_argument("--peers-python", type=Path, help="an interpreter that has the other clients")
    parser.add_argument("--cache", type=Path, default=CACHE)
    arguments = parser.parse_args()
    clients = arguments.clients.split(",")
    rows, repetitions = (4_000, 1) if arguments.quick else (arguments.rows, arguments.repetitions)
    name = "synthetic" if arguments.source is None else arguments.source.stem
    table = write_table(arguments.cache / f"{name}-{rows}.parquet", rows, source=arguments.source)
    peers = arguments.peers_python or (peers_python(arguments.cache) if set(clients) - {"crun_batch"} else None)
    figures: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for condition in arguments.conditions.split(","):
        compared = [client for client in clients if client in COMPARED.get(condition, clients)]
        with static_server(**CONDITIONS[condition]) as server:
            figures[condition] = {}
            for in_flight in arguments.in_flight or IN_FLIGHT:
                taken = turns(server, compared, table, rows, in_flight, repetitions, peers)
                found = {client: medians(each) for client, each in taken.items()}
                figures[condition][str(in_flight)] = found
                show(condition, in_flight, found)
    if not arguments.quick and clients == list(CLIENTS) and list(figures) == list(CONDITIONS):
        save(
            "throughput",
            {
                "machine": description(),
                "rows": rows,
                "repetitions": repetitions,
                "peers": list(PINNED),
                **figures,
            },
        )
        write_pages()
        print(f"wrote {RESULTS.name}/throughput.json, docs/benchmarks.md and its plots", file=sys.stderr)


def turns(
    server: Server,
    clients: list[str],
    table: Path,
    rows: int,
    in_flight: int,
    repetitions: int,
    peers: Path | None,
) -> dict[str, list[dict[str, Any]]]:
    """All measurements at one number in flight; the order turns with each repetition."""
    taken: dict[str, list[dict[str, Any]]] = {client: [] for client in clients}
    for repetition in range(repetitions):
        for client in clients[repetition % len(clients) :] + clients[: repetition % len(clients)]:
            output = Path(tempfile.mkdtemp(prefix="crun-batch-bench-"))
            try:
                measured = measure_client(
                    sys.executable if client == "crun_batch" else peers or sys.executable,
                    HERE / "clients" / f"{CLIENTS[client]}.py",
                    server,
                    table,
                    rows=max(1_000, rows // SLOW.get(client, 1)),
                    in_flight=in_flight,
                    output_dir=output / "run",
                )
            finally:
                shutil.rmtree(output)
            taken[client].append(measured)
            print(
                f"{in_flight:4} in flight  {client:11} {measured['cpu_us_per_row']:8.1f} us/row "
                f"{measured['rows_per_second']:8.0f} rows/s  server {measured['server_busy']:.0%} of its core",
                file=sys.stderr,
            )
    return taken


def medians(taken: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure, and how far the repetitions lay apart."""
    costs = [measured["cpu_us_per_row"] for measured in taken]
    numbers = [name for name, value in taken[0].items() if isinstance(value, int | float)]
    found = {name: statistics.median(measured[name] for measured in taken) for name in numbers}
    return {**found, "lowest_cpu_us_per_row": min(costs), "highest_cpu_us_per_row": max(costs)}


def show(condition: str, in_flight: int, figures: dict[str, dict[str, float]]) -> None:
    yardstick = figures.get("aiohttp", next(iter(figures.values())))
    print(f"\n{condition}, {in_flight} in flight")
    for client, figure in figures.items():
        print(
            f"  {client:11} {figure['cpu_us_per_row']:8.1f} us CPU per row"
            f"  = {figure['cpu_us_per_row'] / yardstick['cpu_us_per_row']:6.2f} of aiohttp"
            f"  {figure['rows_per_second']:8.0f} rows/s  {figure['peak_rss_mb']:6.0f} MB"
            f"  (start {figure['start_cpu_seconds']:.2f} s)"
        )


if __name__ == "__main__":
    main()
