"""What the tests of whole runs share: one simulator process, jobs that point at it, and a wire that remembers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

import crun_batch
from crun_batch.gateway.http.wire import Wire, open_wire
from crun_batch.load.job.job import Job
from crun_batch.records import Fault, Response
from crun_batch.simulator.process import SimulatorProcess, start_simulator

ENVIRON = {"SIM_KEY": "ak_sim_test"}
PRICES = {
    "gpt-5.4": (500, 50, 3000),
    "gpt-5.4-mini": (100, 10, 600),
    "gpt-5.4-nano": (20, 2, 120),
}

STATUS_OF_MEANING = {
    "stop": "ok",
    "length": "truncated",
    "tool_calls": "ok",
    "content_filter": "refused",
    "cut": "error",
    "malformed": "error",
}
"""What a unit's status is by what its finish reason means."""


@contextmanager
def simulator(**settings: Any) -> Iterator[SimulatorProcess]:
    process = start_simulator(tokenizer="words", balance_credits="1000000", **settings)
    try:
        yield process
    finally:
        process.stop()


def job(at: SimulatorProcess, folder: Path, **keys: Any) -> Job:
    """A job against the simulator: chat, gpt-5.4, the simulator's own prices; `keys` replace or extend."""
    endpoint = {"base_url": at.base_url, "api_key_env": "SIM_KEY", **keys.pop("endpoint", {})}
    models = {
        name: {
            "currency": "credits",
            "input_per_mtok": fresh,
            "cached_input_per_mtok": cached,
            "output_per_mtok": output,
            "minimum_per_request": "0.01",
        }
        for name, (fresh, cached, output) in PRICES.items()
    }
    return Job(endpoint=endpoint, **tree(folder, models, **keys))


def tree(folder: Path, models: Mapping[str, Any], **keys: Any) -> dict[str, Any]:
    """The keys of such a job but its endpoint; `models` are its prices."""
    return {
        "name": "law",
        "input": {"id": "id"},
        "model": "gpt-5.4",
        "prompt": {"user": "{{ text }}"},
        "params": {"max_output_tokens": 300},
        "prices": {"models": models},
        "output": {"dir": str(folder / "run")},
        **keys,
    }


def run(job: Job, table: pl.DataFrame, **options: Any) -> crun_batch.Run:
    return crun_batch.run(job, table=table, environ=ENVIRON, handle_signals=False, **options)


def texts(count: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"id": [f"r{i}" for i in range(count)], "text": [f"Text number {i}." for i in range(count)]}
    )


def results(done: crun_batch.Run) -> pl.DataFrame:
    return done.results().sort("id", "variant", "repeat").collect()


def spent_credits(done: crun_batch.Run) -> Decimal:
    return done.attempts().select(pl.col("cost_credits").sum()).collect().item()


def charged_credits(at: SimulatorProcess) -> Decimal:
    return Decimal(at.ledger()["charge_credits"])


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Until it holds; an assertion fails where it never does."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not come to that"
        time.sleep(0.01)


class RecordingWire:
    """The real wire, remembering the bodies of requests in the order in which they were sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self._wire: Wire | None = None

    def __call__(self, job: Job) -> RecordingWire:
        self._wire = open_wire(connections=job.limits.concurrency)
        return self

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline_seconds: float
    ) -> Response | Fault:
        assert self._wire is not None
        self.sent.append({"url": url, "headers": dict(headers), **json.loads(body)})
        return await self._wire.post(url, headers, body, deadline_seconds)

    async def close(self) -> None:
        assert self._wire is not None
        await self._wire.close()
