"""share_identical: of identical requests of one variant and repeat one is sent, the others get its answer."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import ENVIRON, RecordingWire, charged_credits, job, results, run, simulator, spent_credits

from crun_batch import estimate
from crun_batch.records import Row, Unit
from crun_batch.session import sharing
from crun_batch.session.sharing import ENTRY_BYTES, Follower, Sharing
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.events import FinalPart


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


def alike(count: int, distinct: int) -> pl.DataFrame:
    """Rows of which every `distinct`-th asks the same."""
    rows = range(count)
    return pl.DataFrame({"id": [f"r{row}" for row in rows], "text": [f"Text {row % distinct}." for row in rows]})


def answer(row: int, unit_hash: str = "ab" * 16) -> FinalPart:
    return FinalPart(status="ok", text=f"answer {row}", request_hash=unit_hash, cost_usd=5, input_tokens=7)


def follower(row: int, variant: int = 0, repeat: int = 0) -> Follower:
    return Follower(Unit(row, f"r{row}", variant, repeat), Row(row, f"r{row}", {}), None)


# --- who leads and who follows ---------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.booleans()), max_size=40))
def test_one_of_identical_requests_leads(events: list[tuple[int, int, int, bool]]):
    """Per variant, repeat and hash one request goes, and every other unit gets its answer, now or later."""
    shared = Sharing()
    sent: dict[Any, Unit] = {}
    given_answers: list[Unit] = []
    waiting = 0
    for row, (kind, variant, repeat, ends) in enumerate(events):
        unit_hash = f"{kind:032x}"
        asking = follower(row, variant, repeat)
        said = shared.ask(asking, unit_hash)
        key = (variant, repeat, unit_hash)
        if said is True:
            assert key not in sent
            sent[key] = asking.unit
        elif said is None:
            waiting += 1
        else:
            given_answers.append(asking.unit)
            assert f"answer {sent[key].position}" == said.text
        if ends and key in sent:
            freed = shared.answered(sent[key], answer(sent[key].position, unit_hash))
            given_answers += [one.unit for one in freed]
            waiting -= len(freed)
    assert len(events) == len(sent) + len(given_answers) + waiting


def test_a_shared_answer_costs_nothing():
    """No attempt, no token; zero in the units in which the run is priced, and only there."""
    shared = Sharing()
    shared.remember(follower(0).unit, answer(0))
    part = shared.ask(follower(1), "ab" * 16)
    assert isinstance(part, FinalPart)
    assert (0, 0, 0, None, "answer 0") == (
        part.attempt_count,
        part.input_tokens,
        part.cost_usd,
        part.cost_credits,
        part.text,
    )


def test_the_memory_is_bounded():
    """The oldest answers are forgotten, and are asked for anew."""
    shared = Sharing(most_bytes=10 * (ENTRY_BYTES + 150))
    for row in range(100):
        shared.remember(follower(row).unit, answer(row, f"{row:032x}"))
    kept = [row for row in range(100) if shared.ask(follower(row), f"{row:032x}") is not True]
    assert 5 <= len(kept) <= 12 and kept == list(range(100 - len(kept), 100))


# --- whole runs ------------------------------------------------------------------------------------------------


def test_identical_requests_are_sent_once(at: SimulatorProcess, tmp_path: Path):
    """Per variant and repeat; every row has its result; the bill is that of what was sent, and says so."""
    before = charged_credits(at)
    spec = job(at, tmp_path, share_identical=True, repeats=2, sweep={"params.temperature": [0, 1]})
    bill = estimate(spec, table=alike(40, 7), environ=ENVIRON)
    wire = RecordingWire()
    done = run(spec, alike(40, 7), wire=wire)
    rows = results(done)
    assert 7 * 2 * 2 == len(wire.sent) == done.attempts().collect().height == bill["requests"]
    assert (0, 160, {"ok"}) == (done.exit_code, rows.height, set(rows["status"]))
    followers = rows.filter(pl.col("attempt_count") == 0)
    assert 33 * 4 == followers.height == done.summary["shared"]
    assert "132 units given the answer to an identical request" in done.report()
    assert {Decimal(0)} == set(followers["cost_credits"]) and 0 == followers["output_tokens"].sum()
    same = rows.group_by("variant", "repeat", "request_hash").agg(
        pl.col("response_id").n_unique(), pl.col("output_text").n_unique(), pl.col("attempt_count").sum()
    )
    assert {(1, 1, 1)} == set(same.select("response_id", "output_text", "attempt_count").rows())
    assert charged_credits(at) - before == spent_credits(done) == rows["cost_credits"].sum() == done.cost_credits
    assert Decimal(bill["cost_credits"]["low"]) <= spent_credits(done) <= Decimal(bill["cost_credits"]["high"])
    assert [] == done.verify(data=True)


def test_without_the_key_every_row_is_sent(at: SimulatorProcess, tmp_path: Path):
    """It is off by default: repeated rows may be meant."""
    assert 10 == run(job(at, tmp_path), alike(10, 2)).attempts().collect().height


def test_answers_of_earlier_sessions_are_shared(at: SimulatorProcess, tmp_path: Path):
    """Leaders that finished before; typed answers, conversations; rows that come later."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    keys = {"share_identical": True, "prompt": {"turns": ["{{ text }}", "And?"]}, "output_schema": schema}
    first = results(run(job(at, tmp_path, **keys), alike(5, 5)))
    wire = RecordingWire()
    done = run(job(at, tmp_path, **keys), alike(20, 6), wire=wire)
    assert 2 == len(wire.sent)
    rows = results(done)
    told = dict(zip(first["request_hash"], first["outputs"].to_list(), strict=True))
    for row in rows.filter(pl.col("request_hash").is_in(list(told))).iter_rows(named=True):
        assert told[row["request_hash"]] == row["outputs"]
        assert row["output"] is not None
    assert 14 == rows.filter(pl.col("attempt_count") == 0).height


