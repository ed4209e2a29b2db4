"""The laws of scores in whole runs: derived from stored answers, computed anew when what they rest on changes."""

from __future__ import annotations

import json
import random

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from run_kit import job, results, run, simulator
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

import crun_batch
from crun_batch.cli import commands as cli
from crun_batch.errors import DiskFailed
from crun_batch.reporting.comparing import ComparisonOptions, compare_runs
from crun_batch.scoring.answers import Answer

CLASSES = ["billing", "delivery", "other", "praise", "product"]
RIGHT = {"name": "right", "grader": "number", "expected": "{{ answer }}"}
MODELS = {name: {"accuracy": share} for name, share in (("gpt-5.4", 0.9), ("gpt-5.4-mini", 0.6))}
SWEEP = {"sweep": {"model": list(MODELS)}}


@pytest.fixture(scope="module")
def at():
    with simulator(answer_style="number", models=MODELS) as process:
        yield process


def sums(count: int) -> pl.DataFrame:
    answers = [n * 7 for n in range(count)]
    return pl.DataFrame(
        {
            "id": [f"r{n}" for n in range(count)],
            "text": [f"What is 7 times {n}? [[gold:{answer}]]" for n, answer in enumerate(answers)],
            "answer": answers,
        }
    )


def requests_of(at) -> int:
    return at.ledger()["count"]


def test_scores_are_columns_of_the_live_and_of_the_published_results(at, tmp_path):
    """The same by polars, by SQL, in results.parquet and in the export; the accuracies are those of the models."""
    done = run(job(at, tmp_path, **SWEEP, repeats=2, score=[RIGHT]), sums(60))
    rows = results(done)
    said = rows.select(pl.col("output_text").str.split("#### ").list.last().cast(pl.Int64))["output_text"]
    wanted = rows["id"].str.slice(1).cast(pl.Int64) * 7
    assert (said == wanted).cast(pl.Float64).to_list() == rows["score_right"].to_list()
    by_model = dict(rows.group_by("variant").agg(pl.col("score_right").mean()).rows())
    assert by_model["gpt-5.4"] > 0.75 > by_model["gpt-5.4-mini"]
    total = rows["score_right"].sum()
    assert total == done.sql("select sum(score_right) as total from results")["total"].to_pylist()[0]
    assert total == pl.read_parquet(tmp_path / "run" / "results.parquet")["score_right"].sum()
    assert rows.height == done.export("jsonl", tmp_path / "new" / "out.jsonl")
    with (tmp_path / "out.jsonl").open("wb") as stream:
        assert rows.height == done.export("jsonl", stream)
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "new" / "out.jsonl").read_bytes()
    assert total == sum(json.loads(line)["score_right"] for line in (tmp_path / "out.jsonl").open())
    with pytest.raises(DiskFailed, match="cannot be written"):
        done.export("jsonl", tmp_path)
    assert [] == done.verify(data=True)


def test_an_edited_score_is_applied_by_running_again_which_sends_nothing(at, tmp_path):
    """Another grader, a former one dropped, none at all: published anew, also without a key."""
    table = sums(20)
    run(job(at, tmp_path, **SWEEP, score=[RIGHT]), table)
    before = requests_of(at)
    form = {"name": "form", "grader": "regex", "pattern": "#### -?\\d+$"}
    done = run(job(at, tmp_path, **SWEEP, score=[form]), table)
    rows = pl.read_parquet(tmp_path / "run" / "results.parquet")
    assert ["score_form"] == [name for name in rows.columns if name.startswith("score_")]
    assert [1.0] * 40 == rows["score_form"].to_list()
    assert [1.0] * 40 == results(done)["score_form"].to_list()
    done = run(job(at, tmp_path, **SWEEP), table)
    assert not [name for name in results(done).columns if name.startswith("score_")]
    assert before == requests_of(at)
    assert [] == done.verify(data=True)


