"""The laws of judges: a model grades each stored answer, at its own endpoint, and no verdict is paid for twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from run_kit import PRICES, charged_credits, job, results, simulator, spent_credits

import crun_batch
from crun_batch.preflight.check import check_job
from crun_batch.pricing.projection import projected_pico
from crun_batch.session.judge_recorder import JudgeRecorder
from crun_batch.simulator.process import SimulatorProcess

JUDGE_KEY = "ak_judge_0123456789abcdef"
ENVIRON = {"SIM_KEY": "ak_sim_test", "JUDGE_KEY": JUDGE_KEY}
SWEEP = {"sweep": {"model": ["gpt-5.4", "gpt-5.4-nano"]}}


@pytest.fixture(scope="module")
def at():
    with simulator() as process:
        yield process


@pytest.fixture(scope="module")
def court():
    """The judges' gateway, which takes another key."""
    with simulator(keys={"judge": JUDGE_KEY}, stream_style="openai") as process:
        yield process


def texts(count: int, **columns: Any) -> pl.DataFrame:
    table = pl.DataFrame(
        {"id": [f"r{n}" for n in range(count)], "text": [f"Text number {n}." for n in range(count)]}
    )
    return table.with_columns(**columns)


def judge(court: SimulatorProcess, name: str = "quality", **keys: Any) -> dict[str, Any]:
    return {
        "name": name,
        "grader": "judge",
        "model": "gpt-5.4-mini",
        "endpoint": {"base_url": court.base_url, "api_key_env": "JUDGE_KEY"},
        "params": {"max_output_tokens": 200},
        **keys,
    }


def run(spec: crun_batch.Job, table: pl.DataFrame, **options: Any) -> crun_batch.Run:
    options = {"environ": ENVIRON, "handle_signals": False, **options}
    return crun_batch.run(spec, table=table, **options)


def asked(*gateways: SimulatorProcess) -> list[int]:
    return [gateway.ledger()["count"] for gateway in gateways]


def judged(done: crun_batch.Run) -> pl.DataFrame:
    return done.attempts().filter(pl.col("purpose") == "judge").collect()


def said_scores(done: crun_batch.Run, key: str = "score") -> dict[tuple[str, str, int], float]:
    """What the judge's replies say, by unit."""
    answered = judged(done).filter(pl.col("outcome") == "done")
    units = answered.select("id", "variant", "repeat", "reply_body").rows()
    return {
        (*unit,): json.loads(json.loads(body)["choices"][0]["message"]["content"])[key] for *unit, body in units
    }


def scores(done: crun_batch.Run, name: str = "quality") -> dict[tuple[str, str, int], float | None]:
    rows = done.results().select("id", "variant", "repeat", f"score_{name}").collect().rows()
    return {(*unit,): score for *unit, score in rows}


def test_each_answer_of_a_sweep_with_repeats_is_judged_once(at, court, tmp_path):
    """The score is what the reply says; each gateway got its own requests; the bill is that of both."""
    before = asked(at, court)
    charged = charged_credits(at) + charged_credits(court)
    done = run(job(at, tmp_path, **SWEEP, repeats=2, score=[judge(court)]), texts(12))
    assert [before[0] + 48, before[1] + 48] == asked(at, court)
    assert (0, 48) == (done.exit_code, len(scores(done)))
    assert said_scores(done) == scores(done)
    assert all(0 <= score <= 1 for score in scores(done).values())
    assert charged_credits(at) + charged_credits(court) - charged == spent_credits(done) == done.cost_credits
    own = done.attempts().filter(pl.col("purpose") != "judge").group_by("id", "variant", "repeat")
    sums = own.agg(pl.col("cost_credits").sum().alias("own")).collect()
    rows = results(done).join(sums, on=["id", "variant", "repeat"])
    assert rows["own"].to_list() == rows["cost_credits"].to_list(), "a row costs what its answer cost"
    assert {"quality"} == set(judged(done)["judge"])
    assert {48} == {done.summary["judges"]["quality"][name] for name in ("attempts", "answered")}
    assert [] == done.verify(data=True)
    published = pl.read_parquet(tmp_path / "run" / "results.parquet")
    assert sorted(scores(done).values()) == published["score_quality"].sort().to_list()


