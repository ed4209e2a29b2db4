"""Sweeps and repeats: variants named after their levels, each a job of its own, resumed when there are more."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_kit import (
    ENVIRON,
    RecordingWire,
    charged_credits,
    job,
    results,
    run,
    simulator,
    spent_credits,
    texts,
)

import crun_batch
from crun_batch import estimate
from crun_batch.console.progress import Progress
from crun_batch.errors import InputError, RequestsChanged, RunDirectoryError
from crun_batch.load.folders import Folders
from crun_batch.load.job.job import Job, parse_job
from crun_batch.load.job.sweep import variations
from crun_batch.simulator.process import SimulatorProcess

MODELS = {"gpt-5.4": 1.0, "gpt-5.4-mini": 0.8, "gpt-5.4-nano": 0.4}
PROMPTS = {
    "short": {"prompt": {"user": "{{ text }}"}},
    "long": {"prompt": {"system": "Think first.", "user": "Question: {{ text }}"}},
}


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


def swept(sweep: dict[str, Any], **keys: Any) -> Job:
    tree = {"model": "m", "prompt": {"user": "u"}, "input": {"table": "t.csv"}, **keys}
    return Job(**tree, sweep=sweep)


def mistakes(sweep: dict[str, Any], **keys: Any) -> list[tuple[str | None, str]]:
    with pytest.raises(InputError) as caught:
        variations(swept(sweep, **keys))
    return [(mistake.key, mistake.message) for mistake in caught.value.mistakes]


# --- variants --------------------------------------------------------------------------------------------------


def test_the_product_of_the_axes_is_the_variants():
    """Named after their levels, in the order of the axes; a job without a sweep is its own variant."""
    made = variations(swept({"params.temperature": [0, 0.7], "who": {"a": {"model": "x"}, "b": {}}}))
    assert ["0/a", "0/b", "0.7/a", "0.7/b"] == [one.name for one in made]
    assert [("x", 0), ("m", 0), ("x", 0.7), ("m", 0.7)] == [
        (one.job.model, one.job.params["temperature"]) for one in made
    ]
    assert {"temperature": 0.7, "who": "b"} == made[3].axes
    (alone,) = variations(Job(model="m", prompt={"user": "u"}, input={"table": "t.csv"}))
    assert ("default", {}) == (alone.name, alone.axes)


def test_levels_are_merged_into_the_job():
    """Mappings key by key, all else replaced; null removes a key; the output schema is replaced whole."""
    base = {
        "params": {"temperature": 1, "reasoning": {"effort": "low", "summary": "auto"}},
        "prompt": {"system": "s", "user": "u"},
        "output_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
    }
    level = {
        "params": {"temperature": None, "reasoning": {"effort": "high"}},
        "prompt": {"system": None},
        "output_schema": {"type": "object", "properties": {"b": {"type": "string"}}},
    }
    (one,) = variations(swept({"how": {"other": level}}, **base))
    assert {"reasoning": {"effort": "high", "summary": "auto"}} == one.job.params
    assert (None, "u") == (one.job.prompt.system, one.job.prompt.user)
    assert level["output_schema"] == one.job.output_schema


def test_levels_without_a_short_text_are_numbered(tmp_path: Path):
    """Long texts, mappings and lists by their place in the axis; files by their name; the rest by its text."""
    (tmp_path / "brief.txt").write_text("Be brief: {{ text }}")
    users = ["x" * 50, {"file": "brief.txt"}, "short"]
    made = variations(swept({"prompt.user": users, "params.stop": [["a"], None, True]}, base_dir=tmp_path))
    assert ["user1/stop1", "user1/null", "user1/true"] == [one.name for one in made[:3]]
    assert ["brief.txt", "Be brief: {{ text }}"] == [made[3].axes["user"], made[3].job.prompt.user]
    assert ["stop1", None, True] == [one.axes["stop"] if one.axes["stop"] != "null" else None for one in made[6:]]


def test_a_mistake_names_its_axis_and_level():
    """Each variant is checked anew; what is wrong with all variants of a level is said once."""
    sweep = {"params.temperature": [0, 1], "who": {"a": {}, "b": {"endpoint": {"protocol": "messages"}}}}
    says = "needs max_output_tokens: the messages protocol requires it (sweep, who: b)"
    assert [("params", says)] == mistakes(sweep)
    wrong = {"who": {"a": {"modle": "x"}, "b": {"endpoint": {"protocol": "chta"}}}}
    found = mistakes(wrong)
    assert "unknown key; did you mean model? (sweep, who: a)" in [message for _, message in found]
    assert any("(sweep, who: b)" in message for key, message in found if key == "endpoint.protocol")


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ({"limits.concurrency": [1, 2]}, "cannot change limits"),
        ({"who": {"a": {"budget": {"max_cost_usd": 1}}}}, "cannot change budget"),
        ({"input.table": ["a.csv", "b.csv"]}, "cannot change input"),
        ({"repeats": [1, 2]}, "cannot change repeats"),
        ({"params.temperature": [1, 1]}, "two levels are called '1'"),
        ({"params.a.x": [1], "params.b.x": [1]}, "another axis is called 'x' too"),
        ({"params.seed": list(range(1001))}, "makes 1,001 variants"),
        ({"model.name": ["a"]}, "holds no keys"),
        ({"x": {"a/b": {}, "a": {}}, "y": {"c": {}, "b/c": {}}}, "two variants would be called 'a/b/c'"),
    ],
)
def test_what_an_axis_cannot_be(sweep: dict[str, Any], says: str):
    """The work as a whole is the job's, and every variant has a name of its own."""
    assert any(says in message for _, message in mistakes(sweep))