def test_only_answers_without_a_score_are_graded(at, tmp_path, monkeypatch):
    """Rows that came later, and answers that were asked again; what is scored stays."""
    graded = []
    monkeypatch.setattr("crun_batch.scoring.answers.Answer", lambda *line: graded.append(line) or Answer(*line))
    table, spec = sums(20), job(at, tmp_path, score=[RIGHT])
    run(spec, table, limit=5)
    run(spec, table)
    assert 20 == len(graded)
    run(spec, table)
    assert 20 == len(graded)
    corrected = table.with_columns(answer=pl.when(pl.col("id") == "r3").then(-1).otherwise("answer"))
    done = run(spec, corrected)
    assert 40 == len(graded), "another table: every answer is graded anew"
    assert 0.0 == results(done).filter(pl.col("id") == "r3")["score_right"].item()


def test_an_answer_that_replaces_another_is_scored_itself(at, tmp_path):
    """A row that failed and is asked again; and a run that a gateway refuses has no scores and no complaint."""
    table = sums(6).with_columns(
        text=pl.when(pl.col("id") == "r2").then(pl.lit("[[fault:400]] [[gold:14]]")).otherwise("text")
    )
    spec = job(at, tmp_path, score=[RIGHT])
    assert ["r2"] == results(run(spec, table)).filter(pl.col("score_right").is_null())["id"].to_list()
    done = run(spec, table, retry=frozenset({"error"}))
    assert ("ok", 0) == (results(done)["status"][2], results(done)["score_right"].null_count())
    assert [] == done.verify(data=True)
    refused = run(job(at, tmp_path / "other", score=[RIGHT], model="no-such-model"), table)
    assert 5 == refused.exit_code


def test_rows_that_left_the_table_or_expect_nothing_have_no_score(at, tmp_path):
    table = sums(10).with_columns(answer=pl.when(pl.col("id") != "r1").then("answer"))
    spec = job(at, tmp_path, score=[RIGHT])
    assert [None] == results(run(spec, table)).filter(pl.col("id") == "r1")["score_right"].to_list()
    done = run(spec, table.filter(pl.col("id") != "r2"))
    assert ["r1", "r2"] == results(done).filter(pl.col("score_right").is_null())["id"].to_list()


def test_a_row_in_error_has_no_score_and_counts_as_wrong_in_a_comparison(at, tmp_path):
    table = sums(30).with_columns(
        text=pl.when(pl.col("id") == "r4").then(pl.lit("[[fault:400*9]] x")).otherwise("text")
    )
    done = run(job(at, tmp_path, score=[RIGHT]), table)
    rows = results(done)
    assert ["r4"] == rows.filter(pl.col("score_right").is_null())["id"].to_list()
    found = compare_runs([done.directory], ComparisonOptions(), disagreements_at_most=5).comparison.variants[0]
    assert rows["score_right"].sum() / 30 == pytest.approx(found.score.value)


def test_a_function_of_the_users_is_a_grader_and_its_edits_count(at, tmp_path):
    """It gets the row with all its columns; where it fails there is no score, and the next session tries again."""
    module = tmp_path / "my_graders.py"
    head = "def close(text, row):\n    found = int(text.rsplit('#### ', 1)[1])\n"
    module.write_text(head + "    if row['answer'] == 21:\n        raise KeyError('unit')\n    return found > 0\n")
    told: list[str] = []
    score = [{"name": "close", "grader": "python", "function": "my_graders:close"}, RIGHT]
    keys = {"score": score, "base_dir": tmp_path}
    done = run(job(at, tmp_path, **keys), sums(10), say=told.append)
    rows = results(done)
    assert ["r3"] == rows.filter(pl.col("score_close").is_null())["id"].to_list()
    assert 0 == rows["score_right"].null_count(), "one grader's failure takes no other's score"
    assert any("score close: 1 answer could not be graded" in line and "'unit'" in line for line in told)
    before = requests_of(at)
    module.write_text("def close(text):\n    return 0.25\n")
    assert [0.25] * 10 == results(run(job(at, tmp_path, **keys), sums(10)))["score_close"].to_list()
    assert before == requests_of(at)


