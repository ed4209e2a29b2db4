"""What a person is told to do next: rows that are not ok, a key that was never named, a value that is no table."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import polars as pl
import pytest
from run_kit import ENVIRON, job, results, run, simulator, texts

import crun_batch
from crun_batch.errors import InputError
from crun_batch.options import kinds
from crun_batch.records import Status
from crun_batch.state.commands import under_caps


def test_retry_failed_is_every_status_but_ok_and_all_is_every_status() -> None:
    statuses = set(get_args(Status))
    assert statuses - {"ok"} == kinds("failed")
    assert statuses == kinds("all")
    assert {"timeout", *statuses} - {"ok"} == kinds("failed,timeout")
    with pytest.raises(InputError, match="it knows failed, all, "):
        kinds("everything")


def test_rows_that_are_not_ok_are_told_and_asked_again(tmp_path: Path) -> None:
    """Exit 1 says why and names the option, which asks just these rows; `all` asks every row again."""
    with simulator(seed=1, output_tokens_median=50) as at:
        short = job(at, tmp_path, params={"max_output_tokens": 2})
        done = run(short, texts(3))
        assert 1 == done.exit_code
        said = "3 rows are not ok, --retry failed asks them again (exit code 1)"
        assert said in done.report().splitlines()[0]
        again = run(short, texts(3), retry=["failed"])
        assert [2, 2, 2] == results(again)["attempt_count"].to_list()
        everything = run(short, texts(3), retry=["all"])
        assert [3, 3, 3] == results(everything)["attempt_count"].to_list()
        assert [4, 4, 4] == results(run(short, texts(3), retry="failed"))["attempt_count"].to_list()
        with pytest.raises(InputError, match="retry knows no 'broken'"):
            run(short, texts(3), retry=["broken"])


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ({"api_key_env": None}, "no key was sent, and the gateway wants one: add endpoint.api_key_env"),
        ({"api_key_env": "WRONG_KEY"}, "the gateway does not accept the key"),
    ],
)
def test_a_key_that_was_not_named_is_told_from_one_that_is_wrong(
    endpoint: dict[str, str | None], says: str, tmp_path: Path
) -> None:
    """`check` says it before anything is called, `run` where the gateway refuses."""
    with simulator() as at:
        asked = job(at, tmp_path, endpoint=endpoint)
        environ = {**ENVIRON, "WRONG_KEY": "ak_wrong"}
        done = crun_batch.run(asked, table=texts(2), environ=environ, handle_signals=False)
        assert 5 == done.exit_code and says in str(done.stop_reason)


@pytest.mark.parametrize(
    ("endpoint", "is_said"),
    [
        ({"base_url": "http://127.0.0.1:1/v1"}, True),
        ({"base_url": "http://127.0.0.1:1/v1", "auth": "none"}, False),
        ({"base_url": "http://127.0.0.1:1/v1", "headers": {"X-Key": "${HOME}"}}, False),
        ({"base_url": "http://127.0.0.1:1/v1", "api_key_env": "HOME"}, False),
    ],
)
def test_check_says_that_no_key_is_named(endpoint: dict[str, object], is_said: bool, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\na\n")
    asked = crun_batch.Job(
        base_dir=tmp_path, model="m", prompt={"user": "{{ text }}"}, input={"table": "t.csv"}, endpoint=endpoint
    )
    warnings = crun_batch.check(asked)["warnings"]
    assert is_said is any("names no key, so none is sent" in warning for warning in warnings)


@pytest.mark.parametrize("value", [["a text"], "a text", {"text": ["a"]}, None, 3])
def test_map_says_what_a_table_is(value: object) -> None:
    with pytest.raises(InputError, match="map takes a polars, pandas or Arrow table, not a"):
        crun_batch.map(value, prompt="{{ text }}", model="m")


@pytest.mark.parametrize("written", [[], ["--output-dir", "elsewhere"], ["--output-dir=elsewhere"]])
def test_a_moved_run_goes_on_where_it_stands(written: list[str], tmp_path: Path) -> None:
    """The command of a run that was moved names its new place: without it another run would begin, and be paid."""
    with simulator() as at:
        command = shlex.join(["crun-batch", "run", "job.yaml", *written, "--yes"])
        done = run(job(at, tmp_path), texts(4), limit=2, resume_command=command)
        stopped = run(job(at, tmp_path), texts(4), pilot=3, resume_command=command)
        assert done.directory == stopped.directory
        assert command == crun_batch.status(tmp_path / "run")["resume_command"]
        moved = (tmp_path / "run").rename(tmp_path / "moved run")
        told = crun_batch.status(moved)["resume_command"]
        assert told in crun_batch.open_run(moved).report()
        assert ["crun-batch", "run", "job.yaml", "--yes", "--output-dir", str(moved)] == shlex.split(told)


@pytest.mark.parametrize("source", ["api_key_env", "api_key_file"])
def test_a_key_that_is_revoked_in_the_middle_is_named_and_costs_no_row(source: str, tmp_path: Path) -> None:
    """Exit 5 with where the key is from, the row open; once it is accepted again the run ends."""
    (tmp_path / "key.txt").write_text(ENVIRON["SIM_KEY"])
    named = {"api_key_env": "SIM_KEY", "api_key_file": str(tmp_path / "key.txt")}[source]
    table = texts(6).with_columns(text=pl.Series(["a", "b", "c [[fault:401]]", "d", "e", "f"]))
    with simulator() as at:
        asked = job(
            at,
            tmp_path,
            endpoint={"api_key_env": None, source: named},
            limits={"concurrency": 1, "adaptive": False},
        )
        stopped = run(asked, table)
        assert (5, 0, 4) == (
            stopped.exit_code,
            stopped.summary["rows"]["error"],
            stopped.summary["rows"]["open"],
        )
        reason = stopped.stop_reason or ""
        assert "it does not accept the key in" in reason and "any more" in reason and named in reason
        done = run(asked, table)
        assert (0, 6) == (done.exit_code, done.summary["rows"]["ok"])


@pytest.mark.parametrize(
    ("written", "rewritten"),
    [
        ("run j --yes", "run j --yes --max-cost-usd 0.124"),
        ("run j --max-cost-usd 0.1 --yes", "run j --yes --max-cost-usd 0.124"),
        ("run j --max-cost-usd=0.1", "run j --max-cost-usd 0.124"),
        ("run j --set budget.max_cost_usd=0.1 --set a=b", "run j --set a=b --max-cost-usd 0.124"),
        ("run j --set=budget.max_cost_usd=0.1 --set=a=b", "run j --set=a=b --max-cost-usd 0.124"),
        ("run j --set 'budget={max_cost_usd: 0.1}' --yes", "run j --yes --max-cost-usd 0.124"),
        ("run j --set='budget={max_cost_usd: 0.1}'", "run j --max-cost-usd 0.124"),
        (
            "run j --set 'budget={max_cost_usd: 0.1, credits: off, max_cost_credits: 7.5}'",
            """run j --set 'budget={"credits":"off","max_cost_credits":"7.5"}' --max-cost-usd 0.124""",
        ),
        ("run j --set 'budget={credits: off}'", "run j --set 'budget={credits: off}' --max-cost-usd 0.124"),
        ("run j --set budget= --set a=", "run j --set budget= --set a= --max-cost-usd 0.124"),
        ("run j --max-cost-credits 7", "run j --max-cost-credits 7 --max-cost-usd 0.124"),
    ],
)
def test_a_cap_is_replaced_however_it_was_written(written: str, rewritten: str) -> None:
    """Rounded up to three digits: never below what is needed."""
    assert rewritten == under_caps(written, {"usd": 123_400_000_001})
    assert None is under_caps(None, {"usd": 1})


@pytest.mark.parametrize(
    "keys",
    [{}, {"pilot": 20}, {"sweep": {"model": ["gpt-5.4", "gpt-5.4-nano"]}}, {"limits": {"concurrency": 1}}],
)
@pytest.mark.parametrize("unit", ["usd", "credits"])
def test_the_command_after_a_cap_names_one_that_suffices(unit: str, keys: dict[str, Any], tmp_path: Path) -> None:
    """Typed as it is, it ends the run; the same cap again would stop at once."""
    table, pilot = texts(30), keys.get("pilot")
    sections = {name: value for name, value in keys.items() if name != "pilot"}
    with simulator(seed=2) as at:
        terms = {"currency": "credits", "input_per_mtok": 500, "output_per_mtok": 3000}
        models = dict.fromkeys(("gpt-5.4", "gpt-5.4-nano"), terms)
        asked = job(at, tmp_path, prices={"models": models, "credits_per_usd": 1000}, **sections)
        cap = {"usd": "0.0008", "credits": "0.8"}[unit]
        options: dict[str, Any] = {f"max_cost_{unit}": cap, "until_budget": True}
        command = f"crun-batch run job.yaml --max-cost-{unit} {cap} --yes"
        stopped = run(asked, table, resume_command=command, pilot=pilot, **options)
        assert 4 == stopped.exit_code
        assert re.search(
            r"of the \S+ .*in budget.max_cost_\w+, and one request may cost up to", stopped.stop_reason
        )
        words = shlex.split(stopped.summary["resume_command"])
        assert ["crun-batch", "run", "job.yaml", "--yes", f"--max-cost-{unit}"] == words[:-1]
        done = run(asked, table, **{f"max_cost_{unit}": words[-1]})
        assert ("finished", 0) == (done.status, done.summary["rows"]["open"])


def test_the_command_to_go_on_corrects_prices_no_second_time(tmp_path: Path) -> None:
    """What was wrong is corrected; the next change of a price may be a true one."""
    command = "crun-batch run job.yaml --correct-prices --yes"
    with simulator(seed=2) as at:
        dear = {"models": {"gpt-5.4": {"currency": "credits", "input_per_mtok": 5000, "output_per_mtok": 3000}}}
        first = run(job(at, tmp_path), texts(3), limit=1)
        stopped = run(
            job(at, tmp_path, prices=dear),
            texts(3),
            correct_prices=True,
            max_cost_credits="0.01",
            until_budget=True,
            resume_command=command,
        )
        assert (0, 4) == (first.exit_code, stopped.exit_code)
        words = shlex.split(stopped.summary["resume_command"])
        assert ["crun-batch", "run", "job.yaml", "--yes", "--max-cost-credits"] == words[:-1]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"prompt": "{{ txet }}"}, "there is no column 'txet'; did you mean 'text'"),
        ({"prompt": "{{ q }}"}, "there is no column 'q'; the columns are: text, n"),
        ({"input": {"id": "key"}}, "no column `key` in the table; the columns are `text`, `n`"),
        ({"simulat": True}, "there is no argument 'simulat'; did you mean 'simulate'"),
        ({"max_tokens": 3}, "there is no argument 'max_tokens'; .*params="),
        ({"table": "t.csv"}, "map.. takes no argument 'table'; the table is its first argument"),
        ({"job": "job.yaml"}, "map.. takes no argument 'job'"),
    ],
)
def test_map_names_the_column_or_the_keyword_that_is_wrong(
    keys: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        crun_batch.map(pl.DataFrame({"text": ["a"], "n": [1]}), **{"prompt": "{{ text }}", "model": "m", **keys})


@pytest.mark.parametrize(
    ("user", "is_told"),
    [("Review: {text}", True), ("the same for all", True), ("{{ text }}", False), ("{{ row['text'] }}", False)],
)
def test_a_prompt_without_a_column_is_told_before_it_is_paid_for(
    user: str, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single braces are text: each row would ask the same."""
    monkeypatch.chdir(tmp_path)
    texts(3).write_csv("t.csv")
    job_file = tmp_path / "job.json"
    job_file.write_text(
        json.dumps({"input": {"table": "t.csv", "id": "id"}, "model": "m", "prompt": {"user": user}})
    )
    warnings = crun_batch.check(job_file)["warnings"]
    told = "no prompt prints a column: every row asks the same; a column is written {{ text }}"
    assert is_told is (told in warnings)


