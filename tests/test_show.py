"""One row: what is shown as its prompt is what was sent, and nothing in it steers a terminal."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit
from hypothesis import given, settings
from hypothesis import strategies as st

import crun_batch
from crun_batch.cli import commands as cli
from crun_batch.console.row_words import row_text
from crun_batch.console.words import display_width
from crun_batch.reporting.spoken import spoken
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.directory import open_directory, read_json, write_json

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


def _messages(text: str) -> str:
    return json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])


def _body(text: str) -> str:
    said = [{"role": "user", "content": text}]
    return json.dumps({"model": "gpt-5.4", "messages": said, "max_completion_tokens": 50})


PICTURE = {"type": "image", "image": f"data:image/png;base64,{PNG}"}
KINDS: dict[str, dict[str, Any]] = {
    "template": {},
    "messages": {"prompt": {"messages": [{"role": "user", "content": "Say: {{ text }}"}]}},
    "messages_column": {"prompt": {"messages_column": "chat"}},
    "body_column": {"prompt": {"body_column": "body"}, "model": None, "params": {}},
    "turns": {"prompt": {"turns": ["{{ text }}", "And then? {{ text }}"]}},
    "stateful": {
        "prompt": {"turns": ["{{ text }}", "Why?"], "stateful": True},
        "endpoint": {"protocol": "responses"},
    },
    "picture": {
        "prompt": {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "{{ text }}"}, PICTURE]}],
        }
    },
    "typed": {"output_schema": SCHEMA},
    "messages protocol": {"endpoint": {"protocol": "messages"}, "prompt": {"system": "s", "user": "{{ text }}"}},
    "completions": {"endpoint": {"protocol": "completions"}},
    "sweep and repeats": {"sweep": {"params.temperature": [0, 0.7]}, "repeats": 2},
}


def table(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"r{n}" for n in range(len(texts))],
            "text": texts,
            "chat": [_messages(text) for text in texts],
            "body": [_body(text) for text in texts],
        }
    )


def a_job(gateway: SimulatorProcess, folder: Path, kind: str) -> crun_batch.Job:
    keys = dict(KINDS[kind])
    if keys.get("model", "") is None:
        keys.pop("model")
        job = run_kit.job(gateway, folder).public_dict()
        kept = {name: job[name] for name in ("name", "input", "endpoint", "prices", "output")}
        return crun_batch.Job(**{**kept, **keys})
    return run_kit.job(gateway, folder, **keys)


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_that_is_shown_has_the_recorded_hash(
    gateway: SimulatorProcess, tmp_path: Path, kind: str
) -> None:
    """Of every attempt, for every kind of prompt; once a cell is another one, none of it is shown."""

    @settings(deadline=None, max_examples=2, derandomize=True, database=None)
    @given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=3))
    def law(texts: list[str]) -> None:
        folder = tmp_path / str(abs(hash(tuple(texts))))
        frame = table(texts)
        done = run_kit.run(a_job(gateway, folder, kind), frame)
        for row_id in frame["id"]:
            shown = crun_batch.show(done, row_id, table=frame, raw=True)
            attempts = [attempt for unit in shown["units"] for attempt in unit["attempts"]]
            assert attempts and None is shown["table"]
            assert [] == [one["not_shown"] for one in attempts if one["not_shown"]]
            assert all(one["messages"] and json.loads(one["request"]) for one in attempts)
        changed = table([text + "!" for text in texts])
        shown = crun_batch.show(done, "r0", table=changed)
        told = {attempt["not_shown"] for unit in shown["units"] for attempt in unit["attempts"]}
        assert {"the table has changed since"} == told

    law()


def test_what_is_shown_is_what_was_on_the_wire(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Byte for byte, turn by turn."""
    wire = run_kit.RecordingWire()
    frame = table(["one"])
    done = run_kit.run(a_job(gateway, tmp_path, "turns"), frame, wire=wire)
    [unit] = crun_batch.show(done, "r0", table=frame, raw=True)["units"]
    sent = [{key: value for key, value in one.items() if key not in ("url", "headers")} for one in wire.sent]
    assert sent == [json.loads(attempt["request"]) for attempt in unit["attempts"]]
    assert unit["outputs"] == [attempt["answer"] for attempt in unit["attempts"]]


