"""Conversations: each turn a request of its own, the answers so far sent or referred to, resumed anywhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from run_kit import RecordingWire, charged_credits, job, results, run, simulator, spent_credits, texts

from crun_batch import estimate
from crun_batch.errors import InputError, RequestsChanged
from crun_batch.simulator.process import SimulatorProcess

TURNS = {"system": "Be brief.", "turns": ["About {{ text }}", "And then, {{ id }}?", "At last?"]}


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


def said(sent: dict[str, Any]) -> list[tuple[str, str]]:
    """(role, text) of a chat, messages or responses body, the system prompt left out."""
    given = sent.get("messages", sent.get("input"))
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [(item["role"], item["content"]) for item in items if item["role"] != "system"]


@pytest.mark.parametrize("protocol", ["chat", "messages", "responses"])
def test_the_answers_so_far_are_sent_again(at: SimulatorProcess, tmp_path: Path, protocol: str):
    """Turn by turn the conversation grows; every answer is listed, the last one is the text, all are paid."""
    before = charged_credits(at)
    wire = RecordingWire()
    spec = job(at, tmp_path, endpoint={"protocol": protocol}, prompt=TURNS, limits={"concurrency": 1})
    done = run(spec, texts(2), wire=wire)
    for row, sent in zip(results(done).iter_rows(named=True), (wire.sent[:3], wire.sent[3:]), strict=True):
        first, second, third = row["outputs"]
        number = row["id"][1:]
        asked = [
            ("user", f"About Text number {number}."),
            ("user", f"And then, {row['id']}?"),
            ("user", "At last?"),
        ]
        whole = [asked[0], ("assistant", first), asked[1], ("assistant", second), asked[2]]
        assert [whole[:1], whole[:3], whole] == [said(body) for body in sent]
        assert (third, 3, "ok") == (row["output_text"], row["attempt_count"], row["status"])
    attempts = done.attempts().collect()
    assert {(turn, "answer", 2) for turn in range(3)} == set(attempts.group_by("turn", "purpose").len().rows())
    sums = ["input_tokens", "output_tokens", "cost_credits"]
    assert attempts.select(pl.col(sums).sum()).row(0) == results(done).select(pl.col(sums).sum()).row(0)
    assert charged_credits(at) - before == spent_credits(done)


def test_stateful_turns_refer_to_the_answer_before(at: SimulatorProcess, tmp_path: Path):
    """Only the next turn is sent, with the id of the answer before; what the gateway reads is within the hold."""
    wire = RecordingWire()
    spec = job(at, tmp_path, endpoint={"protocol": "responses"}, prompt={**TURNS, "stateful": True})
    done = run(spec, texts(1), wire=wire)
    attempts = done.attempts().sort("turn").collect()
    first, second, third = wire.sent
    assert "previous_response_id" not in first
    assert attempts["response_id"].to_list()[:2] == [second["previous_response_id"], third["previous_response_id"]]
    assert [[("user", "And then, r0?")], [("user", "At last?")]] == [said(second), said(third)]
    assert {"Be brief."} == {sent["instructions"] for sent in wire.sent}
    assert all(attempts["cost_credits"] <= attempts["held_credits"])
    assert attempts["input_tokens"].to_list() == sorted(attempts["input_tokens"])


def test_the_schema_holds_for_the_last_turn(at: SimulatorProcess, tmp_path: Path):
    """The turns before may think aloud; the last one is typed, validated and repaired."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    wire = RecordingWire()
    at.change(malformed_rate=1.0)
    done = run(job(at, tmp_path, prompt=TURNS, output_schema=schema), texts(1), wire=wire)
    at.change(malformed_rate=0.0)
    assert [False, False, True, True] == ["response_format" in sent for sent in wire.sent]
    (row,) = results(done).to_dicts()
    assert ("invalid", 3, row["output_text"]) == (row["status"], len(row["outputs"]), row["outputs"][2])
    purposes = done.attempts().sort("serial").select("turn", "purpose").collect().rows()
    assert [(0, "answer"), (1, "answer"), (2, "answer"), (2, "repair")] == purposes


def test_a_turn_that_is_cut_off_ends_the_conversation(at: SimulatorProcess, tmp_path: Path):
    """Nothing is built, and nothing spent, on half an answer."""
    done = run(job(at, tmp_path, prompt=TURNS, params={"max_output_tokens": 3}), texts(1))
    (row,) = results(done).to_dicts()
    assert ("truncated", 1, [row["output_text"]]) == (row["status"], row["attempt_count"], row["outputs"])