def test_a_finished_run_with_its_verdicts_sends_nothing(at, court, tmp_path):
    """Also with its judge renamed, read by another scale of words, put beside others, or dropped."""
    table = texts(8)
    schema = {"type": "object", "properties": {"grade": {"enum": ["good", "bad"]}}, "required": ["grade"]}
    own = {"prompt": {"user": "Grade: {{ output_text }}"}, "output_schema": schema, "field": "grade"}
    first = run(job(at, tmp_path, score=[judge(court, labels={"good": 1, "bad": 0}, **own)]), table)
    before = asked(at, court)
    former = scores(first)
    assert {"good": 1.0, "bad": 0.0} == {
        grade: former[unit] for unit, grade in said_scores(first, "grade").items()
    }
    renamed = judge(court, "other", labels={"good": 0.25, "bad": 0.75}, **own)
    length = {"name": "length", "grader": "regex", "pattern": "."}
    done = run(job(at, tmp_path, score=[length, renamed]), table)
    expected = {unit: 0.25 if score else 0.75 for unit, score in former.items()}
    assert expected == scores(done, "other")
    done = run(job(at, tmp_path, score=[length]), table)
    assert ["score_length"] == [name for name in results(done).columns if name.startswith("score_")]
    done = run(job(at, tmp_path, score=[renamed]), table)
    assert expected == scores(done, "other")
    assert before == asked(at, court)
    assert [] == done.verify(data=True)


def test_editing_score_sends_nothing_but_the_missing_questions(at, court, tmp_path):
    """A judge for answers that are there; a second one; another question; rows that come later."""
    run(job(at, tmp_path), texts(6))
    rows, questions = asked(at, court)
    assert 0 == run(job(at, tmp_path, score=[judge(court)]), texts(6)).exit_code
    assert [rows, questions + 6] == asked(at, court)
    both = [judge(court), judge(court, "tone", prompt={"user": "Is this polite? {{ output_text }}"})]
    run(job(at, tmp_path, score=both), texts(6))
    assert [rows, questions + 12] == asked(at, court)
    both[1]["prompt"] = {"user": "Is that polite? {{ output_text }}"}
    run(job(at, tmp_path, score=both), texts(6))
    assert [rows, questions + 18] == asked(at, court)
    done = run(job(at, tmp_path, score=both), texts(9))
    assert [rows + 3, questions + 24] == asked(at, court)
    assert 0 == results(done)["score_tone"].null_count() + results(done)["score_quality"].null_count()
    assert [] == done.verify(data=True)


def test_the_judge_sees_the_row_the_request_and_the_answer(at, court, tmp_path):
    """In its own words, or in ours; a row that expects nothing is not asked about."""
    table = texts(3, gold=pl.Series(["one", None, "three"]))
    seen = RecordingWire()
    own = judge(
        court, expected="{{ gold }}", prompt={"system": "S", "user": "{{ id }}|{{ request }}|{{ expected }}"}
    )
    done = run(job(at, tmp_path, score=[own]), table, wire=seen)
    assert {"r0|Text number 0.|one", "r2|Text number 2.|three"} == seen.questions(court)
    assert ["r1"] == results(done).filter(pl.col("score_quality").is_null())["id"].to_list()
    seen = RecordingWire()
    done = run(job(at, tmp_path, score=[judge(court, expected="{{ gold }}")]), table, wire=seen)
    answer = results(done)["output_text"][0]
    assert (
        f"<request>\nText number 0.\n</request>\n\n<expected>\none\n</expected>\n\n<answer>\n{answer}\n</answer>"
        in (seen.questions(court))
    )


