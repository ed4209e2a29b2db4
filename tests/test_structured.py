"""Typed answers: what a schema becomes, how an answer is found, complained of, repaired, and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from run_kit import RecordingWire, charged_credits, job, results, run, simulator, spent_credits, texts

import crun_batch
from crun_batch.errors import InputError
from crun_batch.gateway.structured import AnswerCheck
from crun_batch.load.job.job import Job
from crun_batch.load.job.output_schema import JSON_TEXT, arrow_type, column_of, merged, shape_of
from crun_batch.simulator.process import SimulatorProcess

LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad", "mixed"]}, "stars": {"type": "integer", "minimum": 1}},
    "required": ["label", "stars"],
    "additionalProperties": False,
}
EVERYTHING = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad", None]},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "count": {"type": "integer"},
        "score": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "sure": {"type": "boolean"},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
        "extra": {"type": "object"},
        "mixed": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    },
    "required": ["label", "day", "at", "count", "score", "sure", "tags", "extra", "mixed"],
    "$defs": {"tag": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}
EVERY_TYPE = pa.struct(
    [
        ("label", pa.string()),
        ("day", pa.date32()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("count", pa.int64()),
        ("score", pa.float64()),
        ("sure", pa.bool_()),
        ("tags", pa.list_(pa.struct([("name", pa.string())]))),
        ("extra", pa.string()),
        ("mixed", pa.string()),
    ]
)


@pytest.fixture(scope="module")
def at() -> Iterator[SimulatorProcess]:
    with simulator() as process:
        yield process


# --- schemas and columns ---------------------------------------------------------------------------------------


def test_every_kind_of_schema_has_its_type():
    """Objects are structs, arrays lists, formats dates; what has no one type is JSON text."""
    assert EVERY_TYPE == arrow_type(column_of(EVERYTHING))


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": [1, 2, None]}, pa.int64()),
        ({"enum": [1, 2.5]}, pa.float64()),
        ({"enum": ["a", 1]}, pa.string()),
        ({"const": True}, pa.bool_()),
        ({"type": ["integer", "null"]}, pa.int64()),
        ({"type": ["integer", "string"]}, pa.string()),
        ({"oneOf": [{"const": "a"}, {"const": "b"}, {"type": "null"}]}, pa.string()),
        ({"allOf": [{"type": "number"}]}, pa.float64()),
        ({"type": "array"}, pa.string()),
        ({"type": "array", "prefixItems": [{"type": "string"}]}, pa.string()),
        ({"properties": {"a": {"type": "string"}}}, pa.struct([("a", pa.string())])),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, pa.bool_()),
        ({}, pa.string()),
    ],
)
def test_types_of_small_schemas(schema: Any, expected: pa.DataType):
    """Each rule of the table in the module's docstring."""
    assert expected == arrow_type(column_of(schema))


def test_recursion_becomes_json_text():
    """A tree has no finite type: its children are JSON text."""
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    assert "json" == column_of(tree).fields[0][1].item.fields[0][1].item.kind


def test_several_schemas_have_one_column():
    """The fields of all; JSON text where one name has two types."""
    first = column_of({"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}})
    second = column_of({"properties": {"a": {"type": "string"}, "b": {"type": "boolean"}, "c": {}}})
    expected = pa.struct([("a", pa.string()), ("b", pa.string()), ("c", pa.string())])
    assert expected == arrow_type(merged([first, second]))
    assert JSON_TEXT == merged([first, column_of({"type": "array", "items": {}})])


class Mood(StrEnum):
    GOOD = "good"
    BAD = "bad"


class Review(BaseModel):
    mood: Mood
    day: date
    kind: Literal["a", "b"] | None = None
    marks: list[int] = []


def test_a_pydantic_class_is_a_schema():
    """As a class and by its name; not in a job file, which runs no code."""
    expected = pa.struct(
        [("mood", pa.string()), ("day", pa.date32()), ("kind", pa.string()), ("marks", pa.list_(pa.int64()))]
    )
    keys: dict[str, Any] = {"model": "m", "prompt": {"user": "u"}, "input": {"table": "t.csv"}}
    for named in (Review, f"{__name__}:Review"):
        schema = Job(**keys, output_schema=named).output_schema
        assert schema is not None
        assert expected == arrow_type(column_of(schema))
    with pytest.raises(InputError, match="cannot be imported"):
        Job(**keys, output_schema=f"{__name__}:Missing")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "text"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"pattern": "("},
    ],
)
def test_unusable_schemas_are_mistakes(schema: Any):
    """Nothing is fetched, and no schema fails later than at the start."""
    with pytest.raises(InputError) as caught:
        Job(model="m", prompt={"user": "u"}, input={"table": "t.csv"}, output_schema=schema)
    assert ["output_schema"] == [mistake.key for mistake in caught.value.mistakes]


