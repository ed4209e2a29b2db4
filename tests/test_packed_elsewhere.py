"""Requests of several rows over real HTTP: at several gateways, in shards by workers and under a coordinator."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_kit import charged_credits, job, results, simulator, wait_until
from run_kit import run as run_here
from test_coordinated_runs import coordinated
from test_workers import job_file, run, started, workers_of

import crun_batch
from crun_batch.simulator import SimulatorProcess

ROWS = 60
PACKED: dict[str, Any] = {
    "prompt": {"system": "Label each text with one of: good, bad, mixed.", "user": "{{ text }}"},
    "params": {"max_output_tokens": 12},
    "pack": {"rows": 5, "format": "lines"},
    "limits": {"concurrency": 4},
}


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator(latency_seconds=0.05) as process:
        yield process


def alone(at: SimulatorProcess, folder: Path) -> pl.DataFrame:
    """The answers of the same rows by themselves."""
    folder.mkdir()
    spec = job(at, folder, **{**PACKED, "pack": None}, input={"id": "id"})
    return results(run_here(spec, pl.read_parquet(folder.parent / "t.parquet")))


def told(done: crun_batch.Run) -> pl.DataFrame:
    return results(done).select("id", "status", "output_text")


@pytest.mark.parametrize("faults", [{}, {"500": 0.3, "429": 0.1}, {"401": 1.0}])
def test_each_gateway_of_a_list_bills_what_the_run_says(
    faults: dict[str, float], at: SimulatorProcess, tmp_path: Path
) -> None:
    """To the last digit, gateway by gateway; a request goes to another one as a whole where one fails."""
    with simulator(latency_seconds=0.02, faults=faults) as other:
        before = {"a": charged_credits(at), "b": charged_credits(other)}
        places = [
            {"name": name, "base_url": one.base_url, "api_key_env": "SIM_KEY"}
            for name, one in (("a", at), ("b", other))
        ]
        file = job_file(at, tmp_path, ROWS, **PACKED)
        file.write_text(json.dumps({**json.loads(file.read_text()), "endpoint": places}))
        done = run(file, None)
        charged = {"a": charged_credits(at) - before["a"], "b": charged_credits(other) - before["b"]}
    assert ("finished", 0) == (done.status, done.exit_code)
    endpoints = done.summary["endpoints"]
    assert charged == {name: Decimal(endpoints[name]["cost_credits"]) for name in ("a", "b")}
    assert (charged["b"] == 0) == ("401" in faults)
    assert ROWS // 5 == len(_requests(done.attempts().collect().filter(pl.col("outcome") == "done")))
    assert told(done).equals(alone(at, tmp_path / "alone").select("id", "status", "output_text"))
    assert [] == done.verify(data=True)


def _requests(attempts: pl.DataFrame) -> set[int]:
    return set(attempts["serial"] - attempts["pack_place"].fill_null(1))


WAYS = {"workers": lambda file: run(file, 2), "coordinator": lambda file: coordinated(file, 2)[0]}


@pytest.mark.parametrize("way", [pytest.param("workers", marks=pytest.mark.long), "coordinator"])
def test_shards_pack_their_own_rows_and_end_as_one(way: str, at: SimulatorProcess, tmp_path: Path) -> None:
    """The answers that rows get alone, at what the gateway billed, in as few requests as on one machine."""
    before = charged_credits(at), at.ledger()["count"]
    done = WAYS[way](job_file(at, tmp_path, ROWS, **PACKED))
    assert ("finished", 0) == (done.status, done.exit_code)
    assert charged_credits(at) - before[0] == done.cost_credits
    assert at.ledger()["count"] - before[1] == done.summary["requests"] < ROWS == done.summary["attempts"]
    assert len(_requests(done.attempts().collect())) == done.summary["requests"]
    assert told(done).equals(alone(at, tmp_path / "alone").select("id", "status", "output_text"))
    assert [] == done.verify(data=True)
    assert at.stats()["max_in_flight"] <= 4


@pytest.mark.long
def test_a_worker_that_is_killed_sends_no_answered_row_again(at: SimulatorProcess, tmp_path: Path) -> None:
    """What it had in flight is in doubt, and no more; in the end each row is there once."""
    file = job_file(at, tmp_path, 4 * ROWS, **PACKED)
    before = charged_credits(at), at.ledger()["count"]
    driver = started(file, 2)
    wait_until(lambda: at.ledger()["count"] - before[1] > 8)
    os.kill(workers_of(driver)[0], signal.SIGKILL)
    said, _ = driver.communicate(timeout=120)
    assert 0 == driver.returncode, said.decode()
    done = run(file, 2)
    assert 4 * ROWS == results(done)["id"].n_unique() == results(done).height
    attempts = done.attempts().collect()
    answered = attempts.filter(pl.col("outcome") == "done", pl.col("error_kind").is_null())
    assert 4 * ROWS == answered.height
    doubted = attempts.filter(pl.col("outcome") == "unknown")
    assert len(_requests(doubted)) <= 4
    billed, held = charged_credits(at) - before[0], doubted["held_credits"].sum()
    assert done.cost_credits <= billed <= done.cost_credits + held
    assert [] == done.verify(data=True)


def test_a_pilots_word_on_packing_holds_for_workers_too(tmp_path: Path) -> None:
    """Where answers differ, nothing more is sent packed, by however many processes."""
    with simulator(pack_faults={"wrong": 0.3}) as other:
        file = job_file(other, tmp_path, ROWS, **PACKED)
        run(file, None, pilot=40)
        count = other.ledger()["count"]
        with pytest.raises(crun_batch.RefusedToStart, match="same answer packed and alone"):
            run(file, 2)
        assert count == other.ledger()["count"]
