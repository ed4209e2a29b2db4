"""Units that are asked again: their results sum up all their attempts, whenever they were made."""

from __future__ import annotations

from decimal import Decimal

import polars as pl
import pytest

import crun_batch
from crun_batch.pricing.account import Sums
from crun_batch.simulator import SimulatorProcess, read_settings
from crun_batch.state.summary import settled
from crun_batch.store.verify import verify

KEY = "ak_sim_reopening"


@pytest.fixture
def simulator():
    with SimulatorProcess(read_settings({"tokenizer": "words"})) as process:
        yield process


def job_of(simulator, folder, rows):
    table = folder / "table.csv"
    pl.DataFrame(rows).write_csv(table)
    return crun_batch.Job(
        name="reopening",
        base_dir=folder,
        input={"table": "table.csv", "id": "key"},
        endpoint={"base_url": simulator.base_url, "api_key_env": "KEY"},
        model="gpt-5.4",
        prompt={"user": "{{ text }}"},
        params={"max_output_tokens": 50},
        limits={"max_attempts": 2, "stop_at_error_rate": 1.0},
        prices={
            "models": {
                "gpt-5.4": {
                    "currency": "credits",
                    "input_per_mtok": 500,
                    "output_per_mtok": 3000,
                    "minimum_per_request": "0.01",
                }
            }
        },
        output={"dir": str(folder / "run")},
    )


def results_and_attempts(run):
    results, attempts = run.results().collect(), run.attempts().collect()
    sums = attempts.group_by("key").agg(
        pl.len().alias("attempts"), pl.col("cost_credits").sum(), pl.col("output_tokens").sum()
    )
    return results, attempts, sums


def test_retry_asks_only_the_rows_of_that_kind_and_sums_up_all_their_attempts(simulator, tmp_path):
    rows = {"key": ["a", "b"], "text": ["plain", "[[fault:500*3]] twice refused, then once more, then answered"]}
    job = job_of(simulator, tmp_path, rows)
    first = crun_batch.run(job, environ={"KEY": KEY})
    assert (1, {"ok": 1, "error": 1}) == (
        first.exit_code,
        {status: count for status, count in first.summary["rows"].items() if status in ("ok", "error")},
    )
    again = crun_batch.run(job, environ={"KEY": KEY})
    assert first.summary["attempts"] == again.summary["attempts"]

    retried = crun_batch.run(job, environ={"KEY": KEY}, retry=frozenset({"server"}))
    results, attempts, sums = results_and_attempts(retried)
    assert 0 == retried.exit_code
    assert {} == retried.summary["errors"]
    assert {"a": 1, "b": 4} == dict(results.select("key", "attempt_count").rows())
    assert dict(sums.select("key", "attempts").rows()) == dict(results.select("key", "attempt_count").rows())
    assert [1, 2, 3, 4] == sorted(attempts.filter(pl.col("key") == "b")["attempt"])
    assert results["cost_credits"].sum() == attempts["cost_credits"].sum() == retried.cost_credits
    assert [] == [finding for finding in verify(retried.directory, data=True) if finding.severity == "error"]


def test_a_row_that_is_asked_again_is_open_and_counted_once(simulator, tmp_path):
    """In summary, status and metadata, where a session ends before it has asked; the next finds it as it was."""
    fault = "[[fault:500*3]] twice refused"
    job = job_of(simulator, tmp_path, {"key": ["a", "b", "c"], "text": ["plain", fault, f"{fault}, too"]})
    first = crun_batch.run(job, environ={"KEY": KEY})
    cap = {"max_cost_credits": str(first.cost_credits + Decimal("0.000001")), "until_budget": True}
    stopped = crun_batch.run(job, environ={"KEY": KEY}, retry=frozenset({"server"}), **cap)
    told = {"total": 3, "ok": 1, "invalid": 0, "truncated": 0, "refused": 0, "error": 0, "open": 2}
    assert (4, told, {}) == (stopped.exit_code, stopped.summary["rows"], stopped.summary["errors"])
    assert ({"error:server": 2}, told) == (stopped.summary["reopened"], crun_batch.status(stopped)["units"])
    said = pl.read_parquet_metadata(tmp_path / "run" / "results.parquet")
    assert ("false", "3", "2") == tuple(said[name] for name in ("complete", "rows_total", "rows_open"))
    again = crun_batch.run(job, environ={"KEY": KEY})
    assert ({**told, "error": 2, "open": 0}, {}) == (again.summary["rows"], again.summary["reopened"])
    retried = crun_batch.run(job, environ={"KEY": KEY}, retry=frozenset({"server"}))
    assert ({**told, "ok": 3, "open": 0}, {}) == (retried.summary["rows"], retried.summary["reopened"])


def test_what_is_asked_again_is_taken_off_what_is_finished():
    """By status and kind, never below none: what a running session has asked since is in its journal already."""
    totals = Sums(statuses={"ok": 5, "error": 3, "invalid": 1}, error_kinds={"server": 2, "timeout": 1})
    found = settled(totals, {"error:server": 2, "error:timeout": 2, "invalid": 1})
    assert ({"ok": 5, "error": 0, "invalid": 0}, {"server": 0, "timeout": 0}) == found


def test_redo_changed_pays_for_the_changed_row_only_and_keeps_its_earlier_cost(simulator, tmp_path):
    job = job_of(simulator, tmp_path, {"key": ["a", "b"], "text": ["one", "two"]})
    first = crun_batch.run(job, environ={"KEY": KEY})
    job = job_of(simulator, tmp_path, {"key": ["a", "b"], "text": ["one", "three"]})
    with pytest.raises(crun_batch.RequestsChanged, match=r"1 finished row[\s\S]*- two[\s\S]*\+ three"):
        crun_batch.run(job, environ={"KEY": KEY})

    redone = crun_batch.run(job, environ={"KEY": KEY}, redo_changed=True)
    results, attempts, _ = results_and_attempts(redone)
    assert {"a": 1, "b": 2} == dict(results.select("key", "attempt_count").rows())
    assert 3 == attempts.height
    assert results["cost_credits"].sum() == attempts["cost_credits"].sum() == redone.cost_credits
    assert redone.cost_credits > first.cost_credits
    assert [] == [finding for finding in verify(redone.directory, data=True) if finding.severity == "error"]
