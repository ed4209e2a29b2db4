"""What the tests of the batch lane share: a simulator with batches, a job for it, its books beside the run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
from run_kit import ENVIRON

import crun_batch
from crun_batch.load.job.job import Job
from crun_batch.options import Platform
from crun_batch.simulator.process import SimulatorProcess, start_simulator
from tests.chaos.batch_job import batch_job

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
    """A job in the batch lane against it; `keys` as of `batch_job`."""
    return Job(**batch_job(at.base_url, "SIM_KEY", str(folder / "run"), **keys))


def run(job: Job | str, table: pl.DataFrame | None = None, **options: Any) -> crun_batch.Run:
    """With an end, so that a test which waits for a batch in vain fails."""
    known = {"environ": ENVIRON, "handle_signals": False, "platform": QUICK, "max_minutes": 2}
    return crun_batch.run(job, table=table, **{**known, **options})


def charges(at: SimulatorProcess) -> list[dict[str, Any]]:
    return list(at.ledger(entries=True)["entries"])


def charged_credits(at: SimulatorProcess) -> Decimal:
    return Decimal(at.ledger()["charge_credits"])


def times_asked(at: SimulatorProcess) -> Counter[str]:
    """Each request by its hash -> how often the books have it."""
    return Counter(entry["request_sha256"] for entry in charges(at))
