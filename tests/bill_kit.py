"""What the tests of the bill share: jobs against a simulated gateway with a ledger, run here or in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq

import crun_batch
from crun_batch.options import Platform
from crun_batch.simulator import SimulatorProcess, read_settings

KEY = "ak_" + "b" * 32
MODEL = "claude-sonnet-4-5"
PRICE = {
    "currency": "credits",
    "input_per_mtok": "600",
    "cached_input_per_mtok": "60",
    "cache_write_per_mtok": "750",
    "output_per_mtok": "3000",
    "minimum_per_request": "0.01",
}
"""What the simulator charges for MODEL."""
QUICK = Platform(balance_every_seconds=0.1, balance_reads=8, balance_pause_seconds=0.05)
PLAIN = {
    "faults": {},
    "out_of_credit": "crun_http",
    "latency_seconds": 0.0,
    "balance_credits": 1_000_000,
    "balance_lag_seconds": 0.0,
    "output_tokens_sigma": 0.5,
    "gateway_style": "crun",
    "fault_retry_after_seconds": 0.05,
    "cached_share": 0.5,
}
RUNNER = """
import json, sys
import crun_batch
run = crun_batch.run(sys.argv[1])
print(json.dumps({"summary": run.summary, "exit_code": run.exit_code}))
"""


def gateway(**settings: Any) -> SimulatorProcess:
    """A simulated gateway that takes KEY only."""
    return SimulatorProcess(read_settings({"tokenizer": "words", "keys": {"team": KEY}, **PLAIN, **settings}))


class Bench:
    """One job in a folder of its own, against a gateway that may have charged others before."""

    def __init__(self, folder: Path, simulator: SimulatorProcess, *, rows: int = 40, **job: Any) -> None:
        self.folder = folder
        self.simulator = simulator
        self.run_folder = folder / "run"
        self.job_file = folder / "job.json"
        self.said: list[str] = []
        self._charged_before = self._charged()
        self._count_before = simulator.ledger()["count"]
        texts = [f"{folder.name}: {n} times {n % 7}? {'Think again. ' * (n % 5)}" for n in range(rows)]
        pl.DataFrame({"id": range(1000, 1000 + rows), "text": texts}).write_parquet(folder / "table.parquet")
        self.job: dict[str, Any] = {
            "name": "bill",
            "input": {"table": "table.parquet", "id": "id"},
            "endpoint": {"base_url": simulator.base_url, "api_key_env": "BILL_KEY", "protocol": "chat"},
            "model": MODEL,
            "prompt": {"system": "You are a patient teacher. " * 5, "user": "{{ text }}"},
            "params": {"max_output_tokens": 200},
            "limits": {"concurrency": 8, "attempt_timeout_seconds": 20},
            "prices": {"models": {MODEL: PRICE}},
            "output": {"dir": str(self.run_folder)},
        }
        self.write(**job)

    def write(self, **changes: Any) -> None:
        """Write the job file anew; sections are merged, None removes a section."""
        for key, value in changes.items():
            merges = isinstance(value, Mapping) and isinstance(self.job.get(key), dict)
            self.job[key] = {**self.job[key], **value} if merges else value
        self.job = {key: value for key, value in self.job.items() if value is not None}
        self.job_file.write_text(json.dumps(self.job))

    def run(self, **options: Any) -> crun_batch.Run:
        """Run the job in this process."""
        environ = {"BILL_KEY": KEY}
        options = {"platform": QUICK, "say": self.said.append, **options}
        return crun_batch.run(self.job_file, environ=environ, handle_signals=False, **options)

    def estimate(self, **options: Any) -> dict[str, Any]:
        """What is still to be sent, estimated."""
        return crun_batch.estimate(self.job_file, environ={"BILL_KEY": KEY}, **options)

    def start(self) -> subprocess.Popen[str]:
        """Run the job in a process of its own."""
        command = [sys.executable, "-c", RUNNER, str(self.job_file)]
        return subprocess.Popen(command, env={**os.environ, "BILL_KEY": KEY}, stdout=subprocess.PIPE, text=True)

    @property
    def charged(self) -> Decimal:
        """What the gateway has charged for this job, in credits."""
        return self._charged() - self._charged_before

    @property
    def answered(self) -> int:
        """How many requests it has charged."""
        return int(self.simulator.ledger()["count"]) - self._count_before

    def _charged(self) -> Decimal:
        return Decimal(self.simulator.ledger()["charge_credits"])


def sums_of_attempts(run: crun_batch.Run) -> set[Decimal]:
    """The credits of all attempts, as each of the three readers adds them up."""
    files = sorted((run.directory / "attempts").glob("*.parquet"))
    by_polars = run.attempts().select(pl.col("cost_credits").sum()).collect().item()
    by_file = [pc.sum(pq.read_table(file)["cost_credits"]).as_py() for file in files]
    by_arrow = sum((amount for amount in by_file if amount is not None), Decimal(0))
    source = [str(file) for file in files]
    [[by_duckdb]] = duckdb.execute("select sum(cost_credits) from read_parquet($1)", [source]).fetchall()
    [by_sql] = run.sql("select sum(cost_credits) as total from attempts")["total"].to_pylist()
    return {Decimal(amount) for amount in (by_polars, by_arrow, by_duckdb, by_sql)}
