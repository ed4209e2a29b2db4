"""What the tests of the batch lane share: a simulator with batches, a job for it, its books beside the run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.simulator.process import SimulatorProcess, start_simulator
from tests.run_kit import ENVIRON

QUICK = Platform(batch_absent_seconds=0.2)


@contextmanager
def simulator(**settings: Any) -> Iterator[SimulatorProcess]:
    known = {"tokenizer": "words", "gateway_style": "plain", "balance_credits": "1000000", "batch_seconds": 0.05}
    process = start_simulator(**{**known, **settings})
    try:
        yield process
    finally:
        process.stop()


def job(at: SimulatorProcess, folder: Path, **keys: Any) -> Job:
    """A job in the batch lane, at half the simulator's own prices; `keys` replace or extend."""
    price = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000, "minimum_per_request": 0}
    tree: dict[str, Any] = {
        "name": "batched",
        "input": {"id": "id"},
        "model": "gpt-5.4",
        "lane": "batch",
        "batch": {"look_every_seconds": 0.05},
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 300},
        "prices": {"models": {"gpt-5.4": price}, "batch_share": 0.5},
        "output": {"dir": str(folder / "run")},
        **keys,
    }
    endpoint = {"base_url": at.base_url, "api_key_env": "SIM_KEY", **tree.pop("endpoint", {})}
    return Job(endpoint=endpoint, **tree)


def run(job: Job, table: pl.DataFrame, **options: Any) -> crun_batch.Run:
    return crun_batch.run(
        job, table=table, **{"environ": ENVIRON, "handle_signals": False, "platform": QUICK, **options}
    )


def charges(at: SimulatorProcess) -> list[dict[str, Any]]:
    return list(at.ledger(entries=True)["entries"])


def charged_credits(at: SimulatorProcess) -> Decimal:
    return Decimal(at.ledger()["charge_credits"])


def times_asked(at: SimulatorProcess) -> Counter[str]:
    """Each request by its hash -> how often the books have it."""
    return Counter(entry["request_sha256"] for entry in charges(at))
