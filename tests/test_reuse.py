"""The laws of reuse: an earlier run's answer to the same request is taken over, marked, and costs nothing."""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from bill_kit import MODEL, PRICE, Bench, gateway, sums_of_attempts
from run_kit import wait_until

from crun_batch import InputError, RunDamaged, check, open_run, report
from crun_batch.console.estimates import estimate_text
from crun_batch.console.words import summary_text
from crun_batch.simulator import SimulatorProcess
from crun_batch.store.directory import RunDirectory

ANSWERS = ("id", "status", "output_text", "finish_reason", "model", "response_id", "request_hash")


def second_of(bench: Bench, **changes: Any) -> Path:
    """The job writes into another directory and takes over from its first one; the folder's name."""
    folder = bench.folder / "second"
    bench.write(output={"dir": str(folder)}, reuse=[str(bench.run_folder)], **changes)
    return folder


def kill_after(bench: Bench, answers: int) -> None:
    """Start the job in a process, and kill -9 it once so many requests are answered."""
    process = bench.start()
    try:
        wait_until(lambda: bench.answered > answers, seconds=150)
    finally:
        process.kill()
        process.communicate()


def answers(run: Any) -> list[dict[str, Any]]:
    """What the run's results say, without where they are from."""
    return run.results().sort("id", "repeat").select(ANSWERS).collect().to_dicts()


