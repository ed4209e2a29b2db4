"""End to end on real data: 1,319 grade-school questions through every protocol, and through interruptions.

    python -m benchmarks.gsm8k [--table ../shared/data/gsm8k_test.parquet]

For each protocol, streamed and not: a run in one go, whose tokens and costs must be the same by pyarrow, polars
and duckdb, and the same as the simulator's own ledger. Then one run stopped by Ctrl-C and one by kill -9, again
and again, whose final tables must equal the uninterrupted one. Stops with an error if anything differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crun_batch.simulator import SimulatorProcess, read_settings

TABLE = Path(__file__).parent.parent.parent / "shared" / "data" / "gsm8k_test.parquet"
KEY = "ak_sim_benchmark_key"
SHAPES = (("chat", False), ("chat", True), ("responses", False), ("responses", True))
SHAPES += (("messages", False), ("messages", True), ("completions", False))
SUMS = ("input_tokens", "output_tokens", "cost_credits")
TIMES = ("latency_seconds", "started_at", "finished_at", "attempt_count", "unknown_attempts", "response_id")
JOB = """
name: gsm8k
input: {{table: '{table}', id: question_id}}
endpoint: {{base_url: '{base_url}', protocol: {protocol}, stream: {stream}, api_key_env: GSM8K_KEY, auth: bearer}}
model: gpt-5.4
prompt:
  system: Solve the problem. Give the number last.
  user: "{{{{ question }}}}"
params: {{max_output_tokens: 300}}
limits: {{concurrency: 64}}
prices:
  models:
    gpt-5.4: {{currency: credits, input_per_mtok: 500, cached_input_per_mtok: 50, output_per_mtok: 3000,
              minimum_per_request: 0.01}}
"""


class Bench:
    """One folder, one simulator, the command line as a person uses it."""

    def __init__(self, folder: Path, table: Path, settings: dict[str, object]) -> None:
        self.folder = folder
        self.table = table
        self.simulator = SimulatorProcess(
            read_settings({"answer_style": "words", "balance_credits": "100000000", **settings})
        )

    def __enter__(self) -> Bench:
        self.simulator.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.simulator.stop()

    def command(self, name: str, protocol: str, stream: bool) -> list[str]:
        """The command that runs the job of that shape into a directory of that name."""
        job = self.folder / f"{name}.yaml"
        job.write_text(
            JOB.format(
                table=self.table, base_url=self.simulator.base_url, protocol=protocol, stream=str(stream).lower()
            )
        )
        directory = str(self.folder / name)
        return [sys.executable, "-m", "crun_batch", "run", str(job), "--yes", "--output-dir", directory]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start it without a terminal."""
        environment = {"GSM8K_KEY": KEY, "PATH": "/usr/bin:/bin", "HOME": str(self.folder)}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path.cwd()
        )

    def ledger(self) -> tuple[int, Decimal]:
        """(charged requests, credits) so far."""
        totals = self.simulator.ledger()
        return totals["count"], Decimal(totals["charge_credits"])


def sums_three_ways(path: Path) -> tuple[Decimal, ...]:
    """The sums of a Parquet file, read by pyarrow, polars and duckdb; they must agree."""
    table = pq.read_table(path)
    by_arrow = tuple(pc.sum(table[name]).as_py() for name in SUMS)
    by_polars = pl.read_parquet(path).select(pl.col(SUMS).sum()).row(0)
    columns = ", ".join(f"sum({name})" for name in SUMS)
    by_duckdb = duckdb.sql(f"select {columns} from '{path}'").fetchall()[0]
    assert by_arrow == by_polars == by_duckdb, (by_arrow, by_polars, by_duckdb)
    return by_arrow


def in_one_go(bench: Bench, protocol: str, stream: bool) -> str:
    """A whole run; what it sums up to, and how it compares with the ledger."""
    name = f"{protocol}-{'streamed' if stream else 'whole'}"
    count, charged = bench.ledger()
    exit_code = bench.start(bench.command(name, protocol, stream)).wait()
    results = pl.read_parquet(bench.folder / name / "results.parquet")
    sums = sums_three_ways(bench.folder / name / "results.parquet")
    attempts = pl.read_parquet(bench.folder / name / "attempts" / "*.parquet")
    new_count, new_charged = bench.ledger()
    rows = pq.read_metadata(bench.table).num_rows
    assert (0, rows) == (exit_code, results.filter(pl.col("status") == "ok").height), (name, exit_code)
    assert sums[2] == new_charged - charged == attempts["cost_credits"].sum(), (name, sums, new_charged - charged)
    assert attempts.height == new_count - count == results.height
    tokens = f"{sums[0]:,} + {sums[1]:,} tokens"
    return f"{name:20} {rows:,} rows, all ok, {tokens}, {sums[2].normalize()} credits = ledger"


def interrupted(bench: Bench, name: str, stop: signal.Signals, draw: random.Random) -> str:
    """A run stopped again and again at random moments, and gone on with; its table and its bill."""
    count, charged = bench.ledger()
    command = bench.command(name, "chat", False)
    stops = 0
    while True:
        process = bench.start(command)
        before, _ = bench.ledger()
        while process.poll() is None and bench.ledger()[0] < before + draw.randint(150, 450):
            time.sleep(0.05)
        if process.poll() is not None:
            break
        process.send_signal(stop)
        process.wait()
        stops += 1
    results = pl.read_parquet(bench.folder / name / "results.parquet")
    attempts = pl.read_parquet(bench.folder / name / "attempts" / "*.parquet")
    whole = pl.read_parquet(bench.folder / "chat-whole" / "results.parquet")
    columns = [column for column in whole.columns if column not in TIMES]
    same = results.select(columns).sort("question_id").equals(whole.select(columns).sort("question_id"))
    assert same, f"{name}: another table than in one go"
    new_count, new_charged = bench.ledger()
    unknown = attempts.filter(pl.col("outcome") == "unknown")
    known, bill = attempts["cost_credits"].sum(), new_charged - charged
    held = unknown["held_credits"].sum() or Decimal(0)
    assert known <= bill <= known + held, (name, known, bill, held)
    assert new_count - count - results.height <= unknown.height <= stops * 64
    return (
        f"{name:20} {stops} stops, the same table; {unknown.height} in flight at a stop, of them "
        f"{new_count - count - results.height} billed again; {known.normalize()} <= {bill.normalize()} <= "
        f"{(known + held).normalize()} credits"
    )


def main() -> int:
    """Run it all in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--only-interrupted", action="store_true", help="chat alone, in one go and interrupted")
    arguments = parser.parse_args()
    if not arguments.table.exists():
        print(f"{arguments.table} is not there: nothing to do")
        return 0
    started = time.monotonic()
    draw = random.Random(8)
    with tempfile.TemporaryDirectory() as folder, Bench(Path(folder), arguments.table.resolve(), {}) as bench:
        for protocol, stream in SHAPES[:1] if arguments.only_interrupted else SHAPES:
            print(in_one_go(bench, protocol, stream), flush=True)
        bench.simulator.change(latency_seconds=1.0, latency_sigma=0.5)
        print(interrupted(bench, "kill-9", signal.SIGKILL, draw), flush=True)
        print(interrupted(bench, "ctrl-c", signal.SIGINT, draw), flush=True)
    print(f"all equal, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