@pytest.mark.parametrize(
    ("score", "complaint"),
    [
        ({"name": "a", "grader": "exact", "expected": "{{ anser }}"}, "did you mean 'answer'"),
        ({"name": "a", "grader": "python", "function": "no_such_module_here:x"}, "cannot be imported"),
        (
            {"name": "a", "grader": "judge", "model": "m", "endpoint": {"protocol": "messages", "auth": "none"}},
            r"score\[0\].params: needs max_output_tokens.*judge a",
        ),
    ],
)
def test_a_mistake_in_a_grader_is_found_before_anything_is_sent(at, tmp_path, score, complaint):
    before = requests_of(at)
    with pytest.raises(crun_batch.InputError, match=complaint):
        run(job(at, tmp_path, score=[score]), sums(3))
    assert before == requests_of(at)


def test_the_scores_file_may_be_lost_and_damage_is_found(at, tmp_path):
    """It is derived: without it scores are null until the next start makes it anew."""
    spec, table = job(at, tmp_path, score=[RIGHT]), sums(10)
    done = run(spec, table)
    file = tmp_path / "run" / "journal" / "scores.parquet"
    whole = results(done)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    assert ["journal/scores.parquet"] == [one.file for one in done.verify(data=True)]
    file.unlink()
    assert [None] * 10 == results(done)["score_right"].to_list()
    assert whole.equals(results(run(spec, table)))
    assert [] == done.verify(data=True)


def labelled(count: int) -> pl.DataFrame:
    """Gold labels of five classes, and two annotators: one is wrong on 10 % of the rows, the other on 25 %."""
    draw = random.Random(5)
    gold = [draw.choice(CLASSES) for _ in range(count)]

    def noisy(share: float) -> list[str]:
        return [draw.choice(CLASSES) if draw.random() < share else label for label in gold]

    return pl.DataFrame({"id": range(count), "gold": gold, "first": noisy(0.125), "second": noisy(0.3)})


def test_agreement_and_confusion_are_those_of_scikit_learn(at, tmp_path):
    """Two variants answer with two noisy labels: what `compare` tells is what the labels themselves say."""
    at.change(answer_style="label")
    table = labelled(400)
    prompts = {
        name: {"prompt": {"user": f"one of: {{{{ {name} }}}}, {{{{ {name} }}}}"}} for name in ("first", "second")
    }
    keys = {"sweep": {"who": prompts}, "output": {"dir": str(tmp_path / "run"), "columns": ["gold"]}}
    done = run(
        job(at, tmp_path, **keys, score=[{"name": "right", "grader": "exact", "expected": "{{ gold }}"}]), table
    )
    at.change(answer_style="number")
    found = compare_runs([done.directory], ComparisonOptions(gold="gold"), disagreements_at_most=1_000)
    gold, first, second = (table[name].to_list() for name in ("gold", "first", "second"))
    kappa = found.comparison.variants[1].label_agreement.kappa
    assert pytest.approx(cohen_kappa_score(first, second)) == kappa.value
    for name, labels in (("first", first), ("second", second)):
        figures = found.gold[name]
        assert confusion_matrix(gold, labels, labels=CLASSES).tolist() == [
            list(line) for line in figures.confusion
        ]
        assert pytest.approx(f1_score(gold, labels, average="macro")) == figures.macro_f1
        assert CLASSES == [one.label for one in figures.classes]
    wrong = {name: table.filter(pl.col(name) != pl.col("gold")).height for name in ("first", "second")}
    rates = {one.name: one.score.value for one in found.comparison.variants}
    assert {name: pytest.approx(1 - count / 400) for name, count in wrong.items()} == rates
    disputed = table.filter(pl.col("first") != pl.col("second"))
    assert sorted(disputed["id"].to_list()) == sorted(found.disagreements["id"].to_list())