class RecordingWire:
    """The real wire, remembering what was asked where."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, str]] = []

    def __call__(self, job: crun_batch.Job) -> RecordingWire:
        from crun_batch.gateway.http.wire import open_wire

        self._wire = open_wire(connections=4)
        return self

    def questions(self, gateway: SimulatorProcess) -> set[str]:
        return {text for url, text in self._sent if url.startswith(gateway.base_url)}

    async def post(self, url: str, headers: Any, body: bytes, deadline_seconds: float) -> Any:
        self._sent.append((url, json.loads(body)["messages"][-1]["content"]))
        return await self._wire.post(url, headers, body, deadline_seconds)

    async def close(self) -> None:
        await self._wire.close()


def test_one_budget_holds_for_answers_and_judges(at, court, tmp_path):
    """What is left for judges is used and never passed; with more of it the rest is asked, nothing twice."""
    table, score = texts(20), [judge(court)]
    whole = run(job(at, tmp_path / "whole", score=score), table)
    verdicts = Decimal(whole.summary["judges"]["quality"]["cost_credits"])
    answers = spent_credits(run(job(at, tmp_path), table))
    assert answers + verdicts == spent_credits(whole)
    before = asked(at, court)
    cap = answers + verdicts * Decimal("0.7")
    spec = job(at, tmp_path, score=score, budget={"max_cost_credits": str(cap)}, limits={"concurrency": 2})
    stopped = run(spec, table, until_budget=True)
    assert 4 == stopped.exit_code
    assert "budget.max_cost_credits" in (stopped.stop_reason or "")
    assert answers < spent_credits(stopped) <= cap
    missing = results(stopped)["score_quality"].null_count()
    assert 0 < missing < 20
    refused = job(at, tmp_path, score=score, budget={"max_cost_credits": str(spent_credits(stopped))})
    with pytest.raises(crun_batch.RefusedToStart, match="the judges of what is answered"):
        run(refused, table)
    done = run(job(at, tmp_path, score=score, budget={"max_cost_credits": "1000"}), table)
    assert [before[0], before[1] + 20] == asked(at, court)
    assert scores(whole) == scores(done)
    assert [] == done.verify(data=True)


def test_the_estimate_has_a_line_for_each_judge(at, court, tmp_path):
    """As many questions as answers are expected; of stored ones those without a verdict; it bounds the cost."""
    table, spec = texts(10), job(at, tmp_path, score=[judge(court)], repeats=2)

    def lines(spec: crun_batch.Job) -> dict[str, tuple[int, str, str]]:
        document = crun_batch.estimate(spec, table=table, environ=ENVIRON)
        costs = {line["name"]: (line["requests"], line["cost_credits"]) for line in document["variants"]}
        return {name: (requests, cost["low"], cost["high"]) for name, (requests, cost) in costs.items()}

    found = lines(spec)
    assert ["default", "judge quality"] == list(found)
    done = run(spec, table)
    requests, low, high = found["judge quality"]
    cost = Decimal(done.summary["judges"]["quality"]["cost_credits"])
    assert 20 == requests
    assert Decimal(low) <= cost <= Decimal(high)
    assert {} == {name: line for name, line in lines(spec).items() if line[0]}
    more = job(
        at, tmp_path, score=[judge(court), judge(court, "tone", params={"max_output_tokens": 9})], repeats=3
    )
    assert {"default": 10, "judge quality": 10, "judge tone": 10, "judge tone, stored answers": 20} == {
        name: line[0] for name, line in lines(more).items()
    }


def test_a_gateway_that_refuses_the_judge_stops_the_run_before_money_is_spent(at, court, tmp_path):
    """An unknown model, a wrong key, no key, no bound under a budget."""
    table, before = texts(3), asked(at, court)
    unknown = run(job(at, tmp_path / "a", score=[judge(court, model="gpt-5.4-minni")]), table)
    assert (5, True) == (unknown.exit_code, "gpt-5.4-minni" in (unknown.stop_reason or ""))
    wrong = run(job(at, tmp_path / "b", score=[judge(court)]), table, environ={**ENVIRON, "JUDGE_KEY": "ak_wrong"})
    assert (5, True) == (wrong.exit_code, "key" in (wrong.stop_reason or ""))
    with pytest.raises(
        crun_batch.InputError, match=r"score\[0\].endpoint.api_key_env.*JUDGE_KEY is not set.*judge q"
    ):
        run(job(at, tmp_path / "c", score=[judge(court)]), table, environ={"SIM_KEY": "ak_sim"})
    with pytest.raises(crun_batch.InputError, match=r"max_output_tokens.*judge quality"):
        run(job(at, tmp_path, score=[judge(court, params={})], budget={"max_cost_credits": "9"}), table)
    assert before == asked(at, court)


def test_a_question_that_failed_is_told_of_and_asked_again(at, court, tmp_path):
    """Its score is null, the run ends with 1; the next start asks it and nothing else."""
    table = texts(6, mark=pl.Series(["", "", "[[fault:400]]", "", "", ""]))
    said: list[str] = []
    spec = job(at, tmp_path, score=[judge(court, prompt={"user": "{{ mark }} {{ output_text }}"})])
    before = asked(at, court)
    done = run(spec, table, say=said.append)
    assert (1, "finished") == (done.exit_code, done.status)
    assert "1 questions to judges failed" in (done.stop_reason or "")
    assert ["r2"] == results(done).filter(pl.col("score_quality").is_null())["id"].to_list()
    assert any("1 answer waits for the judge's verdict" in sentence for sentence in said)
    assert [] == done.verify(data=True)
    done = run(spec, table)
    assert (0, 0) == (done.exit_code, results(done)["score_quality"].null_count())
    assert [before[0] + 6, before[1] + 6] == asked(at, court)
    assert 7 == judged(done).height
    assert [] == done.verify(data=True)


def test_a_verdict_that_says_nothing_is_null_and_is_not_asked_again(at, tmp_path):
    """It was paid for; that is said, with how many and where."""
    with simulator(malformed_rate=1.0) as court:
        said: list[str] = []
        score = [
            judge(court, endpoint={"base_url": court.base_url, "api_key_env": "SIM_KEY"}, labels={"a": 1, "b": 0})
        ]
        done = run(job(at, tmp_path, score=score), texts(5), say=said.append)
        assert (0, 5) == (done.exit_code, results(done)["score_quality"].null_count())
        assert any("5 verdicts say nothing that the grader reads" in sentence for sentence in said)
        run(job(at, tmp_path, score=score), texts(5))
        assert [5] == asked(court)


@pytest.mark.parametrize("protocol", ["responses", "messages", "completions"])
def test_a_judge_is_asked_in_its_own_protocol(at, court, tmp_path, protocol):
    """Streamed where it is asked for; answered from the record by the next session all the same."""
    endpoint = {
        "base_url": court.base_url,
        "api_key_env": "JUDGE_KEY",
        "protocol": protocol,
        "stream": True,
    }
    prompt = {"user": "{{ output_text }}\nWas this right? Say one of: yes, no"}
    spec, before = job(at, tmp_path, score=[judge(court, endpoint=endpoint, prompt=prompt)]), asked(court)[0]
    done = run(spec, texts(4))
    assert 0 == results(done)["score_quality"].null_count()
    assert [before + 4] == asked(court)
    run(spec, texts(4))
    assert [before + 4] == asked(court)


def test_the_judges_key_is_in_no_file(at, court, tmp_path):
    """Nor in what is said of a key that is refused."""
    done = run(job(at, tmp_path, score=[judge(court)]), texts(3))
    done.report_html()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [] == [path for path in files if JUDGE_KEY.encode() in path.read_bytes()]


def test_simulate_and_check_need_no_judge(at, court, tmp_path):
    """The judge, too, is pointed at the simulator: no key, no other address."""
    nowhere = {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "JUDGE_KEY"}
    spec = job(at, tmp_path, score=[judge(court, endpoint=nowhere, model="grader-1")])
    done = run(spec, texts(4), simulate=True, environ={})
    assert (0, 0) == (done.exit_code, results(done)["score_quality"].null_count())
    assert {"grader-1"} == set(judged(done)["model"])
    assert [] == done.verify(data=True)
    texts(4).write_csv(tmp_path / "texts.csv")
    tree = {**spec.public_dict(), "input": {"table": "texts.csv", "id": "id"}}
    (tmp_path / "job.json").write_text(json.dumps(tree))
    found = check_job(tmp_path / "job.json", {}, {"SIM_KEY": "ak_sim"})
    assert [] == found["mistakes"]
    assert [("quality", "grader-1", nowhere["base_url"])] == [
        (one["name"], one["model"], one["endpoint"]["base_url"]) for one in found["judges"]
    ]
    warnings = "\n".join(found["warnings"])
    assert "JUDGE_KEY is not set" in warnings
    assert "prices.models has no 'grader-1'" in warnings


def test_a_pilot_judges_its_own_rows_and_its_forecast_has_the_judges(at, court, tmp_path):
    """The expected bill is that of answers and verdicts."""
    table, spec = texts(60), job(at, tmp_path, score=[judge(court)])
    before = asked(at, court)
    done = run(spec, table, pilot=20)
    assert [before[0] + 20, before[1] + 20] == asked(at, court)
    forecast = done.summary["pilot"]["cost_credits"]
    whole = run(spec, table)
    assert [before[0] + 60, before[1] + 60] == asked(at, court)
    assert Decimal(forecast["low"]) <= spent_credits(whole) <= Decimal(forecast["high"])


def test_corrected_prices_price_the_verdicts_anew(at, court, tmp_path):
    """By the judge's model, whatever the variant; rows keep the cost of their answers alone."""
    table, score = texts(5), [judge(court)]
    spec = job(at, tmp_path, score=score)
    done = run(spec, table)
    tree = spec.public_dict()["prices"]["models"]
    tree["gpt-5.4-mini"] = {**tree["gpt-5.4-mini"], "input_per_mtok": str(3 * PRICES["gpt-5.4-mini"][0])}
    before, input_tokens = spent_credits(done), judged(done)["input_tokens"].sum()
    rows = results(done)["cost_credits"].to_list()
    done = run(job(at, tmp_path, score=score, prices={"models": tree}), table, correct_prices=True)
    added = Decimal(input_tokens * 2 * PRICES["gpt-5.4-mini"][0]) / 10**6
    assert (before + added, rows) == (spent_credits(done), results(done)["cost_credits"].to_list())
    assert str(spent_credits(done).normalize()) == done.summary["cost_credits"]
    assert [] == done.verify(data=True)