def test_pictures_are_named_by_address_or_by_kind_and_size() -> None:
    """In the form of each protocol; their bytes never fill a terminal."""
    chat = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    anthropic = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    remote = {"type": "input_image", "image_url": "https://example.org/a.png"}
    parts = [{"type": "text", "text": "What?"}, chat, anthropic, remote]
    [message] = spoken({"messages": [{"role": "user", "content": parts}]})
    assert {
        "role": "user",
        "text": "What?",
        "attachments": ["image/png, 28 bytes", "image/png, 28 bytes", "https://example.org/a.png"],
    } == message


def test_an_unknown_id_says_so_with_ids_like_it(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Text and whole numbers; a word where ids are numbers."""
    frame = table(["a"] * 12)
    done = run_kit.run(a_job(gateway, tmp_path / "a", "template"), frame)
    with pytest.raises(crun_batch.InputError, match="no row 'r111'; near it are 'r11'"):
        crun_batch.show(done, "r111", table=frame)
    numbers = frame.with_columns(id=pl.arange(100, 112))
    counted = run_kit.run(a_job(gateway, tmp_path / "b", "template"), numbers)
    assert 105 == crun_batch.show(counted, "105", table=numbers)["id"]
    with pytest.raises(crun_batch.InputError, match="no row 113; near it are 111, 110"):
        crun_batch.show(counted, 113, table=numbers)
    with pytest.raises(crun_batch.InputError, match="whole numbers, such as 100"):
        crun_batch.show(counted, "r1", table=numbers)


def test_without_its_table_a_row_shows_what_is_recorded(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Why there is no prompt is said; answers, costs and times are there."""
    done = run_kit.run(a_job(gateway, tmp_path, "template"), table(["a"]))
    shown = crun_batch.show(done, "r0")
    assert "given from Python" in shown["table"]
    [unit] = shown["units"]
    [attempt] = unit["attempts"]
    assert (shown["table"], None) == (attempt["not_shown"], attempt["messages"])
    assert unit["output_text"] == attempt["answer"]
    assert "not shown" in row_text(shown, 80)


def test_what_is_recorded_is_shown_also_where_the_job_is_taken_no_more(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """A later version may refuse a key that an earlier one took: what is not shown says why."""
    path = run_kit.run(run_kit.job(gateway, tmp_path), table(["a"])).directory
    run = open_directory(path, started_at="2026-01-01T00:00:00Z")
    document = read_json(run.job)
    document["job"]["limits"] = {"a_key_that_went": 1}
    write_json(run, run.job, document)
    run.close()
    [unit] = crun_batch.show(path, "r0", raw=True)["units"]
    [attempt] = unit["attempts"]
    assert unit["output_text"] in json.loads(attempt["reply"])["choices"][0]["message"]["content"]
    assert "the job cannot be read any more" in attempt["not_shown"] and "a_key_that_went" in attempt["not_shown"]


def test_a_judge_is_shown_with_its_question_and_its_reason(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Its hash is checked as that of the prompt is."""
    grader = {"name": "good", "grader": "judge", "model": "gpt-5.4-mini", "params": {"max_output_tokens": 100}}
    frame = table(["a"])
    done = run_kit.run(run_kit.job(gateway, tmp_path, score=[grader]), frame)
    [unit] = crun_batch.show(done, "r0", table=frame)["units"]
    [judged] = [attempt for attempt in unit["attempts"] if attempt["judge"]]
    assert ("good", None, True) == (judged["judge"], judged["not_shown"], bool(judged["messages"]))
    assert {"good"} == set(unit["scores"]) and judged["reason"]


def test_a_row_without_a_request_of_its_own_shows_the_identical_one(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """It was sent in its place; nothing of the kind is said of a row that never had a request."""
    frame = table(["same", "same"])
    shared = run_kit.run(run_kit.job(gateway, tmp_path / "a", share_identical=True), frame)
    units = [crun_batch.show(shared, row_id, table=frame)["units"][0] for row_id in frame["id"]]
    [given] = [unit for unit in units if not unit["attempts"]]
    assert [{"role": "user", "text": "same", "attachments": []}] == given["prompt"]["messages"]
    given["prompt"], text = None, "the row has no prompt"
    assert "identical" not in row_text({"name": "x", "id": 1, "units": [{**given, "output_text": text}]}, 80)


HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\u202eb\x9b1m\x00 " + "long words " * 30 + "\n\x1b[31mred\n" + "漢" * 90


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_nothing_hostile_reaches_the_terminal(gateway: SimulatorProcess, tmp_path: Path, width: int) -> None:
    """In the prompt, the answer, the gateway's words, raw bodies, ids; no line is wider than the terminal."""
    frame = table([HOSTILE]).with_columns(id=pl.lit("id\x1b[2J"))
    done = run_kit.run(a_job(gateway, tmp_path, "template"), frame)
    shown = crun_batch.show(done, "id\x1b[2J", table=frame, raw=True)
    [unit] = shown["units"]
    [attempt] = unit["attempts"]
    for name in ("error_message", "answer", "reply", "error_kind"):
        attempt[name] = HOSTILE
    unit |= {"output_text": HOSTILE, "error_message": HOSTILE, "variant": HOSTILE, "tool_calls": HOSTILE}
    attempt["reason"] = None
    lines = row_text({**shown, "name": HOSTILE}, width).split("\n")
    assert [] == [line for line in lines if not line.isprintable() or display_width(line) > width]


@given(st.text(st.sampled_from("ab 漢é—\u0301"), max_size=120), st.integers(20, 60))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_a_text_in_any_script_fills_the_lines_and_overflows_none(text: str, width: int) -> None:
    """Wide characters count two, and only they: a dash in a line leaves it as long as another."""
    unit = {"variant": "v", "repeat": 0, "status": "ok", "cost_usd": None, "cost_credits": None, "prompt": None,
            "attempts": [], "scores": {}, "output_text": text}  # fmt: skip
    lines = row_text({"name": "n", "id": 1, "units": [unit]}, width).split("\n")
    assert [] == [line for line in lines if display_width(line) > width]
    dashed = row_text({"name": "n", "id": 1, "units": [{**unit, "output_text": "word — " * 40}]}, width)
    assert dashed.replace("—", "-") == row_text(
        {"name": "n", "id": 1, "units": [{**unit, "output_text": "word - " * 40}]}, width
    )


def test_the_command_shows_the_document(
    gateway: SimulatorProcess, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """From a file's table, at any place; --json is one document; an unknown id exits with 2."""
    table(["one", "two"]).write_parquet(tmp_path / "t.parquet")
    job = run_kit.job(gateway, tmp_path, input={"id": "id", "table": str(tmp_path / "t.parquet")})
    done = crun_batch.run(job, environ=run_kit.ENVIRON, handle_signals=False)
    assert 0 == cli.main(["show", str(done.directory), "r1"])
    said = capfdbinary.readouterr().out.decode()
    assert "user: two" in said and "law, row r1: 1 result" in said
    assert 0 == cli.main(["show", str(done.directory), "r1", "--json", "--raw"])
    document = json.loads(capfdbinary.readouterr().out)
    assert "two" in document["units"][0]["attempts"][0]["request"]
    assert 2 == cli.main(["show", str(done.directory), "r9"])
    assert "near it are" in capfdbinary.readouterr().err.decode()