def test_labels_with_malformed_answers_are_typed_and_none_is_lost(at, tmp_path):
    """10 % malformed: five classes as an enum, every row there, the invalid ones with their raw text."""
    at.change(malformed_rate=0.1)
    schema = {
        "type": "object",
        "properties": {"label": {"enum": CLASSES}},
        "required": ["label"],
        "additionalProperties": False,
    }
    score = [{"name": "other", "grader": "json", "field": "label", "expected": "other"}]
    keys = {"output_schema": schema, "repeats": 2, "score": score, "repair_attempts": 1}
    done = run(job(at, tmp_path, **keys), sums(150))
    at.change(malformed_rate=0.0)
    rows = results(done)
    assert 300 == rows.height
    assert pl.Struct({"label": pl.String}) == rows.schema["output"]
    assert {"ok", "invalid"} >= set(rows["status"])
    good = rows.filter(pl.col("status") == "ok")
    assert set(CLASSES) == set(good["output"].struct["label"])
    is_other = (good["output"].struct["label"] == "other").cast(pl.Float64)
    assert is_other.to_list() == good["score_other"].to_list()
    repairs = done.attempts().filter(pl.col("purpose") == "repair").collect().height
    assert 10 <= repairs <= 60
    found = compare_runs([done.directory], ComparisonOptions(), disagreements_at_most=5).comparison.variants[0]
    assert found.self_agreement is not None


def test_the_command_compares_and_fails_where_one_is_worse(at, tmp_path, capfdbinary):
    """Exit 1 with --fail-if-worse; one JSON document; the disputed rows in a file."""
    keys = {"output": {"dir": str(tmp_path / "run"), "columns": ["answer"]}}
    run(job(at, tmp_path, **SWEEP, **keys, score=[RIGHT]), sums(80))
    file = tmp_path / "disputed.csv"
    command = ["compare", str(tmp_path / "run"), "--score", "right", "--baseline"]
    arguments = ["--fail-if-worse", "--json", "--export-disagreements", str(file)]
    assert 1 == cli.main([*command, "gpt-5.4", *arguments])
    document = json.loads(capfdbinary.readouterr().out)
    assert ["gpt-5.4-mini"] == document["worse"]
    assert len(document["disagreements"]) == duckdb.sql(f"select count(*) from '{file}'").fetchall()[0][0] > 5
    assert 0 == cli.main([*command, "gpt-5.4-mini", "--fail-if-worse"])
    words = capfdbinary.readouterr().out.decode()
    assert "better" in words and "the most disputed first" in words
    assert 2 == cli.main(["compare", str(tmp_path / "run"), "--gold", "nothing"])
    assert b"the results have no column 'nothing'" in capfdbinary.readouterr().err


def test_the_file_beside_the_results_has_one_line_for_each_graded_answer(at, tmp_path):
    """Its lines are keyed by recorded finals; readers take what the job names, null where the file has it not."""
    done = run(job(at, tmp_path, score=[RIGHT]), sums(7))
    state = crun_batch.open_run(done.directory)
    assert 7 == pq.read_metadata(tmp_path / "run" / "journal" / "scores.parquet").num_rows
    assert state.results().collect()["score_right"].null_count() == 0


def test_the_majority_labels_of_repeats_are_exported(at, tmp_path, capfdbinary):
    """One line for each row and variant, with the label of most of its replies."""
    done = run(job(at, tmp_path, **SWEEP, repeats=3), sums(10))
    command, file = ["compare", str(tmp_path / "run")], tmp_path / "labels.csv"
    assert 0 == cli.main([*command, "--label", "output_text", "--export-labels", str(file)])
    assert b"20 rows to" in capfdbinary.readouterr().err
    found = pl.read_csv(file)
    assert ["id", "variant", "label", "votes", "replies", "agreement"] == found.columns[:6]
    assert "consensus" == found.columns[6]
    texts = results(done).group_by("id", "variant").agg(pl.col("output_text"))
    for row, variant, said in texts.iter_rows():
        line = found.row(by_predicate=(pl.col("id") == row) & (pl.col("variant") == variant), named=True)
        assert (3, 3, said[0], 1.0) == (line["replies"], line["votes"], line["label"], line["agreement"])
    assert 2 == cli.main([*command, "--export-labels", str(file)])