@pytest.mark.parametrize(
    ("grader", "told"),
    [
        (
            {"grader": "exact", "expected": "{{ 10 // gold }}"},
            [
                "score[0].expected: cannot be rendered, so no answer gets a score: tried to use // operator "
                "on unsupported types number and string (line 1 of the template); in 2 rows: "
                "row 0 (id 1), row 2 (id 3)"
            ],
        ),
        (
            {"grader": "number", "expected": "{{ gold }}"},
            ["score[0].expected: has no number, so no answer can be right: 'many'; in row 2 (id 3)"],
        ),
        ({"grader": "one_of", "expected": ["{{ gold }}", "none"]}, []),
        ({"grader": "number", "expected": 5}, []),
        ({"grader": "regex", "pattern": "a"}, []),
    ],
)
def test_what_a_grader_cannot_expect_of_a_row_is_told_before_its_answer_is_paid(
    grader: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    """A null is no mistake: such a row has no score."""
    (tmp_path / "t.csv").write_text("id,text,gold\n1,a,7 apples\n2,b,\n3,c,many\n")
    asked = crun_batch.Job(
        base_dir=tmp_path,
        model="m",
        prompt={"user": "{{ text }}"},
        input={"table": "t.csv", "id": "id"},
        score=[{"name": "right", **grader}],
    )
    document = crun_batch.check(asked)
    assert ([], told) == (document["mistakes"], [one for one in document["warnings"] if "expected" in one])


def test_a_table_that_a_query_does_not_know_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    with simulator(seed=2) as at:
        done = run(job(at, tmp_path), texts(1))
    with pytest.raises(InputError, match=r"there is no table 'result'; there are results, attempts"):
        done.sql("select * from result")