def test_answers_are_taken_over_at_no_cost(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Nothing is sent, every row is there and marked, and what it saved is what it had cost."""
    bench = Bench(tmp_path, simulator)
    first = bench.run()
    sent = bench.answered
    second_of(bench)
    estimated = bench.estimate()
    run = bench.run()
    assert (sent, 0) == (bench.answered, run.summary["attempts"])
    assert answers(first) == answers(run)
    frame = run.results().collect()
    assert {str(bench.run_folder)} == {*frame["reused_from"]}
    assert {Decimal(0)} == {*frame["cost_credits"]}
    assert {0} == {*frame["attempt_count"], *frame["input_tokens"]}
    saved = {"rows": 40, "of_known_cost": 40, "saved_usd": None, "saved_credits": first.summary["cost_credits"]}
    assert saved == run.summary["reused"] == estimated["reused"]
    assert (0, "0") == (estimated["requests"], estimated["cost_credits"]["high"])
    assert "40 answers of earlier runs, which had cost" in summary_text(run.summary)
    assert "40 answers of earlier runs, which had cost" in estimate_text(estimated)
    assert "Taken over: 40 answers of earlier runs, which had cost" in report(run).text()
    assert {None} == {*first.results().collect()["reused_from"]}
    assert [] == run.verify(data=True)


@pytest.mark.parametrize("shares_here", [True, False])
def test_an_answer_that_several_rows_were_given_had_cost_once(
    simulator: SimulatorProcess, tmp_path: Path, shares_here: bool
) -> None:
    """What was saved is what the ledger of the earlier run has, however many rows share an answer there."""
    bench = Bench(tmp_path, simulator)
    bench.write(prompt={"user": "Is {{ id % 4 }} even?"}, share_identical=True)
    first = bench.run()
    assert 36 == first.summary["shared"]
    second_of(bench, share_identical=shares_here)
    assert bench.estimate()["reused"] == bench.run().summary["reused"]
    told = open_run(tmp_path / "second").summary["reused"]
    assert (40, 40, first.summary["cost_credits"]) == tuple(
        told[key] for key in ("rows", "of_known_cost", "saved_credits")
    )


def test_rows_that_are_new_are_asked(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """The bill is that of the new rows, to the last digit, as the ledger has it."""
    bench = Bench(tmp_path, simulator)
    first = bench.run(limit=25)
    before = bench.charged
    second_of(bench)
    low, high = (Decimal(bench.estimate()["cost_credits"][end]) for end in ("low", "high"))
    run = bench.run()
    assert 15 == run.summary["attempts"]
    assert {bench.charged - before} == {run.cost_credits} | sums_of_attempts(run)
    assert low <= (run.cost_credits or 0) <= high
    assert 25 == run.summary["reused"]["rows"]
    assert answers(first) == [one for one in answers(run) if one["id"] < 1025]


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({"model": "gpt-5.4", "prices": {"models": {"gpt-5.4": PRICE}}}, 0),
        ({"params": {"max_output_tokens": 201}}, 0),
        ({"params": {"temperature": 0}}, 0),
        ({"prompt": {"system": "Be brief."}}, 0),
        ({"endpoint": {"protocol": "messages"}}, 0),
        ({"limits": {"concurrency": 3}}, 40),
        ({"budget": {"max_cost_credits": "1"}}, 40),
        ({"repeats": 2}, 40),
    ],
)
def test_only_the_same_request_is_taken(
    simulator: SimulatorProcess, tmp_path: Path, changes: dict[str, Any], taken: int
) -> None:
    """Another model, param, prompt or path asks something else; a repeat is not the answer to another repeat."""
    bench = Bench(tmp_path, simulator)
    bench.run()
    second_of(bench, **changes)
    run = bench.run()
    assert taken == run.summary["reused"]["rows"]
    assert 40 * changes.get("repeats", 1) == sum(run.summary["units"][key] for key in ("ok", "truncated"))
    assert 40 * changes.get("repeats", 1) - taken == run.summary["attempts"]


def test_another_gateways_answers_are_refused_with_words(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """A model of the same name elsewhere is another model; nothing is sent, and no directory is left."""
    bench = Bench(tmp_path, simulator)
    bench.run()
    with gateway() as other:
        folder = second_of(bench, endpoint={"base_url": other.base_url})
        with pytest.raises(InputError, match="another gateway's answers are not taken over"):
            bench.run()
        assert 0 == other.ledger()["count"]
    assert not folder.exists()


def test_an_axis_of_gateways_takes_each_its_own(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """The same request at two addresses is two questions."""
    with gateway(seed=5) as other:
        axis = {"who": {"a": {}, "b": {"endpoint": {"base_url": other.base_url}}}}
        bench = Bench(tmp_path, simulator, rows=6, sweep=axis)
        first = bench.run()
        second_of(bench)
        run = bench.run()
        texts = [
            one.results().sort("id", "variant").select("id", "variant", "output_text").collect().rows()
            for one in (first, run)
        ]
        assert texts[0] == texts[1]
        assert 12 == run.summary["reused"]["rows"]
        by_row = run.results().collect().group_by("id").agg(pl.col("output_text").n_unique())
        assert {2} == {*by_row["output_text"]}


def test_failures_and_what_is_asked_again_are_sent(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """An error is no answer; --retry asks the gateway, not the earlier run."""
    simulator.change(faults={"400": 0.3})
    bench = Bench(tmp_path, simulator)
    failed = bench.run().summary["rows"]["error"]
    assert 0 < failed < 40
    simulator.change(faults={})
    second_of(bench)
    run = bench.run()
    assert (failed, 40 - failed) == (run.summary["attempts"], run.summary["reused"]["rows"])
    again = bench.run(retry="all")
    assert 40 + failed == again.summary["attempts"]
    assert {None} == {*again.results().collect()["reused_from"]}
    assert [] == again.verify(data=True)


def test_a_kill_asks_nothing_twice_and_takes_nothing_twice(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Taken over and answered before a kill -9 is so after it; the whole is what an uninterrupted run would be."""
    bench = Bench(tmp_path, simulator, rows=300)
    bench.run(limit=150)
    simulator.change(latency_seconds=0.05)
    folder = second_of(bench)
    before, charged = bench.answered, bench.charged
    kill_after(bench, before + 20)
    simulator.change(latency_seconds=0.0)
    recorded = (
        open_run(folder).sql("select count(*) as n from results where reused_from is not null")["n"][0].as_py()
    )
    run = bench.run()
    assert 150 == recorded == run.summary["reused"]["rows"]
    assert 300 == run.results().collect().height == run.results().collect()["id"].n_unique()
    bill = run.summary["bill_credits"]
    assert Decimal(bill["low"]) <= bench.charged - charged <= Decimal(bill["high"])
    assert bench.answered - before <= 150 + 8
    assert [] == run.verify(data=True)


def test_what_was_taken_over_needs_the_earlier_run_no_more(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Once recorded it is this run's own; a run that is gone is told, and the rest can be asked without it."""
    bench = Bench(tmp_path, simulator)
    bench.run(limit=20)
    second_of(bench)
    bench.run(limit=20)
    shutil.rmtree(bench.run_folder)
    with pytest.raises(InputError, match="no run directory of that name"):
        bench.run()
    bench.write(reuse=None)
    run = bench.run()
    assert (20, 20) == (run.summary["reused"]["rows"], run.summary["attempts"])
    assert [] == run.verify(data=True)


def test_a_killed_runs_answers_are_taken_from_its_journal(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """What was recorded was paid, published or not."""
    simulator.change(latency_seconds=0.05)
    bench = Bench(tmp_path, simulator, rows=120)
    kill_after(bench, 30)
    simulator.change(latency_seconds=0.0)
    recorded = open_run(bench.run_folder).results().collect().height
    second_of(bench)
    run = bench.run()
    assert recorded > 0
    assert (recorded, 120 - recorded) == (run.summary["reused"]["rows"], run.summary["attempts"])


@pytest.mark.parametrize("what", ["part", "job.json", "manifest"])
def test_a_damaged_run_is_refused(simulator: SimulatorProcess, tmp_path: Path, what: str) -> None:
    """One flipped bit in what would be read, and nothing is taken; the file is named."""
    bench = Bench(tmp_path, simulator)
    bench.run()
    files = RunDirectory(bench.run_folder)
    file = {"part": files.part(files.sealed_files()[0]), "job.json": files.job, "manifest": files.manifest}[what]
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(bytes(data))
    folder = second_of(bench)
    with pytest.raises(RunDamaged, match=file.name):
        bench.run()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere", "no run directory of that name"),
        ("empty", "holds no run"),
        ("second", "this run's own directory"),
    ],
)
def test_what_is_no_earlier_run_is_refused_with_its_key(
    simulator: SimulatorProcess, tmp_path: Path, name: str, says: str
) -> None:
    """By check, estimate and run alike."""
    bench = Bench(tmp_path, simulator)
    (tmp_path / "empty").mkdir()
    if name == "second":
        bench.write(output={"dir": str(tmp_path / "second")})
        bench.run(limit=3)
    bench.write(output={"dir": str(tmp_path / "second")}, reuse=[str(bench.folder / name)])
    checked = check(bench.job_file)["mistakes"]
    assert ["reuse[0]"] == [mistake["key"] for mistake in checked]
    for call in (bench.estimate, bench.run):
        with pytest.raises(InputError, match=says) as refused:
            call()
        assert "reuse[0]" in str(refused.value)
    assert bench.answered == (3 if name == "second" else 0)


def test_conversations_are_taken_whole_and_judges_are_asked(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """All turns or none; a verdict belongs to the run that asked for it."""
    bench = Bench(tmp_path, simulator, rows=6, prompt=None)
    bench.write(prompt={"turns": ["{{ text }}", "And then?"]})
    first = bench.run()
    judge = {
        "name": "good",
        "grader": "judge",
        "model": MODEL,
        "params": {"max_output_tokens": 100},
        "prompt": {"user": "Is this good? {{ output_text }}"},
    }
    second_of(bench, score=[judge])
    run = bench.run()
    outputs = [one.results().sort("id").collect()["outputs"].to_list() for one in (first, run)]
    assert outputs[0] == outputs[1]
    assert (6, 6) == (run.summary["reused"]["rows"], run.summary["judges"]["good"]["answered"])
    bench.write(
        output={"dir": str(tmp_path / "third")}, prompt={"turns": ["{{ text }}", "And before?"]}, score=None
    )
    assert 0 == bench.run().summary["reused"]["rows"]


def test_an_output_schema_has_its_column(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Typed as if it had been asked here."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    bench = Bench(tmp_path, simulator, rows=6, output_schema=schema)
    first = bench.run()
    second_of(bench)
    run = bench.run()
    both = [one.results().sort("id").collect()["output"].to_list() for one in (first, run)]
    assert both[0] == both[1]
    assert 6 == run.summary["reused"]["rows"]


def test_the_first_of_several_runs_that_has_it_gives_it(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """In the order in which they are named; a copy of a copy names the run that it was taken from."""
    bench = Bench(tmp_path, simulator, rows=9)
    bench.run(limit=3)
    folder = second_of(bench)
    bench.run(limit=6)
    bench.write(output={"dir": str(tmp_path / "third")}, reuse=[str(folder), str(bench.run_folder)])
    run = bench.run()
    assert {str(folder): 6, None: 3} == dict(run.results().collect().group_by("reused_from").len().rows())
    assert (6, 3) == (run.summary["reused"]["rows"], run.summary["reused"]["of_known_cost"])


def test_a_partial_file_says_so_itself(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """Whoever finds results.parquet alone reads from its metadata whether all of it is there."""
    bench = Bench(tmp_path, simulator)

    def said() -> dict[str, str]:
        found = pq.read_schema(bench.run_folder / "results.parquet").metadata
        return {name: found[name.encode()].decode() for name in ("complete", "rows_total", "rows_open")}

    bench.run(pilot=10)
    assert {"complete": "false", "rows_total": "40", "rows_open": "30"} == said()
    bench.run()
    assert {"complete": "true", "rows_total": "40", "rows_open": "0"} == said()
    bench.write(repeats=2)
    simulator.change(balance_credits="0.001")
    bench.write(budget={"credits": "off"})
    assert 4 == bench.run().exit_code
    assert ("false", "80") == (said()["complete"], said()["rows_total"])


def test_the_job_says_which_runs(simulator: SimulatorProcess, tmp_path: Path) -> None:
    """One name or a list; an empty one is a mistake."""
    bench = Bench(tmp_path, simulator, rows=3)
    bench.run()
    second_of(bench)
    bench.write(reuse=str(bench.run_folder))
    assert 3 == bench.run().summary["reused"]["rows"]
    recorded = json.loads((tmp_path / "second" / "job.json").read_text())["job"]["reuse"]
    assert str(bench.run_folder) == recorded