def test_identical_questions_are_shared_where_the_job_shares(at, court, tmp_path):
    """One verdict for all identical answers of a variant, in one session and in the next."""
    table = texts(9).with_columns(text=pl.Series(["a", "b", "c"] * 3))
    before = asked(at, court)
    spec = job(at, tmp_path, score=[judge(court)], share_identical=True)
    done = run(spec, table)
    assert [before[0] + 3, before[1] + 3] == asked(at, court)
    assert 0 == results(done)["score_quality"].null_count()
    run(spec, table)
    assert [before[0] + 3, before[1] + 3] == asked(at, court)


def test_a_judge_that_always_fails_stops_before_it_burns_the_budget(at, court, tmp_path):
    """The same error rate as for rows; the answers stay, unscored."""
    spec = job(at, tmp_path, score=[judge(court, prompt={"user": "[[fault:400*always]] {{ output_text }}"})])
    done = run(spec, texts(60), limits={"concurrency": 4})
    assert (5, 60) == (done.exit_code, results(done).height)
    assert "judge quality" in (done.stop_reason or "")
    assert 60 == results(done)["score_quality"].null_count()
    assert judged(done).height < 40


def test_a_verdict_that_came_and_was_not_read_yet_is_read_by_the_next_session(at, court, tmp_path, monkeypatch):
    """By the judge's own protocol, which is not the row's; it is not asked for again."""
    endpoint = {"base_url": court.base_url, "api_key_env": "JUDGE_KEY", "protocol": "responses"}
    spec = job(at, tmp_path, score=[judge(court, endpoint=endpoint)], limits={"concurrency": 1})
    before, concluded, calls = asked(at, court), JudgeRecorder.concluded, []

    def broken(self, outcomes):
        calls.extend(outcomes)
        if outcomes and len(calls) == 3:
            raise RuntimeError("a bug")
        return concluded(self, outcomes)

    monkeypatch.setattr(JudgeRecorder, "concluded", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(spec, texts(6))
    monkeypatch.undo()
    assert [before[0] + 6, before[1] + 3] == asked(at, court)
    assert 2 == judged(crun_batch.open_run(tmp_path / "run")).height
    done = run(spec, texts(6))
    assert [before[0] + 6, before[1] + 6] == asked(at, court)
    assert (0, 6, 0) == (done.exit_code, judged(done).height, results(done)["score_quality"].null_count())
    assert spent_credits(done) == Decimal(done.summary["cost_credits"])
    assert [] == done.verify(data=True)


SCRIPT = """
import json, sys
import crun_batch
crun_batch.run(sys.argv[1])
"""


def test_killed_while_judging_and_started_again_nothing_recorded_is_asked_twice(at, tmp_path):
    """Three kills: the same table as uninterrupted; what the gateway billed beyond the record was in flight."""
    table = texts(150)
    table.write_csv(tmp_path / "texts.csv")
    with simulator(latency_seconds=0.02) as court:
        score = [judge(court, endpoint={"base_url": court.base_url, "api_key_env": "SIM_KEY"})]
        whole = run(job(at, tmp_path / "whole", score=score), table)
        spec = job(at, tmp_path, score=score, limits={"concurrency": 8})
        tree = {**spec.public_dict(), "input": {"table": "texts.csv", "id": "id"}, "name": "texts"}
        (tmp_path / "texts.json").write_text(json.dumps(tree))
        begin = asked(court)[0]
        kills = 0
        for wanted in (20, 60, 100):
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(tmp_path / "texts.json")], env={**os.environ, **ENVIRON}
            )
            until = time.monotonic() + 30
            while asked(court)[0] < begin + wanted and process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = crun_batch.run(tmp_path / "texts.json", environ=ENVIRON, handle_signals=False)
        billed = asked(court)[0] - begin
    assert kills >= 2
    assert scores(whole) == scores(done)
    assert (0, 0) == (done.exit_code, results(done)["score_quality"].null_count())
    verdicts = judged(done)
    recorded = verdicts.filter(pl.col("outcome") == "done")
    assert {1} == set(Counter(recorded["id"]).values()), "no recorded verdict was asked for again"
    lost = verdicts.filter(pl.col("outcome") == "unknown").height
    assert 150 <= billed <= 150 + lost
    assert lost <= 8 * kills
    assert [] == done.verify(data=True)


