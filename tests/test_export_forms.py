"""`export`: which rows, in which form; a file is whole or as it was; what was asked is what was sent."""

from __future__ import annotations

import csv
import io
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import run_kit

import crun_batch
from crun_batch.cli import commands as cli
from crun_batch.errors import DiskFailed, InputError
from crun_batch.simulator.process import SimulatorProcess
from crun_batch.store.disk import opened_for_people


@pytest.fixture(scope="module")
def gateway() -> Iterator[SimulatorProcess]:
    with run_kit.simulator() as process:
        yield process


@pytest.fixture(scope="module")
def done(gateway: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> crun_batch.Run:
    return run_kit.run(run_kit.job(gateway, tmp_path_factory.mktemp("run")), TEXTS)


TEXTS = run_kit.texts(6)


def exported(run: Any, format: Any, **choice: Any) -> bytes:
    stream = io.BytesIO()
    crun_batch.export(run, format, stream, **choice)
    return stream.getvalue()


def lines(run: Any, format: Any, **choice: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(run, format, **choice).splitlines()]


def test_a_predicate_statuses_and_columns_choose(done: crun_batch.Run) -> None:
    """The columns in their order; all of the conditions hold."""
    chosen = lines(done, "jsonl", where="id in ('r1', 'r4')", columns=["status", "id"], status=["ok"])
    assert [["status", "id"]] * 2 == [list(row) for row in chosen]
    assert {"r1", "r4"} == {row["id"] for row in chosen}
    assert [] == lines(done, "jsonl", status="error,refused")
    rows = list(csv.DictReader(io.StringIO(exported(done, "csv", where="id = 'r0'", columns="id").decode())))
    assert [{"id": "r0"}] == rows
    assert ["r2"] == [one["custom_id"] for one in lines(done, "openai-batch", where="id = 'r2'")]


@pytest.mark.parametrize("choice", [{}, {"where": "true"}, {"status": ["ok"]}])
def test_parquet_holds_the_results_with_their_types(
    done: crun_batch.Run, tmp_path: Path, choice: dict[str, Any]
) -> None:
    """Whatever chose the rows."""
    told = crun_batch.export(done, "parquet", tmp_path / "r.parquet", **choice)
    written = pl.read_parquet(tmp_path / "r.parquet")
    results = done.results().collect()
    assert ({"rows": 6, "left_out": 0}, results.schema) == (told, written.schema)
    assert results.sort("id").equals(written.sort("id"))


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        ({"where": "nothing = 1"}, "nothing"),
        ({"where": "true; drop table x"}, "where"),
        ({"where": "exists (select * from read_text('/etc/hostname'))"}, "where|chosen"),
        ({"where": "id::int > 3"}, "chosen"),
        ({"columns": "statuss"}, "did you mean 'status'"),
        ({"status": "okay"}, "no status 'okay'"),
    ],
)
def test_a_wrong_choice_is_told_and_writes_nothing(
    done: crun_batch.Run, tmp_path: Path, choice: dict[str, Any], word: str
) -> None:
    """Nor does a predicate read other files; what the file held stays."""
    target = tmp_path / "out.jsonl"
    target.write_text("before")
    with pytest.raises(InputError, match=word):
        crun_batch.export(done, "jsonl", target, **choice)
    assert ({"out.jsonl"}, "before") == ({path.name for path in tmp_path.iterdir()}, target.read_text())
    with pytest.raises(InputError, match="form of its own"):
        crun_batch.export(done, "chat-jsonl", target, columns="id")


def test_a_file_for_people_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """While it is written the old one is there; its rights stay, a link's target is replaced and not the link."""
    target, link = tmp_path / "a", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    with pytest.raises(DiskFailed), opened_for_people(link) as stream:
        stream.write(b"new")
        raise OSError("no more")
    assert (b"old", ["a", "link"]) == (target.read_bytes(), sorted(path.name for path in tmp_path.iterdir()))
    with opened_for_people(link) as stream:
        stream.write(b"new")
        assert b"old" == target.read_bytes()
    assert (b"new", True, 0o640) == (target.read_bytes(), link.is_symlink(), stat.S_IMODE(target.stat().st_mode))


