"""A gateway that refuses one variant of several, over real HTTP: the others finish, and a later start goes on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import crun_batch
from crun_batch.load.job.job import Job

SERVER = Path(__file__).parent / "refusing_server.py"


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The base URL of a refusing server for as long as the context lasts."""
    command = [sys.executable, str(SERVER), "--latency-seconds", "0.01", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


def sweep(url: str, folder: Path, **limits: Any) -> Job:
    return Job(
        name="law",
        input={"id": "id"},
        endpoint={"base_url": url, "auth": "none"},
        model="good",
        prompt={"user": "{{ id }}"},
        sweep={"model": ["good", "bad", "fine"]},
        limits={"concurrency": 8, **limits},
        budget={"credits": "off"},
        output={"dir": str(folder / "run")},
    )


TABLE = pl.DataFrame({"id": range(60)})


def done_by_model(run: crun_batch.Run) -> dict[str, int]:
    results = run.results().collect()
    return dict(results.group_by("axis_model").len().iter_rows())


@pytest.mark.parametrize("status", ["404", "401"])
def test_a_variant_that_is_refused_is_set_aside_and_its_rows_stay_open(tmp_path, status):
    """Exit 5 at the end, the variant and the gateway's words named; started again, only its rows are asked."""
    with served("--sick", f"bad={status}") as url:
        run = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 5 == run.exit_code
        assert {"good": 60, "fine": 60} == done_by_model(run)
        assert f"refused with {status}" in run.stop_reason
        assert "bad" in run.stop_reason
    with served() as url:
        again = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 0 == again.exit_code
        assert {"good": 60, "bad": 60, "fine": 60} == done_by_model(again)
        assert 180 == again.attempts().filter(pl.col("outcome") == "done").collect().height


def test_told_to_stop_it_stops_at_the_first_variant_that_is_refused(tmp_path):
    with served("--sick", "bad=404") as url:
        run = crun_batch.run(sweep(url, tmp_path, on_variant_failure="stop"), table=TABLE)
        assert 5 == run.exit_code
        assert sum(done_by_model(run).values()) < 60


def test_a_variant_that_fails_too_often_is_set_aside(tmp_path):
    """Its error rate concerns it alone."""
    with served("--sick", "bad=400") as url:
        run = crun_batch.run(sweep(url, tmp_path), table=TABLE)
        assert 5 == run.exit_code
        done = done_by_model(run)
        assert (60, 60) == (done["good"], done["fine"])
        assert 20 <= done["bad"] < 60


def test_scattered_refusals_cost_waits_and_no_attempt(tmp_path):
    """One in ten refused with Retry-After 0.2: every row answered once, none too early, none counted."""
    with served("--share", "0.1", "--retry-after", "0.2") as url:
        run = crun_batch.run(sweep(url, tmp_path, max_attempts=1), table=TABLE)
        assert 0 == run.exit_code
        assert {"good": 60, "bad": 60, "fine": 60} == done_by_model(run)