def test_while_judges_are_asked_their_questions_are_counted_and_projected(at, court, tmp_path):
    """No figure of the rows is shown as one of the questions: their number, failures, price."""
    seen: list[crun_batch.Progress] = []
    judges = [judge(court), judge(court, "tone", prompt={"user": "Is this polite? {{ output_text }}"})]
    done = run(job(at, tmp_path, score=judges), texts(6), watch=seen.append)
    rows, questions = ([one for one in seen if one.is_judging is judging] for judging in (False, True))
    assert {("row", 6)} == {(one.noun, one.rows_total) for one in rows}
    assert {("question", 12)} == {(one.noun, one.rows_total) for one in questions}
    last = questions[-1]
    assert (12, 0, ()) == (last.rows_done, last.rows_failed, last.variants)
    assert "12 of 12 questions (100 %), 0 failed" in last.text()
    assert done.cost_credits == Decimal(last.projected_credits_pico).scaleb(-12), "nothing is left to be asked"


def test_the_projection_adds_what_questions_cost_not_what_rows_cost():
    """$10 of rows and $1 of 10 questions, 90 to go: $20, not $110."""
    assert 20 == projected_pico(11, 10, 90, on_others_pico=10)
    assert 110 == projected_pico(11, 10, 90)
    assert projected_pico(10, 0, 100, on_others_pico=10) is None


def test_judges_that_fail_are_not_told_as_rows_of_a_variant(at, court, tmp_path):
    """The gateway refuses their questions; no row of any variant has failed."""
    broken = judge(court, prompt={"user": "[[fault:400*always]] {{ output_text }}"})
    done = run(job(at, tmp_path, score=[broken], limits={"stop_at_error_rate": 0.5}), texts(30))
    assert 5 == done.exit_code
    assert "100% of the last 20 questions to 'judge quality' failed" in (done.stop_reason or "")