KINDS: dict[str, dict[str, Any]] = {
    "chat": {"prompt": {"system": "Be brief.", "user": "{{ text }}"}},
    "responses": {"prompt": {"system": "Be brief.", "user": "{{ text }}"}, "endpoint": {"protocol": "responses"}},
    "messages": {"prompt": {"system": "Be brief.", "user": "{{ text }}"}, "endpoint": {"protocol": "messages"}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_for_fine_tuning_is_what_was_said(
    gateway: SimulatorProcess, tmp_path: Path, kind: str
) -> None:
    """In the form of chat whatever the protocol, in the order of the table; a changed row is left out, counted."""
    done = run_kit.run(run_kit.job(gateway, tmp_path, **KINDS[kind]), TEXTS)
    answers = dict(done.results().select("id", "output_text").collect().iter_rows())
    expected = [
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": answers[row_id]},
        ]
        for row_id, text in TEXTS.iter_rows()
    ]
    assert expected == [one["messages"] for one in lines(done, "chat-jsonl", table=TEXTS)]
    edited = TEXTS.with_columns(text=pl.when(pl.col("id") == "r3").then(pl.lit("x")).otherwise("text"))
    shorter = edited.filter(pl.col("id") != "r5")
    told = crun_batch.export(done, "chat-jsonl", io.BytesIO(), table=shorter)
    assert {"rows": 4, "left_out": 2} == told


def test_turns_stand_with_their_answers(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """A word of the user, an answer, the next word, the last answer."""
    done = run_kit.run(run_kit.job(gateway, tmp_path, prompt={"turns": ["{{ text }}", "And?"]}), TEXTS.head(1))
    [[first, second]] = done.results().collect()["outputs"].to_list()
    [told] = lines(done, "chat-jsonl", table=TEXTS.head(1))
    said = ["Text number 0.", first, "And?", second]
    assert said == [message["content"] for message in told["messages"]]


def test_requests_for_a_batch_file_are_the_bodies_that_were_sent(
    gateway: SimulatorProcess, tmp_path: Path
) -> None:
    """custom_id, method, url, body; unique names in a sweep."""
    wire = run_kit.RecordingWire()
    job = run_kit.job(gateway, tmp_path, sweep={"params.temperature": [0, 1]})
    done = run_kit.run(job, TEXTS, wire=wire)
    sent = [{key: one[key] for key in one if key not in ("url", "headers")} for one in wire.sent]
    told = lines(done, "openai-batch-requests", table=TEXTS)
    assert sorted(map(json.dumps, sent)) == sorted(json.dumps(one["body"]) for one in told)
    assert 12 == len({one["custom_id"] for one in told})
    assert {("POST", "/v1/chat/completions")} == {(one["method"], one["url"]) for one in told}


def test_a_page_runs_no_script(gateway: SimulatorProcess, tmp_path: Path) -> None:
    """Every cell is escaped text; a line for each row."""
    hostile = pl.DataFrame({"id": ["<script>alert(1)</script>", "b"], "text": ["x", "y"]})
    done = run_kit.run(run_kit.job(gateway, tmp_path), hostile)
    page = exported(done, "html").decode()
    assert "<script" not in page and "&lt;script&gt;" in page and "default-src 'none'" in page
    assert 2 == crun_batch.export(done, "html", tmp_path / "p.html")["rows"]


def test_the_command_takes_the_same(
    done: crun_batch.Run, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Where the table came from Python the forms that need it say so, with exit code 2."""
    place = str(done.directory)
    choice = ["--where", "id = 'r2'", "--columns", "id,status", "--status", "ok"]
    assert 0 == cli.main(["export", place, "--format", "jsonl", *choice])
    assert {"id": "r2", "status": "ok"} == json.loads(capfdbinary.readouterr().out)
    assert 2 == cli.main(["export", place, "--format", "chat-jsonl", "-o", str(tmp_path / "x")])
    assert "given from Python" in capfdbinary.readouterr().err.decode()
    assert [] == list(tmp_path.iterdir())