# --- answers ---------------------------------------------------------------------------------------------------

GOOD = '{"label":"good","stars":3}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"Here it is:\n```\n{GOOD}\n```\nAnything else?",
        f"Sure! {GOOD} I hope that helps.",
        '{"label": "good", "stars": 3,}',
        '```json\n{"label": "good",\n "stars": 3,\n}\n```',
        f'First {{"label": "bad"}}, then {GOOD}',
        f'{{"label": "bad", "stars": 1}} or rather {GOOD}',
        '{"label": "good", "stars": 3.0}',
    ],
)
def test_an_answer_is_found_in_its_text(text: str):
    """White space, fences, words around it and a trailing comma do not matter; of several the last valid one."""
    assert json.loads(GOOD) == json.loads(AnswerCheck(LABEL, shape_of(column_of(LABEL)))(text).output or "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "it is empty"),
        ("  ", "it is empty"),
        ("good", "it holds no JSON value"),
        ("{'label': 'good', 'stars': 3}", "it holds no JSON value"),
        ('{"label": "good", "stars": NaN}', "it holds no JSON value"),
        ('{"label": "fine", "stars": 0}', 'label: "fine" is not one of'),
        ('{"label": "good"}', '"stars" is a required property'),
        ('{"label": "good", "stars": 100000000000000000000}', "is no whole number of 64 bits"),
        ("[" * 5000, "it holds no JSON value"),
        ('"\\"' * 20_000, "it holds no JSON value"),
    ],
)
def test_a_complaint_names_what_is_wrong(text: str | None, complaint: str):
    """The words go to the model and into error_message."""
    checked = AnswerCheck(LABEL, shape_of(column_of(LABEL)))(text)
    assert checked.output is None
    assert complaint in (checked.complaint or "")


def test_values_are_made_ready_for_their_columns():
    """Dates as days, moments in UTC, unions and free-form objects as JSON text; null stays null."""
    answer = {
        "label": None,
        "day": "1970-01-11",
        "at": "2026-01-17T09:30:00.5+02:00",
        "count": 2.0,
        "score": None,
        "sure": True,
        "tags": [{"name": "x"}],
        "extra": {"a": [1]},
        "mixed": "5",
    }
    output = AnswerCheck(EVERYTHING, shape_of(column_of(EVERYTHING)))(json.dumps(answer)).output
    expected = {
        "day": 10,
        "at": "2026-01-17T07:30:00.500000+00:00",
        "count": 2,
        "extra": '{"a":[1]}',
        "mixed": '"5"',
    }
    assert {**answer, **expected} == json.loads(output or "")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='{}[]",:\\ \n`1a', max_size=200))
def test_any_text_is_checked(text: str):
    """No text raises, and what is found valid is valid."""
    checked = AnswerCheck(LABEL, None)(text)
    assert (checked.output is None) != (checked.complaint is None)


# --- whole runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["chat", "responses", "messages"])
def test_malformed_answers_are_repaired_and_paid(at: SimulatorProcess, tmp_path: Path, protocol: str):
    """Every row has a result; each invalid answer cost one repair; the bill is the ledger's."""
    at.change(malformed_rate=0.4, seed=1)
    before = charged_credits(at)
    spec = job(at, tmp_path, endpoint={"protocol": protocol}, output_schema=EVERYTHING)
    done = run(spec, texts(40))
    rows, attempts = results(done), done.attempts().collect()
    invalid = rows.filter(pl.col("status") == "invalid")
    repairs = attempts.filter(pl.col("purpose") == "repair")
    assert {"ok", "invalid"} == set(rows["status"])
    assert 40 == rows.height == attempts.height - repairs.height
    assert invalid.height < repairs.height == rows.filter(pl.col("attempt_count") == 2).height
    assert charged_credits(at) - before == spent_credits(done) == rows["cost_credits"].sum() == done.cost_credits
    assert pl.DataFrame(pa.table({"output": pa.array([], EVERY_TYPE)})).schema == rows.select("output").schema
    assert all(invalid["output"].is_null()) and not any(invalid["output_text"].is_null())
    assert all("the answer is not valid: " in message for message in invalid["error_message"])
    good = rows.filter(pl.col("status") == "ok")
    assert [json.loads(text)["count"] for text in good["output_text"]] == good["output"].struct["count"].to_list()
    assert {datetime(2026, 1, 17, 9, 30, tzinfo=UTC)} == set(good["output"].struct["at"])
    first = attempts.filter(pl.col("purpose") == "answer").select("id", "request_hash").sort("id")
    assert first.rows() == rows.select("id", "request_hash").rows()


