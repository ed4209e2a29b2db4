"""A table that is changed beside its run: what was paid until then is published, summed up, told; exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit
from test_directory_goes_away import just_before

import crun_batch
from crun_batch.errors import EXIT_INPUT, InputError
from crun_batch.records import Row
from crun_batch.session import on_end
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.state.run_state import RunContext

ROWS = 8
EXACT = {"name": "right", "grader": "exact", "expected": "{{ text }}"}
JUDGE = {"name": "good", "grader": "judge", "model": "gpt-5.4-nano", "labels": {"yes": 1, "no": 0}}


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


def a_job(gateway: SimulatorProcess, folder: Path, **keys: Any) -> crun_batch.Job:
    table = folder / "table.csv"
    table.write_text("id,text\n" + "".join(f"{row},text {row}\n" for row in range(ROWS)))
    return run_kit.job(gateway, folder, input={"table": str(table), "id": "id"}, **keys)


def run(job: crun_batch.Job, **options: Any) -> crun_batch.Run:
    return crun_batch.run(job, environ=run_kit.ENVIRON, handle_signals=False, **options)


@pytest.mark.parametrize("score", [EXACT, JUDGE])
@pytest.mark.parametrize("change", ["emptied", "replaced", "gone"])
def test_what_was_paid_before_the_table_changed_is_published_summed_up_and_told(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: dict[str, Any], change: str
) -> None:
    """Scores need the table, the answers do not; with the table as it was the same run goes on, and pays nothing
    twice."""
    job = a_job(gateway, tmp_path, score=[score])
    table = tmp_path / "table.csv"
    before = table.read_text()
    changed = {
        "emptied": lambda: table.write_text(""),
        "replaced": lambda: table.write_text(before.replace("text 3", "text three")),
        "gone": table.unlink,
    }
    told: list[int] = []
    monkeypatch.setattr(on_end, "tell_of_end", lambda context, summary: told.append(summary["exit_code"]))
    said: list[str] = []
    moment = "session.sending.judge_answers" if score is JUDGE else "session.closing.score_answers"
    with monkeypatch.context() as patched:
        just_before(moment, changed[change], patched)
        with pytest.raises(
            InputError, match=r"table\.csv: (was changed while it was in use|can no longer be read)"
        ):
            run(job, say=said.append)
    stopped = crun_batch.open_run(tmp_path / "run")

    assert ("stopped", EXIT_INPUT, ROWS) == (stopped.status, stopped.exit_code, stopped.summary["rows"]["ok"])
    assert "table.csv" in (stopped.stop_reason or "")
    assert ROWS == pl.read_parquet(tmp_path / "run" / "results.parquet").height
    assert any(f"what came until now is kept: rows {ROWS}: {ROWS} ok; cost " in one for one in said)
    assert [EXIT_INPUT] == told
    table.write_text(before)
    again = run(job)
    asked = again.attempts().collect().filter(pl.col("purpose") == "answer").height
    assert ("finished", ROWS) == (again.status, asked)


def test_rows_that_came_before_the_table_can_no_longer_be_read_are_kept(
    gateway: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in flight are waited for; the others stay open."""
    whole = RunContext.open_rows

    def broken(self: RunContext) -> Iterator[list[Row]]:
        yield next(whole(self))[:5]
        raise InputError("table.csv: was changed while it was in use")

    monkeypatch.setattr(RunContext, "open_rows", broken)
    with pytest.raises(InputError, match="was changed"):
        run(a_job(gateway, tmp_path))
    rows = crun_batch.open_run(tmp_path / "run").summary["rows"]

    assert (5, ROWS - 5) == (rows["ok"], rows["open"])
    assert 5 == pl.read_parquet(tmp_path / "run" / "results.parquet").height