def test_mistakes_in_levels_keep_their_lines():
    """A level's key is found in the file."""
    text = """
model: m
prompt: {user: u}
input: {table: t.csv}
sweep:
  who:
    a: {}
    b:
      params: {max_output_tokens: many}
"""
    loaded = parse_job(text, source="job.yaml", format="yaml", folders=Folders(Path()))
    with pytest.raises(InputError) as caught:
        variations(loaded)
    assert [("job.yaml", 9)] == [(mistake.file, mistake.line) for mistake in caught.value.mistakes]


def test_template_mistakes_of_all_levels_come_at_once(at: SimulatorProcess, tmp_path: Path):
    """Each with its variant."""
    prompts = {"a": {"prompt": {"user": "{{ txt }}"}}, "b": {"prompt": {"user": "{{ tex }}"}}, "c": {}}
    with pytest.raises(InputError) as caught:
        run(job(at, tmp_path, sweep={"prompt": prompts}), texts(2))
    assert ["variant a", "variant b"] == [str(mistake)[-10:-1] for mistake in caught.value.mistakes]


# --- whole runs ------------------------------------------------------------------------------------------------


def test_three_models_two_prompts_two_repeats(at: SimulatorProcess, tmp_path: Path):
    """Rows x variants x repeats, each once, row by row with places for all of one; the bill is the ledger's."""
    before = charged_credits(at)
    questions = texts(10).with_columns(text=pl.format("How many? [[gold:{}]]", pl.int_range(10)))
    sweep = {"model": list(MODELS), "prompt": PROMPTS}
    spec = job(at, tmp_path, sweep=sweep, repeats=2, params={"max_output_tokens": 300}, limits={"concurrency": 12})
    wire = RecordingWire()
    bill = estimate(spec, table=questions, environ=ENVIRON)
    done = run(spec, questions, wire=wire)
    rows = results(done)
    assert (0, 120, 120) == (done.exit_code, rows.height, bill["requests"])
    assert rows.unique(["id", "variant", "repeat"]).height == 120
    assert set(rows["variant"]) == {f"{model}/{prompt}" for model in MODELS for prompt in PROMPTS}
    assert rows["axis_model"].to_list() == rows["model"].to_list()
    assert {"short", "long"} == set(rows["axis_prompt"])
    assert 6 == len(bill["variants"]) == len(done.summary["variants"])
    told = {name: Decimal(sums["cost_credits"]) for name, sums in done.summary["variants"].items()}
    assert dict(rows.group_by("variant").agg(pl.col("cost_credits").sum()).iter_rows()) == told
    assert charged_credits(at) - before == spent_credits(done) == rows["cost_credits"].sum()
    first = [sent["messages"][-1]["content"].rpartition(" ")[2] for sent in wire.sent[:12]]
    assert {"[[gold:0]]"} == set(first)