@pytest.mark.parametrize(("repairs", "times"), [(0, None), (1, "once"), (3, "3 times")])
def test_an_estimate_says_what_repairs_may_add(tmp_path: Path, repairs: int, times: str | None):
    """What it costs at most leaves repairs out: a bill above it is not to come as a surprise."""
    spec = {"model": "gpt-5.4-mini", "prompt": {"user": "{{ text }}"}, "params": {"max_output_tokens": 60}}
    job = Job(
        **spec, input={}, endpoint={"auth": "none"}, output_schema={"type": "object"}, repair_attempts=repairs
    )
    table = pl.DataFrame({"text": ["a", "b"]})
    estimate = crun_batch.estimate(job, table=table, simulate=True, output_dir=tmp_path / "run")
    told = [note for note in estimate["variants"][0]["notes"] if "output_schema" in note]
    says = f"an answer that does not fit output_schema is sent back, at most {times}: that comes on top"
    assert ([] if times is None else [says]) == told


def test_a_repair_goes_on_with_the_conversation(at: SimulatorProcess, tmp_path: Path):
    """The prompt, the invalid answer, the complaint; asked for natively each time; never more than allowed."""
    at.change(malformed_rate=1.0, seed=1)
    wire = RecordingWire()
    done = run(job(at, tmp_path, output_schema=LABEL, repair_attempts=2), texts(1), wire=wire)
    first, second, third = wire.sent
    assert ["user"] == [message["role"] for message in first["messages"]]
    assert ["user", "assistant", "user"] == [message["role"] for message in second["messages"]]
    assert second["messages"] == third["messages"][:3]
    assert "This answer is not valid: " in third["messages"][-1]["content"]
    assert all(LABEL == sent["response_format"]["json_schema"]["schema"] for sent in wire.sent)
    assert ("invalid", 3) == results(done).select("status", "attempt_count").row(0)
    assert 1 == done.exit_code


def test_types_hold_where_every_row_failed(at: SimulatorProcess, tmp_path: Path):
    """Also for rows without any answer."""
    at.change(malformed_rate=0.0)
    table = texts(3).with_columns(text=pl.lit("[[fault:content_filter*99]]"))
    done = run(job(at, tmp_path, output_schema=EVERYTHING), table)
    rows = results(done)
    assert ["refused"] * 3 == rows["status"].to_list()
    assert pl.DataFrame(pa.table({"output": pa.array([], EVERY_TYPE)})).schema == rows.select("output").schema
    assert EVERY_TYPE == pa.parquet.read_schema(tmp_path / "run" / "results.parquet").field("output").type


def test_a_repair_that_fails_leaves_the_answer(at: SimulatorProcess, tmp_path: Path):
    """The invalid text was paid for: it stays, with the reason why no repair came."""
    at.change(malformed_rate=1.0, seed=1)
    wire = RecordingWire()
    table = pl.DataFrame({"id": ["r"], "text": ["Text"]})
    plain_post = wire.post

    async def post(url: str, headers: Any, body: bytes, seconds: float) -> Any:
        if b"This answer is not valid" in body:
            body = body.replace(b'"gpt-5.4"', b'"gpt-none"')
        return await plain_post(url, headers, body, seconds)

    wire.post = post  # type: ignore[method-assign]
    row = results(run(job(at, tmp_path, output_schema=LABEL), table, wire=wire)).to_dicts()[0]
    assert ("invalid", "not_found", 2) == (row["status"], row["error_kind"], row["attempt_count"])
    assert row["output_text"] and "gpt-5.4" == row["model"]


def test_a_stop_before_the_repair_asks_only_the_repair(at: SimulatorProcess, tmp_path: Path):
    """Stopped by the budget and resumed: the same results and the same bill as in one go."""
    at.change(malformed_rate=0.5, seed=2)
    whole = run(job(at, tmp_path / "whole", output_schema=LABEL), texts(30))
    one_by_one = {"limits": {"concurrency": 3}, "output_schema": LABEL}
    cap = {"budget": {"max_cost_credits": str(spent_credits(whole) / 2), "credits": "off"}}
    stopped = run(job(at, tmp_path, **one_by_one, **cap), texts(30), until_budget=True)
    assert (4, "stopped") == (stopped.exit_code, stopped.status)
    resumed = run(job(at, tmp_path, **one_by_one), texts(30))
    columns = ["id", "status", "output", "output_text", "attempt_count", "cost_credits", "request_hash"]
    assert results(whole).select(columns).equals(results(resumed).select(columns))
    assert spent_credits(whole) == spent_credits(resumed)