def test_a_turn_that_fails_keeps_the_answers_before(at: SimulatorProcess, tmp_path: Path):
    """They were paid for."""
    prompt = {"turns": ["About {{ text }}", "[[fault:content_filter*9]]"]}
    (row,) = results(run(job(at, tmp_path, prompt=prompt), texts(1))).to_dicts()
    assert ("refused", "content_filter", 2) == (row["status"], row["error_kind"], row["attempt_count"])
    assert row["output_text"] is None and 1 == len(row["outputs"])


def test_a_row_without_a_later_turn_is_not_asked_its_first(at: SimulatorProcess, tmp_path: Path):
    """All turns are rendered before one is paid for."""
    table = pl.DataFrame({"id": ["a", "b"], "text": ["x", None]})
    with pytest.raises(InputError, match=r"prompt.turns\[1\]"):
        run(job(at, tmp_path, prompt={"turns": ["{{ id }}", "{{ text }}"]}), table)


def test_a_changed_later_turn_is_never_mixed_in(at: SimulatorProcess, tmp_path: Path):
    """A conversation is one question: whichever of its turns changes, in the job or in the row."""
    run(job(at, tmp_path, prompt=TURNS), texts(2))
    with pytest.raises(RequestsChanged):
        run(job(at, tmp_path, prompt={**TURNS, "turns": [*TURNS["turns"][:2], "Finally?"]}), texts(2))
    table = texts(2)
    by_row = {"turns": ["About {{ id }}", "{{ text }}"]}
    run(job(at, tmp_path / "rows", prompt=by_row), table)
    with pytest.raises(RequestsChanged):
        run(job(at, tmp_path / "rows", prompt=by_row), table.with_columns(text=pl.col("text") + "!"))


def test_the_estimate_counts_every_turn(at: SimulatorProcess, tmp_path: Path):
    """Later turns carry the answers before: one token each at the low end, their limit at the high end."""
    spec = job(at, tmp_path, prompt=TURNS)
    bill = estimate(spec, table=texts(10), environ={"SIM_KEY": "ak_sim_test"})
    done = run(spec, texts(10))
    low, high = (Decimal(bill["cost_credits"][end]) for end in ("low", "high"))
    assert 30 == bill["requests"] == done.attempts().select(pl.len()).collect().item()
    assert low <= spent_credits(done) <= high


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from run_kit import *
from test_turns import TURNS
at = SimulatorProcess()
at.base_url = {base_url!r}
run(job(at, Path({folder!r}), prompt=TURNS, limits={{"concurrency": 5}}), texts(20))
"""


def test_a_conversation_goes_on_where_a_kill_stopped_it(at: SimulatorProcess, tmp_path: Path):
    """kill -9 amid the turns: no recorded turn is asked again, and the results are those of one go."""
    whole = run(job(at, tmp_path / "whole", prompt=TURNS), texts(20))
    at.change(latency_seconds=0.05)
    before = at.ledger()["count"]
    code = KILLED.format(tests=str(Path(__file__).parent), base_url=at.base_url, folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 30
    while at.ledger()["count"] - before < 23 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    recorded = _recorded_turns(tmp_path / "run")
    assert 0 < len(recorded) < 60
    assert {0, 1} <= {turn for _, turn in recorded}
    at.change(latency_seconds=0.0)
    wire = RecordingWire()
    done = run(job(at, tmp_path, prompt=TURNS, limits={"concurrency": 5}), texts(20), wire=wire)
    assert len(wire.sent) == 60 - len(recorded)
    answered = done.attempts().filter(pl.col("outcome") == "done").select("id", "turn").collect()
    assert answered.height == answered.unique().height == 60
    assert at.ledger()["count"] - before <= 60 + 5
    same = ["id", "status", "outputs", "output_text", "request_hash"]
    assert results(whole).select(same).equals(results(done).select(same))


def _recorded_turns(folder: Path) -> set[tuple[str, int]]:
    """(id, turn) of every answer whose raw body is in the journal."""
    lines = [
        line[:-10] for path in (folder / "journal").glob("*.jsonl") for line in path.read_bytes().splitlines(True)
    ]
    events = [orjson.loads(line) for line in lines if line.endswith(b"}")]
    starts = {event["n"]: (event["id"], event.get("turn", 0)) for event in events if event["e"] == "start"}
    return {starts[event["n"]] for event in events if event["e"] == "end" and event.get("http_status") == 200}