def test_each_variant_has_its_endpoint(at: SimulatorProcess, tmp_path: Path):
    """Protocol, address and key by level; nobody's key goes to somebody else; each gateway's bill is its own."""
    with simulator(keys={"other": "ak_other_1234"}) as other:
        here, there = charged_credits(at), charged_credits(other)
        at_other = {"endpoint": {"base_url": other.base_url, "api_key_env": "OTHER_KEY", "protocol": "messages"}}
        spec = job(at, tmp_path, sweep={"where": {"here": {}, "there": at_other}})
        wire = RecordingWire()
        environ = {**ENVIRON, "OTHER_KEY": "ak_other_1234"}
        done = crun_batch.run(spec, table=texts(5), environ=environ, handle_signals=False, wire=wire)
        assert (0, {"ok"}) == (done.exit_code, set(results(done)["status"]))
        sent_to = {(sent["url"], sent["headers"]["authorization"]) for sent in wire.sent}
        assert {
            (f"{at.base_url}/chat/completions", "Bearer ak_sim_test"),
            (f"{other.base_url}/messages", "Bearer ak_other_1234"),
        } == sent_to
        costs = dict(results(done).group_by("variant").agg(pl.col("cost_credits").sum()).iter_rows())
        assert {"here": charged_credits(at) - here, "there": charged_credits(other) - there} == costs


def test_more_variants_and_repeats_continue_the_run(at: SimulatorProcess, tmp_path: Path):
    """Only what is new is sent; what was answered stays; fewer variants leave the results that are there."""
    two = {"params.temperature": [0, 1]}
    first = results(run(job(at, tmp_path, sweep=two), texts(4)))
    wire = RecordingWire()
    grown = job(at, tmp_path, sweep={"params.temperature": [0, 1, 0.5]}, repeats=2)
    second = run(grown, texts(4), wire=wire)
    assert 4 * 3 * 2 - 4 * 2 == len(wire.sent)
    rows = results(second)
    assert 24 == rows.height == rows.unique(["id", "variant", "repeat"]).height
    assert {0.0, 0.5, 1.0} == set(rows["axis_temperature"])
    kept = rows.filter(pl.col("repeat") == 0, pl.col("variant") != "0.5")
    assert first["response_id"].to_list() == kept["response_id"].to_list()
    fewer = run(job(at, tmp_path, sweep={"params.temperature": [0]}), texts(4))
    assert (0, 24) == (fewer.exit_code, results(fewer).height)
    assert rows["axis_temperature"].to_list() == results(fewer)["axis_temperature"].to_list()


def test_a_column_keeps_its_type(at: SimulatorProcess, tmp_path: Path):
    """A text among the numbers of an axis, or another answer's type: exit 6, and the run stays as it was."""
    run(job(at, tmp_path, sweep={"params.seed": [1]}), texts(2))
    with pytest.raises(RunDirectoryError, match="axis_seed"):
        run(job(at, tmp_path, sweep={"params.seed": [1, "x"]}), texts(2))


def test_a_level_that_asks_otherwise_is_not_mixed_in(at: SimulatorProcess, tmp_path: Path):
    """The same name for another question: exit 6."""
    run(job(at, tmp_path, sweep={"who": {"a": {"model": "gpt-5.4"}}}), texts(2))
    with pytest.raises(RequestsChanged):
        run(job(at, tmp_path, sweep={"who": {"a": {"model": "gpt-5.4-mini"}}}), texts(2))