def test_a_failure_is_shared_with_those_who_wait(at: SimulatorProcess, tmp_path: Path):
    """The same request has the same end; asked again, one of them leads again."""
    table = alike(6, 1).with_columns(text=pl.lit("[[fault:400*1]] text"))
    done = run(job(at, tmp_path, share_identical=True), table)
    assert [("error", "bad_request", 6)] == results(done).group_by("status", "error_kind").len().rows()
    assert 1 == done.attempts().collect().height
    again = run(job(at, tmp_path, share_identical=True), table, retry=frozenset({"error"}))
    assert [("ok", 6)] == results(again).group_by("status").len().rows()
    assert 2 == again.attempts().collect().height


def test_a_stop_and_a_restart_share_all_the_same(at: SimulatorProcess, tmp_path: Path):
    """Those who waited at the stop are given the answer that came later."""
    keys: dict[str, Any] = {"share_identical": True, "params": {"max_output_tokens": 60}}
    whole = run(job(at, tmp_path / "whole", **keys), alike(30, 10))
    keys["limits"] = {"concurrency": 2}
    cap = {"budget": {"max_cost_credits": str(spent_credits(whole) / 2), "credits": "off"}}
    stopped = run(job(at, tmp_path, **keys, **cap), alike(30, 10), until_budget=True)
    assert (4, True) == (stopped.exit_code, 0 < results(stopped).height < 30)
    resumed = run(job(at, tmp_path, **keys), alike(30, 10))
    assert 10 == resumed.attempts().collect().height
    same = ["id", "status", "output_text", "request_hash"]
    assert results(whole).select(same).equals(results(resumed).select(same))


def test_rows_that_wait_are_bounded(at: SimulatorProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The source pauses while many wait for one answer, and goes on when it has come."""
    monkeypatch.setattr(sharing, "MOST_WAITING", 5)
    at.change(latency_seconds=0.02)
    done = run(job(at, tmp_path, share_identical=True), alike(3000, 2))
    at.change(latency_seconds=0.0)
    assert (0, 3000, 2) == (done.exit_code, results(done).height, done.attempts().collect().height)