def test_a_variant_that_fails_stops_by_its_own_rate(at: SimulatorProcess, tmp_path: Path):
    """The error rate is counted per variant, and the sentence names it."""
    broken = {"prompt": {"user": "[[fault:content_filter*9]] {{ text }}"}, "model": "gpt-5.4-mini"}
    wrong = {"prompt": {"user": "[[fault:400*9]] {{ text }}"}}
    spec = job(at, tmp_path, sweep={"how": {"good": {}, "filtered": broken, "wrong": wrong}})
    seen: list[Progress] = []
    done = run(spec, texts(60), limits={"concurrency": 4}, watch=seen.append)
    assert 5 == done.exit_code
    assert "variant 'wrong'" in (done.stop_reason or "")
    told = {one.name: (one.rows_done, one.rows_not_ok) for one in seen[-1].variants}
    ended = results(done).group_by("variant").agg(done=pl.len(), failed=(pl.col("status") != "ok").sum())
    assert {name: (rows, failed) for name, rows, failed in ended.iter_rows()} == told


def test_schemas_of_variants_share_a_column(at: SimulatorProcess, tmp_path: Path):
    """The fields of all; null where a variant has none."""
    label = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}}, "required": ["label"]}
    scored = {**label, "properties": {**label["properties"], "score": {"type": "integer"}}}
    levels = {"plain": {"output_schema": label}, "scored": {"output_schema": scored}, "none": {}}
    rows = results(run(job(at, tmp_path, sweep={"schema": levels}), texts(4)))
    assert pl.Struct({"label": pl.String, "score": pl.Int64}) == rows.schema["output"]
    by_variant = {name: frame["output"] for (name,), frame in rows.group_by("variant")}
    assert all(by_variant["none"].is_null()) and all(by_variant["plain"].struct["score"].is_null())
    assert set(by_variant["plain"].struct["label"]) <= {"a", "b"}


def test_simulated_sweeps_never_leave_the_machine(tmp_path: Path):
    """--simulate points every variant at the simulator, whatever address its level names."""
    elsewhere = {"endpoint": {"base_url": "http://127.0.0.1:9/v1"}, "model": "made-up"}
    spec = Job(
        model="m",
        prompt={"user": "{{ text }}"},
        input={"id": "id"},
        sweep={"where": {"here": {}, "elsewhere": elsewhere}},
        output={"dir": str(tmp_path / "run")},
    )
    done = crun_batch.run(spec, table=texts(3), simulate=True, handle_signals=False)
    assert (0, 6) == (done.exit_code, results(done).height)


def test_a_sweep_in_python_replaces_the_jobs(at: SimulatorProcess, tmp_path: Path):
    """As an argument of run(); its dotted keys stay whole."""
    done = run(job(at, tmp_path), texts(2), sweep={"params.temperature": [0, 1]})
    assert {"0", "1"} == set(results(done)["variant"])
    assert isinstance(done.cost_credits, Decimal)


def test_what_is_open_of_a_sweep_is_estimated_and_capped_in_units(at: SimulatorProcess, tmp_path: Path) -> None:
    """A variant added to a run of which four rows are finished: 2 + 2 old units, 6 new ones."""
    table = texts(6)
    models = ["gpt-5.4", "gpt-5.4-mini"]
    run(job(at, tmp_path, sweep={"model": models}), table, limit=4)
    more = {"sweep": {"model": [*models, "gpt-5.4-nano"]}}
    told = estimate(job(at, tmp_path, **more), table=table, environ=ENVIRON)
    assert [2, 2, 6] == [variant["requests"] for variant in told["variants"]]
    assert (10, 6) == (told["requests"], told["open_rows"])
    whole = estimate(job(at, tmp_path / "other", **more), table=table, environ=ENVIRON)
    for open_part, all_of_it in zip(told["variants"][:2], whole["variants"][:2], strict=True):
        assert Decimal(open_part["cost_credits"]["low"]) * 3 == Decimal(all_of_it["cost_credits"]["low"])
    capped = job(at, tmp_path, **more, budget={"max_cost_credits": "0.0001"})
    with pytest.raises(crun_batch.RefusedToStart, match="10 open units of 6 rows"):
        run(capped, table)
